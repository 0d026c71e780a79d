"""Make the clips and what the arms show of them, with several processes; resumes where it ended."""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from llava.constants import IMAGE_PLACEHOLDER
from llava.eval.study.arms import ARMS, Shown, asset_config, show
from llava.eval.study.clips import Clip, Composer, Drawable, write_clip
from llava.eval.study.config import StudyConfig
from llava.eval.study.drawing import NUM_FRAMES, Sizes
from llava.eval.study.scenes import KINDS, Question, compose
from llava.eval.study.semi_real import compose_person
from llava.visual.batch import Normalisation, VisualSegment
from llava.visual.config import VisualConfig
from llava.visual.loading import load_mosaics
from run_kit.exits import say
from run_kit.files import replace_file
from run_kit.pages.text import duration_text

Pair = tuple[str, int]
"""An arm and a budget."""

PRICED_CLIPS = 32
MEASURED_CLIPS = 5


def training_pairs(config: StudyConfig, seed: int) -> list[Pair]:
    """Return by which arms and budgets a training clip is shown: first always by the lesson's."""
    rng = np.random.default_rng((9, seed))
    arms = [arm for arm in config.arms if not ARMS[arm].ablation]
    pairs = [(arm, budget) for arm in arms for budget in config.budgets]
    chosen = rng.choice(len(pairs), min(config.shows_per_clip, len(pairs)), replace=False)
    lesson = lesson_pair(config)
    return [lesson, *(pair for number in chosen if (pair := pairs[int(number)]) != lesson)]


def lesson_pair(config: StudyConfig) -> Pair:
    """Return the arm and budget of the first steps: the answers are always to be seen there."""
    return "oracle", min(config.budgets)


def test_pairs(config: StudyConfig) -> list[Pair]:
    """Return all arms at all budgets, ablations at the middle one alone."""
    return [
        (arm, budget)
        for arm in config.arms
        for budget in ([config.middle_budget] if ARMS[arm].ablation else config.budgets)
    ]


def _make(
    seed: int, pairs: Sequence[Pair], folder: Path, config: StudyConfig
) -> tuple[Clip, dict[Pair, Shown]]:
    """Make a clip and what arms show of it; arms that cannot read it are left out."""
    clip = _clip(config, folder, seed)
    able = [(arm, budget) for arm, budget in pairs if ARMS[arm].reads(clip)]
    return clip, {(arm, budget): show(clip, arm, budget, folder) for arm, budget in able}


def _clip(config: StudyConfig, folder: Path, seed: int) -> Clip:
    """Make a clip, or read it where it exists."""
    return write_clip(folder / "clips", seed, composer=_composer(config), sizes=config.sizes)


def _composer(config: StudyConfig) -> Composer:
    composer = compose_person if config.semi_real else compose
    return partial(_ask_only, composer=composer, kinds=config.kinds) if config.kinds else composer


def _ask_only(
    seed: int, sizes: Sizes, composer: Composer, kinds: Sequence[str]
) -> tuple[Drawable, list[Question], str]:
    """Compose a clip and keep its questions of some kinds."""
    scene, questions, camera = composer(seed, sizes)
    return scene, [question for question in questions if question.kind in kinds], camera


class TrainingSample(NamedTuple):
    """A training sample on its way from the process that makes it.

    Attributes:
        turns: the conversation: all questions of a clip.
        num_images: mosaics.
        is_lesson: whether it is the lesson's.
        patches: uint8 (P, 3 * p * p).
        rows: int16 (P, 3), positions (t, h, w).
    """

    turns: list[dict[str, str]]
    num_images: int
    is_lesson: bool
    patches: NDArray[np.uint8]
    rows: NDArray[np.int16]


