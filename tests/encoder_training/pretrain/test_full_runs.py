"""Whole runs of some minutes: raw clips with codec patches, text images, numbers of a CPU."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn import functional

from encoder_training.pretrain.data.made import make_files
from encoder_training.pretrain.data.shard_set import open_set
from encoder_training.pretrain.data.write import main as write
from encoder_training.pretrain.settings import Settings
from encoder_training.pretrain.state import load_state
from encoder_training.pretrain.train import Pretraining, main
from run_kit.log import read_log
from support.pretrain_runs import assert_equal_checkpoints, flags
from support.ranks import end_all, finish, launcher, start, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MODULE = "encoder_training.pretrain.train"
STEPS = 140
PHRASES = (
    "rivers carry old stones", "seven green wooden tables", "clouds under the mountain",
    "a magic lamp burns", "write down every number", "NO ENTRY FOR CARS",
)  # fmt: skip


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets of images, of raw clips without codec patches, and of pictures of words."""
    folder = tmp_path_factory.mktemp("sets")
    make_files(folder / "files", images=48, clips=12, size_px=48, clip_frames=16)
    truth = (folder / "files" / "truth.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in truth]
    for kind, name, suffix in (("image", "images", "jpg"), ("video", "clips", "mp4")):
        lines = [
            {
                kind: f"files/{name}/{row['key']}.{suffix}",
                "labels": [(row["concept"] + n) % 48 for n in range(3)],
            }
            for row in rows
            if row["kind"] == kind
        ]
        _write_lines(folder / f"{name}.jsonl", lines)
        sizes = ["--patch_size", "8", "--size_px", "48", "--clip_frames", "16"]
        options = ["--kind", kind, "--num_centres", "48", "--bank", f"{kind}-truth"]
        options += [*sizes, "--num_frames", "4"] if kind == "video" else []
        assert write([str(folder / f"{name}.jsonl"), str(folder / kind), *options]) == 0
    _write_words(folder)
    return folder


def _write_words(folder: Path) -> None:
    """Write pictures of six phrases, at places of their own; labels are the numbers of words."""
    (folder / "words").mkdir()
    lines = []
    for number in range(60):
        phrase, random = number % len(PHRASES), np.random.default_rng(number)
        picture = Image.new("L", (64, 64), int(random.integers(190, 256)))
        place = tuple(random.integers(0, 3, 2).tolist())
        ink = int(random.integers(0, 60))
        ImageDraw.Draw(picture).text(place, PHRASES[phrase].replace(" ", "\n"), fill=ink)
        picture.save(folder / "words" / f"{number}.png")
        words = [4 * phrase + word for word in range(4)]
        lines.append({"image": f"words/{number}.png", "labels": words})
    _write_lines(folder / "words.jsonl", lines)
    options = ["--kind", "ocr", "--num_centres", str(4 * len(PHRASES)), "--bank", "words-1"]
    assert write([str(folder / "words.jsonl"), str(folder / "ocr"), *options]) == 0


def _settings(sets: Path, output_dir: Path, **changes: Any) -> dict[str, Any]:
    """Return settings of a run of a tiny encoder on images."""
    return {
        "output_dir": str(output_dir), "image_set": [str(sets / "image")], "size": "tiny",
        "patch_size": 8, "image_px": 48, "image_batch": 12, "max_steps": 40, "save_steps": 0,
        "logging_steps": 1, "use_cpu": True, "bf16": False, "labels_per_step": 3,
        "sample_rate": 0.5, "learning_rate": 2e-3, **changes,
    }  # fmt: skip


def _with_clips(sets: Path) -> dict[str, Any]:
    """Return the settings of stage 2: half of the clips become codec patches."""
    return {
        "video_set": [str(sets / "video")], "video_batch": 4, "video_px": 48, "clip_frames": 16,
        "num_frames": 4, "residual_ratio": 0.5, "frame_sampling_ratio": 0.25,
    }  # fmt: skip


def _assert_falls(run: Path, name: str, factor: float = 0.8) -> None:
    values = [row[name] for row in read_log(run)]
    assert all(np.isfinite(values)), name
    assert np.mean(values[-5:]) < factor * np.mean(values[:5]), (name, values)


def test_stage_2_on_raw_clips_killed_on_two_ranks_resumes_bit_equal(
    sets: Path, tmp_path: Path
) -> None:
    first, whole, killed = (tmp_path / name for name in ("stage1", "whole", "killed"))
    assert main(flags(_settings(sets, first, max_steps=4))) == 0
    changes = {"init": str(first / "final"), "max_steps": 8, "save_steps": 2, "image_batch": 4}
    stage2 = changes | _with_clips(sets)
    finish([*launcher(2, MODULE), *flags(_settings(sets, whole, **stage2))])

    command = [*launcher(2, MODULE), *flags(_settings(sets, killed, **stage2))]
    process = start(command)
    wait_for(process, lambda: (killed / "checkpoint-4" / "complete.json").is_file())
    end_all(process)
    assert not (killed / "final").exists() and len(read_log(killed)) < 8
    finish([*command, "--resume_from_checkpoint", "auto"])
    assert_equal_checkpoints(whole, killed, 8)
    names = ("step", "loss", "loss_image", "loss_video", "grad_norm")
    one, two = ([[row[name] for name in names] for row in read_log(run)] for run in (whole, killed))
    assert one == two and len(one) == 8

    run = Pretraining(Settings(**_settings(sets, tmp_path / "x", **stage2)), torch.device("cpu"))
    run.start_data()
    batch = next(run._batches["video"])
    assert batch.modes == ["codec", "codec", "chunk", "collage"]
    assert len(set(batch.positions[:144, 0].tolist())) > 4  # more slots than whole frames would


def test_images_and_text_images_train_two_heads(sets: Path, tmp_path: Path) -> None:
    text = {"ocr_set": [str(sets / "ocr")], "ocr_batch": 12, "ocr_px": 64, "ocr_loss_weight": 3.0}
    # The published margin and scale need more steps than this before anything is learned.
    quick = {"margin": 0.0, "scale": 16.0, "filter_above": 1.0, "sample_rate": 1.0}
    steps = {"max_steps": STEPS, "save_steps": STEPS, "schedule": "constant", "image_batch": 6}
    steps |= {"learning_rate": 1e-3, "warmup_ratio": 0.05}
    settings = _settings(sets, tmp_path / "run", **text, **quick, **steps)
    run = Pretraining(Settings(**settings), torch.device("cpu"))
    run.start_data()
    assert run.sets["ocr"].info.labels_per_sample == 4
    assert run.sets["image"].info.labels_per_sample == 3
    lines = (sets / "words.jsonl").read_text(encoding="utf-8").splitlines()
    for _ in range(8):
        batch = next(run._batches["ocr"])
        for key, labels in zip(batch.keys, batch.labels.tolist(), strict=True):
            assert labels == json.loads(lines[int(key.split("/")[-1])])["labels"]

    assert main(flags(settings)) == 0
    rows = read_log(tmp_path / "run")
    assert rows[-1]["loss"] == pytest.approx(rows[-1]["loss_image"] + 3 * rows[-1]["loss_ocr"])
    _assert_falls(tmp_path / "run", "loss_image", 0.9)
    _assert_falls(tmp_path / "run", "loss_ocr", 0.8)
    # The centres nearest to a picture are its words: by chance one in 10,000.
    load_state(tmp_path / "run" / f"checkpoint-{STEPS}", run.state)
    right = []
    for batch in open_set(
        sets / "ocr", view=run.settings.plain_view("ocr"), batch_size=32, num_epochs=1
    ).batches():
        cosines = run.embed(batch) @ functional.normalize(run.state.heads["ocr"].centres).T
        nearest = cosines.topk(4).indices.sort().values
        right += (nearest == batch.labels.sort().values).all(dim=1).tolist()
    assert len(right) == 60 and np.mean(right) > 0.8


@pytest.mark.parametrize(
    "changes",
    [
        {"bf16": True},
        {"compile": True},
        {"compile": True, "bf16": True, "gradient_checkpointing": True},
        {"bf16": True, "max_image_px": 80},
    ],
    ids=["bf16", "compiled", "compiled bf16", "any shape and size"],
)
def test_runs_end_with_a_lower_loss_in(changes: dict[str, Any], sets: Path, tmp_path: Path) -> None:
    settings = _settings(sets, tmp_path, **_with_clips(sets), **changes)
    assert main(flags(settings)) == 0
    for name in ("loss_image", "loss_video"):
        _assert_falls(tmp_path, name, 0.9)
    weights = torch.stack([torch.as_tensor(row["grad_norm"]) for row in read_log(tmp_path)])
    assert weights.isfinite().all() and (tmp_path / "final" / "model.safetensors").is_file()
