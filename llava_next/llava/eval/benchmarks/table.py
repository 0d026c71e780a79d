"""The benchmarks known by name: tasks of lmms-eval, data sets, and folders of their videos.

The one table that preparation, the evaluation command and the report share. Tasks, data sets and
cache folders are those of the installed lmms-eval's own task files; a test compares the two.
Any other task of lmms-eval works too, without a short name and without preparation.

Key rule of all benchmarks: a video's key is its path below ``video_root`` of its cache folder,
without suffix; ``/`` becomes ``__`` (``cv_reader.assets.evaluation_key``). So equal file names in
two folders of a benchmark stay apart, and in a flat folder the key is the file's stem.
"""

from dataclasses import dataclass
from pathlib import Path

PREPARE_SCRIPT = "scripts/precompute_codec_patch/preprocess_video_benchmark.sh"
"""Fetches the videos of a benchmark and makes their codec assets."""

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v"})
"""Suffixes, in lower case, of the files of a benchmark that are its videos; case is ignored."""

_RANDOM = "an answer without an option's letter is scored as a random choice by the task"
_MVBENCH = (
    "action_sequence",
    "moving_count",
    "action_prediction",
    "episodic_reasoning",
    "action_antonym",
    "action_count",
    "scene_transition",
    "object_shuffle",
    "object_existence",
    "fine_grained_pose",
    "unexpected_action",
    "moving_direction",
    "state_change",
    "object_interaction",
    "character_order",
    "action_localization",
    "counterfactual_inference",
    "fine_grained_action",
    "moving_attribute",
    "egocentric_navigation",
)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: short name, of the command line and of the ``<name>_offline`` folder.
        task: what lmms-eval calls it: a task or a group.
        sub_tasks: the tasks of a group; of a single task itself.
        dataset: id on the data hub.
        revision: branch of it that holds the videos.
        cache_folder: below ``HF_HOME``, where lmms-eval expects the videos; empty for images.
        video_root: below the cache folder; keys are relative to it.
        frame_folder_tasks: tasks whose visuals are folders of frames: shown as uniform frames, as
            there is no stream to read codec signals from.
        gated: whether the hub wants its terms accepted first.
        note: what to know of its scorer.
        variants: other tasks on the same videos.
    """

    name: str
    task: str
    dataset: str
    sub_tasks: tuple[str, ...] = ()
    revision: str = "main"
    cache_folder: str = ""
    video_root: str = ""
    frame_folder_tasks: tuple[str, ...] = ()
    gated: bool = False
    note: str = ""
    variants: tuple[str, ...] = ()

    @property
    def is_video(self) -> bool:
        """Return whether its visuals are videos."""
        return bool(self.cache_folder)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks that are scored, one by one."""
        return self.sub_tasks or (self.task,)

    def videos_folder(self, hf_home: Path) -> Path:
        """Return the folder that keys are relative to."""
        return hf_home / self.cache_folder / self.video_root

    def offline_folder(self, hf_home: Path) -> Path:
        """Return the folder of its listing and its assets."""
        return hf_home / f"{self.name}_offline"

    def assets_folder(self, hf_home: Path) -> Path:
        """Return the folder of its assets, the value of ``LLAVA_CODEC_OFFLINE_ROOT``."""
        return self.offline_folder(hf_home) / "assets"

    def listing(self, hf_home: Path) -> Path:
        """Return the path of the asset tool's input."""
        return self.offline_folder(hf_home) / f"{self.name}_videos.jsonl"


BENCHMARKS = (
    Benchmark(
        name="videomme",
        task="videomme",
        dataset="lmms-eval/Video-MME",
        cache_folder="videomme",
        video_root="data",
        variants=("videomme_w_subtitle", "videomme_long", "videomme_long_w_subtitle"),
    ),
    Benchmark(
        name="mvbench",
        task="mvbench",
        sub_tasks=tuple(f"mvbench_{name}" for name in _MVBENCH),
        dataset="OpenGVLab/MVBench",
        revision="video",
        cache_folder="mvbench_video",
        frame_folder_tasks=("mvbench_episodic_reasoning",),
    ),
    Benchmark(
        name="perceptiontest",
        task="perceptiontest_val_mc",
        dataset="lmms-eval/PerceptionTest_Val",
        cache_folder="perceptiontest_val",
        video_root="videos",
    ),
    Benchmark(
        name="nextqa",
        task="nextqa_mc_test",
        dataset="lmms-eval/NExTQA",
        cache_folder="nextqa",
        video_root="NExTVideo",
        note=_RANDOM,
    ),
    Benchmark(
        name="temporalbench",
        task="temporalbench_long_qa",
        dataset="microsoft/TemporalBench",
        cache_folder="temporalbench",
    ),
    Benchmark(
        name="video_mmmu",
        task="video_mmmu",
        sub_tasks=("video_mmmu_adaptation", "video_mmmu_comprehension", "video_mmmu_perception"),
        dataset="lmms-eval/VideoMMMU",
        cache_folder="video_mmmu",
        note="an empty answer to an open question is left out of the score by the task",
    ),
    Benchmark(
        name="tomato",
        task="tomato",
        dataset="lmms-eval/TOMATO",
        cache_folder="TOMATO",
        note=_RANDOM,
    ),
    Benchmark(
        name="longvideobench",
        task="longvideobench_val_v",
        dataset="longvideobench/LongVideoBench",
        cache_folder="datasets/longvideobench",
        video_root="videos",
        gated=True,
        note=_RANDOM,
    ),
    Benchmark(
        name="mlvu_dev",
        task="mlvu_dev",
        dataset="sy1998/MLVU_dev",
        cache_folder="mlvu",
        note="the score is the mean over the kinds of question, not over questions",
    ),
    Benchmark(name="ai2d", task="ai2d", dataset="lmms-lab-encoder/ai2d"),
    Benchmark(name="chartqa", task="chartqa", dataset="lmms-lab-encoder/ChartQA"),
    Benchmark(name="docvqa_val", task="docvqa_val", dataset="lmms-lab-encoder/DocVQA"),
    Benchmark(
        name="ocrbench",
        task="ocrbench",
        dataset="echo840/OCRBench",
        note="the task divides by its 1000 questions, also where fewer were asked",
    ),
)

VIDEO_BENCHMARKS = tuple(item for item in BENCHMARKS if item.is_video)


def find_benchmark(name: str) -> Benchmark | None:
    """Return the benchmark of a short name, task, task of a group or variant; None for others."""
    for item in BENCHMARKS:
        if name in (item.name, item.task, *item.sub_tasks, *item.variants):
            return item
    return None


def task_of(name: str) -> str:
    """Return lmms-eval's name of a task that may be given by its short name."""
    return next((item.task for item in BENCHMARKS if name == item.name), name)


def root_of_video(video: Path, hf_home: Path) -> Path | None:
    """Return the folder that a video's key is relative to; None outside all benchmarks."""
    folders = (item.videos_folder(hf_home) for item in VIDEO_BENCHMARKS)
    return next((folder for folder in folders if video.is_relative_to(folder)), None)