@dataclass(frozen=True)
class TrainingSet:
    """All training samples, in memory.

    Attributes:
        conversations: conversations of each sample.
        num_images: mosaics of each sample.
        lesson: int (L,), the samples of the first steps.
        starts: int (N + 1,), where each sample's patches start.
        patches: uint8 (P, 3 * p * p) of all samples.
        rows: int16 (P, 3) of all samples.
        stamped: positions are written into the patches as well.
    """

    conversations: list[list[dict[str, str]]]
    num_images: list[int]
    lesson: NDArray[np.int64]
    starts: NDArray[np.int64]
    patches: NDArray[np.uint8]
    rows: NDArray[np.int16]
    stamped: bool = True

    def __len__(self) -> int:
        return len(self.conversations)

    def segment(self, index: int, visual: VisualConfig, *, mirrored: bool = False) -> VisualSegment:
        """Return what a sample shows, as ``load_shown`` gives it.

        Args:
            index: number of the sample.
            visual: how pixels become patches.
            mirrored: exchange left and right.
        """
        part = slice(int(self.starts[index]), int(self.starts[index + 1]))
        patches, rows = np.array(self.patches[part]), np.array(self.rows[part])
        if mirrored:
            side = visual.patch_size_px
            patches = patches.reshape(-1, 3, side, side)[..., ::-1].reshape(patches.shape)
            # Whole frames at half resolution: a cell shows two columns, named after the first.
            is_half = not (rows[:, 1:] % 2).any()
            last = visual.patches_per_side - (2 if is_half else 1)
            rows[:, 2] = last - rows[:, 2]
        segment = segment_of_bytes(patches, rows, self.num_images[index], visual)
        return stamp_positions(segment, visual) if self.stamped else segment


