"""Made data sets and tiny encoders for the attentive probe."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from encoder_training.pretrain.data.made import ENCODER_OPTIONS
from encoder_training.probe.__main__ import Probing, run_probe
from encoder_training.probe.material import label_table
from encoder_training.probe.settings import ProbeSettings
from encoder_training.probe.training import Labelled
from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel
from run_kit.clips import encode_clip

SIDE_PX, FRAMES = 32, 16


def make_clips(folder: Path, *, train: int = 24, val: int = 7, classes: int = 3) -> None:
    """Write clips of a square over a coloured ground, and the lists of a data set."""
    for role, count in (("train", train), ("val", val)):
        lines = []
        for number in range(count):
            label = number % classes
            random = np.random.default_rng([count, number])
            name = f"class{label}/{role}{number:03d}.mp4"
            encode_clip(folder / name, _frames(label, random), options=ENCODER_OPTIONS)
            lines.append(f"{name},{label}\n")
        (folder / f"{role}_new.csv").write_text("".join(lines), encoding="utf-8")


def _frames(label: int, random: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """Draw a square that moves over a ground in the colour of its class."""
    ground = np.full((SIDE_PX, SIDE_PX, 3), 60.0)
    ground[..., label % 3] += 120
    left, top = random.integers(0, SIDE_PX - FRAMES, 2)
    for step in range(FRAMES):
        picture = ground + random.normal(0, 12, ground.shape)
        picture[top : top + 8, left + step : left + step + 8] = 230
        yield picture.clip(0, 255).astype(np.uint8)


def make_encoder(folder: Path) -> None:
    """Write an encoder of one block with random weights, for patches of 16 pixels."""
    torch.manual_seed(0)
    config = OneVisionEncoderConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        patch_size=16, image_size=SIDE_PX, use_head=False,
    )  # fmt: skip
    OneVisionEncoderModel(config).save_pretrained(folder)


def probe_settings(folder: Path, output_dir: Path, **changes: Any) -> dict[str, Any]:
    """Return settings of a short probe on ``make_clips`` and ``make_encoder``."""
    return {
        "dataset": "custom", "train_list": str(folder / "train_new.csv"),
        "val_list": str(folder / "val_new.csv"), "video_root": str(folder),
        "model_weight": str(folder / "encoder"), "output_dir": str(output_dir), "use_cpu": True,
        "bf16": False, "num_workers": 0, "input": "frames:4", "frames_token_num": 4,
        "feature_dtype": "float32", "clips_per_shard": 4, "batch_size": 4, "default_epoch": 6,
        "default_lr_list": [1e-3, 3e-3], "choice_share": 0.2, "encode_batch": 3, **changes,
    }  # fmt: skip


def score_on_rank(rank: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Run a probe as one rank, and predict with a head that is the same on any number of ranks."""
    torch.set_num_threads(1)
    result = run_probe(ProbeSettings(**settings))
    # Chunks of one size, so that only the number of ranks differs.
    same = settings | {"batch_size": 2, "output_dir": settings["output_dir"] + "-same"}
    probe = Probing(ProbeSettings(**same), torch.device("cpu"))
    probe.encode()
    training = probe.training({})
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in training.best_head.parameters():
            value += 0.1 * torch.randn(value.shape, generator=random)
    labels = label_table(probe.material.val, probe.material.num_classes)
    data = Labelled(probe.sources["val"], labels, list(range(len(labels))), probe.val_views)
    indices, predictions = training.predict(training.best_head, data)
    return {
        "indices": indices, "predictions": predictions, "score": result["score"],
        "losses": [row["loss"] for row in result["history"]],
    }  # fmt: skip
