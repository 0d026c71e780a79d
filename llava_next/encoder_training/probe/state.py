"""What a run of the probe leaves behind: checkpoints, the best head, predictions and the result."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from encoder_training.probe.heads import HeadShape, ProbeHeads
from encoder_training.probe.training import Best, ProbeTraining, TrainingProgress
from run_kit.checkpoints import UNFINISHED_FOLDER, discard_unfinished, publish_checkpoint
from run_kit.files import replace_file, write_json
from run_kit.ranks import gather, rank_and_size

HEAD_FILE = "head.safetensors"
REPORT_NAME = "report_attentive_probe"
_FREE = frozenset((
    "output_dir", "data_root", "video_root", "feature_dir", "num_workers", "on_broken", "use_cpu",
    "save_report", "resume", "save_steps", "encode_batch", "model_name", "model_weight",
    "class_names", "cache_dir", "features", "clips_per_shard", "input_dir",
))  # fmt: skip
"""Settings that a continued run may change: none changes what is computed. Weights are compared by
their fingerprint."""


def save_checkpoint(folder: Path, training: ProbeTraining, about: Mapping[str, Any]) -> None:
    """Write a checkpoint and remove older ones; every rank must call it.

    Raises:
        OSError: on all ranks, if it could not be written.
    """
    progress = training.progress
    step = progress.epoch * training.steps_per_epoch + progress.step
    error = ""
    if rank_and_size()[0] == 0:
        unfinished = folder / UNFINISHED_FOLDER / f"checkpoint-{step}"
        try:
            discard_unfinished(folder)
            _save(unfinished / "heads.safetensors", training.heads.state_dict())
            _save(unfinished / "best.safetensors", training.best_head.state_dict())
            _save(unfinished / "optimiser.safetensors", training.optimiser.state())
            row = {**about, "progress": dataclasses.asdict(progress)}
            row["progress"]["best"] = None if progress.best is None else progress.best._asdict()
            write_json(unfinished / "state.json", row)
            publish_checkpoint(folder, step, 1)
        except OSError as failure:
            error = f"{unfinished}: {failure}"
    found = [text for text in gather(error) if text]
    if found:
        raise OSError(f"the checkpoint could not be written: {found[0]}; make room and run again")


def check_same_run(folder: Path, about: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another run than this one.

    Raises:
        ValueError: naming what differs.
    """
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    changes = _changes(state, json.loads(json.dumps(about)))
    if changes:
        raise ValueError(
            f"{folder} was made by another run than this one:\n  "
            + "\n  ".join(changes)
            + "\nUse the same settings and data, or another --output_dir"
        )


def load_checkpoint(folder: Path, training: ProbeTraining) -> None:
    """Continue from a checkpoint.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        training.heads.load_state_dict(load_file(folder / "heads.safetensors"))
        training.best_head.load_state_dict(load_file(folder / "best.safetensors"))
        training.optimiser.load_state(load_file(folder / "optimiser.safetensors"))
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{folder} must hold a checkpoint of this run: {error}") from error
    progress: dict[str, Any] = state["progress"]
    best = progress.pop("best")
    training.progress = TrainingProgress(**progress)
    if best is not None:
        value = float("nan") if best["score"] is None else best["score"]
        training.progress.best = Best(value, best["epoch"], best["probe"])


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for group in ("settings", "data", "encoder"):
        for key in dict.fromkeys((*before.get(group, {}), *now[group])):
            old, new = before.get(group, {}).get(key), now[group].get(key)
            if old != new and not (group == "settings" and key in _FREE):
                flag = f"--{key}" if group == "settings" else f"{key} of {group}"
                found.append(f"{flag}: {old} before, {new} now")
    return found


def save_head(path: Path, head: ProbeHeads, about: Mapping[str, Any]) -> None:
    """Write one head with its shape and where it comes from."""
    shape = {key: str(value) for key, value in dataclasses.asdict(head.shape).items()}
    content = {name: value[0] for name, value in head.state_dict().items()}
    _save(path, content, {**shape, "about": json.dumps(about)})


def load_head(path: Path) -> ProbeHeads:
    """Read a head that ``save_head`` wrote.

    Raises:
        ValueError: if the file holds none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, str] = cast("Any", file).metadata() or {}
        names = [item.name for item in dataclasses.fields(HeadShape)]
        heads = ProbeHeads(HeadShape(**{name: int(about[name]) for name in names}))
        heads.load_state_dict({name: value[None] for name, value in load_file(path).items()})
    except (KeyError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} must hold the head of a probe: {error}") from error
    return heads


def _save(path: Path, tensors: Mapping[str, Tensor], about: dict[str, str] | None = None) -> None:
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replace_file(path) as temporary:
        save_file(ready, temporary, metadata=about)


def prediction_rows(
    videos: Sequence[str], predictions: Tensor, labels: Tensor
) -> list[dict[str, Any]]:
    """Return a row for each scored clip: its labels and its five likeliest classes."""
    best = predictions.topk(min(5, predictions.shape[1]), dim=1)
    return [
        {
            "video": video,
            "labels": torch.nonzero(labels[row]).flatten().tolist(),
            "classes": best.indices[row].tolist(),
            "probabilities": [round(value, 5) for value in best.values[row].tolist()],
        }
        for row, video in enumerate(videos)
    ]


def append_report(folder: Path, weights: str, dataset: str, top1: float, patches: int) -> Path:
    """Append the published line, data set and top-1, to the report of an encoder.

    Args:
        folder: of reports.
        weights: path or name of the encoder, whose last part names the file.
        dataset: name of the data set.
        top1: percent.
        patches: K of codec input, which is part of the file's name; 0 for frames.

    Returns:
        The file.
    """
    name = Path(weights.rstrip("/")).name
    path = folder / f"{REPORT_NAME}_{name}{f'_{patches}' if patches else ''}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{dataset} {top1}\n")
    return path