def segment_of_bytes(
    patches: NDArray[np.uint8], rows: NDArray[np.int16], num_images: int, visual: VisualConfig
) -> VisualSegment:
    """Return patches that were kept as bytes as a segment."""
    return VisualSegment(
        torch.from_numpy(np.ascontiguousarray(patches)),
        torch.from_numpy(rows.astype(np.int64)),
        (len(rows) // num_images,) * num_images,
        normalisation=Normalisation(visual.image_mean, visual.image_std),
    )


def stamp_positions(segment: VisualSegment, visual: VisualConfig) -> VisualSegment:
    """Write each patch's (t, h, w) over its first values as well, 60 of 588.

    The encoder reads positions from its rotary embedding alone, too, but a small one that is
    trained from scratch for minutes does so later where many kinds of question are asked. All arms
    get the stamp, and a shuffled time is shuffled in both places.
    """
    last = visual.patches_per_side - 1
    middle = torch.tensor([NUM_FRAMES - 1, last, last]) / 2
    segment = segment.normalised()
    patches = segment.patches.clone()
    patches[:, :60] = ((segment.positions - middle) / (0.6 * middle)).repeat(1, 20)
    return replace(segment, patches=patches)


def load_shown(shown: Shown, visual: VisualConfig, *, stamped: bool = True) -> VisualSegment:
    """Return what an arm shows of a clip, ready for the encoder."""
    segment = load_mosaics(shown.images, shown.positions, visual)
    return stamp_positions(segment, visual) if stamped else segment


def load_bytes(shown: Shown, sizes: Sizes) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Return what is shown as patches in bytes, uint8 (P, 3 * p * p), and rows, int16 (P, 3)."""
    visual = VisualConfig(patches_per_side=sizes.grid)
    segment = load_mosaics(shown.images, shown.positions, visual)
    return segment.patches.numpy(), segment.positions.numpy().astype(np.int16)


def _make_training(seed: int, config: StudyConfig) -> list[TrainingSample]:
    clip, shown = _make(seed, training_pairs(config, seed), config.out / "training", config)
    if not clip.questions:
        return []
    lesson = lesson_pair(config)
    samples: list[TrainingSample] = []
    for number, (pair, what) in enumerate(shown.items()):
        turns, arrays = _turns(clip, what, number), load_bytes(what, config.sizes)
        samples.append(TrainingSample(turns, len(what.images), pair == lesson, *arrays))
    return samples


def _turns(clip: Clip, shown: Shown, number: int) -> list[dict[str, str]]:
    """Return a conversation: all questions of a clip, in another order each time."""
    order = np.random.default_rng((10, clip.seed, number)).permutation(len(clip.questions))
    turns: list[dict[str, str]] = []
    for index in order:
        question = clip.questions[int(index)]
        turns.append({"from": "human", "value": KINDS[question.kind].text})
        turns.append({"from": "gpt", "value": question.answer})
    turns[0]["value"] = f"{IMAGE_PLACEHOLDER}\n" * len(shown.images) + turns[0]["value"]
    return turns


def make_training_data(config: StudyConfig) -> None:
    """Make the training clips, what is shown of them, and the three files of ``TrainingSet``."""
    folder = config.out / "training"
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    if (folder / "samples.json").exists():
        return
    work = partial(_make_training, config=config)
    made = _in_processes(work, config.training_seeds, config, "training clips")
    samples = [sample for clip in made for sample in clip]
    for name, arrays in (
        ("patches.npy", [sample.patches for sample in samples]),
        ("rows.npy", [sample.rows for sample in samples]),
    ):
        with replace_file(folder / name) as unfinished, unfinished.open("wb") as stream:
            np.save(stream, np.concatenate(arrays))
    with replace_file(folder / "samples.json") as unfinished:
        content = [(row.turns, row.num_images, row.is_lesson) for row in samples]
        unfinished.write_text(json.dumps(content), encoding="utf-8")


def read_training_data(config: StudyConfig) -> TrainingSet:
    """Read what ``make_training_data`` wrote; the arrays stay files that processes share."""
    folder = config.out / "training"
    content = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    counts = [num_images for _, num_images, _ in content]
    return TrainingSet(
        conversations=[turns for turns, _, _ in content],
        num_images=counts,
        lesson=np.flatnonzero([is_lesson for _, _, is_lesson in content]),
        starts=np.concatenate([[0], np.cumsum(counts)]) * config.sizes.cells,
        patches=np.load(folder / "patches.npy", mmap_mode="r", allow_pickle=False),
        rows=np.load(folder / "rows.npy", mmap_mode="r", allow_pickle=False),
        stamped=config.stamps_positions,
    )


def _make_test(seed: int, config: StudyConfig) -> tuple[Clip, dict[Pair, Shown]]:
    return _make(seed, test_pairs(config), config.out / "test", config)


def _find_prices(config: StudyConfig) -> None:
    """Keep the price of every arm whose clips share a budget, found on the first test clips."""
    sharing = [pair for pair in test_pairs(config) if ARMS[pair[0]].shares_budget]
    if not sharing:
        return
    folder = config.out / "test"
    seeds = config.test_seeds[:PRICED_CLIPS]
    videos = [_clip(config, folder, seed).path for seed in seeds]
    for arm, num_images in sharing:
        asset_config(ARMS[arm], num_images, config.sizes, folder, videos)


def make_test_data(config: StudyConfig) -> list[tuple[Clip, dict[Pair, Shown]]]:
    """Make the test clips, and what every arm shows of them at every budget."""
    (config.out / "test" / "clips").mkdir(parents=True, exist_ok=True)
    _find_prices(config)
    work = partial(_make_test, config=config)
    return list(_in_processes(work, config.test_seeds, config, "test clips"))


def measure_preparation(config: StudyConfig) -> dict[str, float]:
    """Return the processor seconds in which each arm prepares a clip at the middle budget.

    The median of a few H.264 clips. Kept once measured.
    """
    target = config.out / "preparation.json"
    if target.exists():
        return json.loads(target.read_text(encoding="utf-8"))
    budget = config.middle_budget
    seeds = [seed for seed in config.test_seeds if seed % 3 != 2][:MEASURED_CLIPS]
    clips = [_clip(config, config.out / "test", seed) for seed in seeds]
    costs: dict[str, float] = {}
    for arm in config.arms:
        if ARMS[arm].shares_budget:
            continue
        used: list[float] = []
        for clip in clips:
            with TemporaryDirectory() as folder:
                started = time.process_time()
                show(clip, arm, budget, Path(folder))
                used.append(time.process_time() - started)
        costs[arm] = float(np.median(used))
    with replace_file(target) as partial_file:
        partial_file.write_text(json.dumps(costs), encoding="utf-8")
    return costs


def _in_processes(work: Any, seeds: Sequence[int], config: StudyConfig, what: str) -> Iterator[Any]:
    """Yield the result for each seed, in order; say every few seconds how far it is."""
    started = last = time.monotonic()
    # Threads of a forked parent would leave locks behind: start the processes afresh.
    context = get_context("spawn")
    with ProcessPoolExecutor(config.num_workers, mp_context=context) as pool:
        for number, result in enumerate(pool.map(work, seeds, chunksize=8), 1):
            yield result
            if time.monotonic() - last > 10 or number == len(seeds):
                last = time.monotonic()
                say(f"  {number} of {len(seeds)} {what}, {duration_text(last - started)}")
