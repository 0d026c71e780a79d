"""Tiny pretraining runs on made data, and what ranks compute in them."""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from encoder_training.pretrain.data.made import write_made_set
from encoder_training.pretrain.data.samples import empty_batch
from encoder_training.pretrain.objective import CentreHead, Objective
from encoder_training.pretrain.settings import Settings
from encoder_training.pretrain.state import TrainingState, load_state, save_state
from encoder_training.pretrain.train import Pretraining, main
from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel

IMAGE_CENTRES, VIDEO_CENTRES = 21, 13


def make_sets(folder: Path) -> None:
    """Write a set of 20 images and one of 6 short clips."""
    write_made_set(
        folder / "images", "image", num_samples=20, num_centres=IMAGE_CENTRES, labels_per_sample=3,
        size_px=32, samples_per_shard=8,
    )  # fmt: skip
    write_made_set(
        folder / "videos", "video", num_samples=6, num_centres=VIDEO_CENTRES, labels_per_sample=3,
        size_px=32, clip_frames=4, patch_size=16,
    )  # fmt: skip


def tiny_settings(sets: Path, output_dir: Path, **changes: Any) -> dict[str, Any]:
    """Return settings of a run of four steps on images."""
    return {
        "output_dir": str(output_dir), "image_set": [str(sets / "images")], "size": "tiny",
        "patch_size": 16, "image_px": 32, "image_batch": 4, "max_steps": 4, "save_steps": 2,
        "logging_steps": 1, "use_cpu": True, "bf16": False, "labels_per_step": 2,
        "sample_rate": 0.5, **changes,
    }  # fmt: skip


def with_videos(sets: Path) -> dict[str, Any]:
    """Return the settings that add videos to a tiny run."""
    return {
        "video_set": [str(sets / "videos")], "video_batch": 2, "video_px": 32, "clip_frames": 4,
        "num_frames": 2, "residual_ratio": 0.0, "frame_sampling_ratio": 0.5,
    }  # fmt: skip


def flags(settings: dict[str, Any]) -> list[str]:
    """Return settings as arguments of the command."""
    words: list[str] = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *map(str, values)]
    return words


def encoder_weights(output_dir: Path, step: int) -> dict[str, Tensor]:
    """Return the encoder's weights in a checkpoint."""
    return load_file(output_dir / f"checkpoint-{step}" / "encoder" / "model.safetensors")


def run_command(rank: int, arguments: list[str], num_ranks: int = 1) -> int:
    """Run the command as one of several ranks whose group exists."""
    os.environ.pop("RANK", None)
    return main(arguments)


def micro_step_gradients(
    rank: int, settings: dict[str, Any], kinds: list[list[str]], syncs: bool
) -> tuple[dict[str, float], list[Tensor], list[Tensor]]:
    """Do one micro-step in which a rank has the batches of some kinds only.

    Returns:
        Loss of each head, and gradients of the encoder and of this rank's centres.
    """
    run = Pretraining(Settings(**settings), torch.device("cpu"))
    run.start_data()
    batches = [
        next(run._batches[kind])
        if kind in kinds[rank]
        else empty_batch(kind, run.settings.patch_size, data.info.labels_per_sample)
        for kind, data in run.sets.items()
    ]
    losses, _ = run._micro_step(batches, 0, syncs)
    encoder = [p.grad.clone() for p in run.state.encoder.parameters() if p.grad is not None]
    heads = [head.centres.grad for head in run.state.heads.values()]
    centres = [gradient.clone() for gradient in heads if gradient is not None]
    return {kind: float(loss) for kind, loss in losses.items()}, encoder, centres


def _numbered_state() -> TrainingState:
    """Return a state whose rows say which row of the bank they are."""
    config = OneVisionEncoderConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1,
        patch_size=4, image_size=8,
    )  # fmt: skip
    encoder = OneVisionEncoderModel(config)
    head = CentreHead("image", IMAGE_CENTRES, 32, Objective())
    optimizer = torch.optim.AdamW([*encoder.parameters(), head.centres])
    for parameter in encoder.parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(7.0),
            "exp_avg": torch.full_like(parameter, 0.5),
            "exp_avg_sq": torch.full_like(parameter, 0.25),
        }
    numbers = torch.arange(head.first, head.end, dtype=torch.float32)[:, None].expand(-1, 32)
    with torch.no_grad():
        head.centres.copy_(numbers)
    optimizer.state[head.centres] = {
        "step": torch.tensor(7.0), "exp_avg": numbers + 0.25, "exp_avg_sq": numbers + 0.5
    }  # fmt: skip
    state = TrainingState(encoder=encoder, heads={"image": head}, optimizer=optimizer, step=7)
    state.positions = {"image": {"position": 56}}
    return state


def save_numbered(rank: int, folder: Path) -> None:
    """Save a state on the ranks of the group."""
    save_state(folder, _numbered_state(), {"settings": {}}, keep=1)


def load_numbered(rank: int, folder: Path) -> tuple[int, int, list[Tensor], int, dict[str, Any]]:
    """Load it on another number of ranks; return bounds, rows, step and positions."""
    state = _numbered_state()
    head = state.heads["image"]
    with torch.no_grad():
        head.centres.zero_()
    state.optimizer.state.clear()
    state.step, state.positions = 0, {}
    load_state(folder / "checkpoint-7", state)
    found = state.optimizer.state[head.centres]
    rows = [head.centres.detach().clone(), found["exp_avg"], found["exp_avg_sq"]]
    return head.first, head.end, rows, state.step, state.positions


def assert_equal_checkpoints(one: Path, two: Path, step: int) -> None:
    """Compare the weights, centres and moments of two runs bit by bit."""
    names = sorted(path.name for path in (one / f"checkpoint-{step}").glob("*.safetensors"))
    assert names == sorted(p.name for p in (two / f"checkpoint-{step}").glob("*.safetensors"))
    for name in [*names, "encoder/model.safetensors"]:
        first = load_file(one / f"checkpoint-{step}" / name)
        second = load_file(two / f"checkpoint-{step}" / name)
        assert all(torch.equal(first[key], second[key]) for key in first), name


def moments(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Return the optimizer's moments of the encoder in a checkpoint."""
    return load_file(folder / f"checkpoint-{step}" / "encoder_optimizer.safetensors")


def largest_difference(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of moments, as a part of the largest moment of each weight."""
    return max(float((one[k] - two[k]).abs().max() / one[k].abs().max()) for k in one)
