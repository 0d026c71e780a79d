"""Run the whole pipeline once: videos, codec assets, tiny model, training, evaluation, report.

Every step is a public command of the project, run as a user would run it. Its output goes to
``logs/`` in the output folder; the training also shows its steps. Start it through ``run.sh``,
which sets the environment up.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inputs import Material, made_material, user_material
from mixture import write_mixture
from report import write_report
from run_kit.pages.text import duration_text

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "Compressed_Video_Reader" / "tool"
SHOWN_TRAINING_LINES = 15
NUM_IMAGES = 8
SEQUENCE_LENGTH = 64


@dataclass(frozen=True)
class Scale:
    """The size of the assets and of the training: minutes on two cores."""

    square_size_px: int
    batch_size: int
    num_steps: int
    patch_size_px: int = 16


MADE_CLIPS = Scale(square_size_px=128, batch_size=8, num_steps=300)
USER_VIDEOS = Scale(square_size_px=192, batch_size=4, num_steps=200)
NUM_TRAINING_CLIPS, NUM_TEST_CLIPS = 128, 32


@dataclass
class Step:
    """One finished step, for the report."""

    name: str
    command: str
    seconds: float


@dataclass
class Run:
    """The output folder of one run, and the steps done so far."""

    folder: Path
    scale: Scale
    steps: list[Step] = field(default_factory=list)

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    def note(self, name: str, started: float, command: str = "") -> None:
        step = Step(name, command, time.monotonic() - started)
        self.steps.append(step)
        print(f"  done in {duration_text(step.seconds)}", flush=True)

    def command(
        self,
        name: str,
        arguments: Sequence[object],
        show: Callable[[str], bool] | None = None,
        **environment: str,
    ) -> None:
        """Run one command with its output in a log.

        Args:
            name: name of the step.
            arguments: words of the command.
            show: says which lines of the output are also printed.
            environment: further variables of the command.

        Raises:
            SystemExit: if the command fails; the end of its log is printed.
        """
        words = [str(word) for word in arguments]
        print(f"[{len(self.steps) + 1}] {name}", flush=True)
        started = time.monotonic()
        log = self.path("logs", f"{len(self.steps) + 1:02d}_{name.replace(' ', '_')}.log")
        with log.open("w", encoding="utf-8") as stream:
            process = subprocess.Popen(
                words,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                errors="replace",
            )
            for line in process.stdout or ():
                stream.write(line)
                if show is not None and show(line):
                    print(f"    {line.rstrip()}", flush=True)
        if process.wait() != 0:
            tail = log.read_text(encoding="utf-8").splitlines()[-25:]
            print("\n".join(tail), file=sys.stderr)
            raise SystemExit(
                f"error: step '{name}' failed with exit code {process.returncode}; "
                f"its whole output is in {log}"
            )
        shown = " ".join(words).replace(str(ROOT) + "/", "").replace(sys.executable, "python")
        self.note(name, started, shown)


def training_lines(num_steps: int) -> Callable[[str], bool]:
    """Return a filter for the trainer's table: its first header, and some of its lines."""
    every = max(1, num_steps // SHOWN_TRAINING_LINES)
    headers: list[str] = []

    def show(line: str) -> bool:
        step = re.match(r"\s*(\d+)/\d+\s", line)
        if step:
            return int(step[1]) in (1, num_steps) or int(step[1]) % every == 0
        if re.match(r"\s*step\s+epoch\s+loss", line):
            headers.append(line)
            return len(headers) == 1
        return False

    return show


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def prepare_material(run: Run, arguments: list[Path]) -> Material:
    """Return what the user named, or clips with known answers."""
    print("[1] read your videos" if arguments else "[1] make clips", flush=True)
    started = time.monotonic()
    if arguments:
        material = user_material(arguments)
    else:
        clips = ROOT / "outputs" / "quickstart_clips"
        material = made_material(clips, NUM_TRAINING_CLIPS, NUM_TEST_CLIPS)
    run.note("prepare videos", started)
    return material


def make_training_assets(run: Run, records: list[dict[str, Any]]) -> Path:
    """Stage 1 and stage 2 on the raw records; returns the codec JSONL."""
    raw = run.path("train_raw.json")
    raw.write_text(json.dumps(records, indent=1), encoding="utf-8")
    scale, codec = run.scale, run.path("train_codec.jsonl")
    run.command(
        "stage 1",
        [
            *(sys.executable, TOOLS / "stage1.py", "--dataset_path", raw),
            *("--out_root", run.path("stage1"), "--sequence_length", SEQUENCE_LENGTH),
            *("--keep_frames_equiv", NUM_IMAGES, "--square_size", scale.square_size_px),
            *("--patch_size", scale.patch_size_px, "--num_workers", os.cpu_count() or 1),
            *("--keep_first_full_frame", "--padding_policy", "zero"),
        ],
    )
    run.command(
        "stage 2",
        [
            *(sys.executable, TOOLS / "stage2.py", "--mode", "pack", "--input_dataset", raw),
            *("--out_jsonl", codec, "--visidx_root", run.path("stage1")),
            *("--out_image_root", run.path("stage2"), "--num_images", NUM_IMAGES),
            *("--square_size", scale.square_size_px, "--T", SEQUENCE_LENGTH),
            *("--patch", scale.patch_size_px, "--write_positions"),
            *("--num_workers", os.cpu_count() or 1, "--first_full"),
        ],
    )
    return codec


def make_evaluation_assets(run: Run, material: Material) -> Path:
    """Assets of the questions' videos, by the evaluation tool; returns their root."""
    listing = run.path("test_videos.jsonl")
    write_lines(
        listing,
        [{"video": video, "key": key} for video, key in material.keys.items()],
    )
    run.command(
        "evaluation assets",
        [
            *(sys.executable, TOOLS / "offline_precompute_llava_codec_assets.py"),
            *("--jsonl", listing, "--out_root", run.path("offline")),
            *("--seq_len_frames", SEQUENCE_LENGTH, "--num_images", NUM_IMAGES),
            *("--square_size", run.scale.square_size_px, "--patch_size", run.scale.patch_size_px),
            *("--num_workers", os.cpu_count() or 1),
        ],
    )
    return run.path("offline", "assets")


def train(run: Run, mixture: Path) -> Path:
    """Supervised fine-tuning of a tiny random model by the trainer that a cluster uses."""
    tiny, out = run.path("tiny"), run.path("model")
    patches_per_side = run.scale.square_size_px // run.scale.patch_size_px
    run.command(
        "tiny model",
        [
            *(sys.executable, "-m", "llava.model.tiny", "--out", tiny),
            *("--patches_per_side", patches_per_side),
        ],
    )
    run.command(
        "training",
        [
            *(sys.executable, "-m", "llava.train.train", "--use_cpu", "True"),
            *("--deepspeed", "scripts/zero2.json", "--model_name_or_path", tiny),
            *("--version", "qwen_1_5", "--data_path", mixture, "--output_dir", out),
            *("--mm_tunable_parts", "mm_vision_tower,mm_mlp_adapter,mm_language_model"),
            *("--per_device_train_batch_size", run.scale.batch_size),
            *("--max_steps", run.scale.num_steps, "--learning_rate", "2e-3"),
            *("--lr_scheduler_type", "cosine", "--warmup_ratio", "0.05", "--logging_steps", 1),
            *("--save_strategy", "no", "--report_to", "none", "--seed", 0),
        ],
        show=training_lines(run.scale.num_steps),
        OMP_NUM_THREADS="1",  # a tiny model: threads cost more than they give
    )
    return out


def evaluate(run: Run, model: Path, assets: Path, tasks: Sequence[str], video_input: str) -> Path:
    """Run lmms-eval on the local tasks, offline; returns the folder of its results."""
    out = run.path(f"eval_{video_input}")
    arguments = {
        "pretrained": model,
        "codec_root": assets,
        "video_input": video_input,
        "codec_miss": "error",
        "num_frames": NUM_IMAGES,
        "max_new_tokens": 64,
        "device": "cpu",
        "dtype": "float32",
    }
    run.command(
        f"evaluation on {video_input}",
        [
            *(sys.executable, "-m", "llava.eval.launch", "--model", "llava_ov_encoder"),
            *("--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())),
            *("--include_path", run.path("task"), "--tasks", ",".join(tasks)),
            *("--batch_size", 4),
            *("--log_samples", "--output_path", out),
        ],
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        HF_HOME=str(run.path("huggingface_cache")),
        LLAVA_CODEC_USE_OFFLINE="1",
        LLAVA_CODEC_NUM_IMAGES=str(NUM_IMAGES),
        LLAVA_CODEC_SEQ_LEN_FRAMES=str(SEQUENCE_LENGTH),
        LLAVA_CODEC_SQUARE_SIZE=str(run.scale.square_size_px),
        LLAVA_CODEC_PATCH_SIZE=str(run.scale.patch_size_px),
    )
    return out


def write_tasks(run: Run, questions: Sequence[dict[str, str]]) -> list[str]:
    """Write a local lmms-eval task for each kind of question; returns their names."""
    folder = run.path("task")
    folder.mkdir()
    source = Path(__file__).parent / "task"
    shutil.copy(source / "utils.py", folder)
    template = (source / "task.yaml.in").read_text(encoding="utf-8")
    kinds = list(dict.fromkeys(question["kind"] for question in questions))
    for kind in kinds:
        lines = folder / f"{kind}.jsonl"
        write_lines(lines, [question for question in questions if question["kind"] == kind])
        text = template.format(task=f"quickstart_{kind}", questions=lines)
        (folder / f"quickstart_{kind}.yaml").write_text(text, encoding="utf-8")
    return [f"quickstart_{kind}" for kind in kinds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "inputs",
        nargs="*",
        type=Path,
        metavar="VIDEO_OR_FOLDER_OR_JSON",
        help="videos, folders or training JSON to use instead of made clips",
    )
    inputs = [path.expanduser().resolve() for path in parser.parse_args().inputs]
    scale = USER_VIDEOS if inputs else MADE_CLIPS
    if os.environ.get("STEPS"):
        scale = Scale(**{**scale.__dict__, "num_steps": int(os.environ["STEPS"])})
    out = Path(os.environ.get("OUT") or ROOT / "outputs" / "quickstart").resolve()
    if out.exists() and not (out / "logs").is_dir() and any(out.iterdir()):
        raise SystemExit(f"error: {out} holds something else; set OUT= to a new folder")
    shutil.rmtree(out, ignore_errors=True)
    run = Run(out, scale)
    run.path("logs").mkdir(parents=True)
    started = time.monotonic()

    material = prepare_material(run, inputs)
    codec = make_training_assets(run, material.records)
    mixture = write_mixture(run.path("train.jsonl"), codec, material.records, NUM_IMAGES)
    model = train(run, mixture)
    assets = make_evaluation_assets(run, material)
    tasks = write_tasks(run, material.questions)
    results = [evaluate(run, model, assets, tasks, kind) for kind in ("codec", "frames")]
    print(write_report(run, material, assets, model, results, time.monotonic() - started))


if __name__ == "__main__":
    main()
