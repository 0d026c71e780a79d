"""What a checkpoint of pretraining holds, as safetensors and JSON.

    checkpoint-1000/
        encoder/                         config.json and model.safetensors: loads by itself
        encoder_optimizer.safetensors    moments of AdamW, by the names of the weights
        encoder_average.safetensors      moving average of the weights, if there is one
        centres_image_00002_of_00008.safetensors   a rank's centres and their moments
        random_00002_of_00008.safetensors          a rank's random state
        state.json                       step, data positions, settings, versions
        complete.json                    written last

Centres are read row by row from whichever files hold them: a run may continue on another number of
ranks. No file is a pickle.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from encoder_training.pretrain.objective import CentreHead
from onevision_encoder import OneVisionEncoderModel
from run_kit.checkpoints import UNFINISHED_FOLDER, discard_unfinished, publish_checkpoint
from run_kit.files import replace_file, write_json
from run_kit.ranks import gather, rank_and_size

STATE_FILE = "state.json"
ENCODER_FOLDER = "encoder"
_OPTIMIZER_FILE = "encoder_optimizer.safetensors"
_AVERAGE_FILE = "encoder_average.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_SHARD_NAME = re.compile(r"centres_([a-z]+)_(\d+)_of_(\d+)\.safetensors")


@dataclass(kw_only=True)
class TrainingState:
    """All that a step changes.

    Attributes:
        encoder: the model, in float32.
        heads: centres of each kind of data.
        optimizer: AdamW of the encoder and of all centres.
        average: moving average of the encoder's weights, by name; empty without one.
        step: steps done.
        positions: state of each set of data.
    """

    encoder: OneVisionEncoderModel
    heads: Mapping[str, CentreHead]
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    positions: dict[str, dict[str, int]] = field(default_factory=dict)


def save_state(output_dir: Path, state: TrainingState, about: Mapping[str, Any], keep: int) -> None:
    """Write a checkpoint; every rank must call it.

    Args:
        output_dir: folder of the run, which all ranks share.
        state: what to write.
        about: JSON values to keep next to it.
        keep: complete checkpoints to keep.

    Raises:
        OSError: on all ranks, if one could not write; earlier checkpoints are unchanged.
    """
    rank, size = rank_and_size()
    folder = output_dir / UNFINISHED_FOLDER / f"checkpoint-{state.step}"
    if rank == 0:
        discard_unfinished(output_dir)
    gather(None)
    error = ""
    try:
        _save_shards(folder, state, rank, size)
        if rank == 0:
            _save_shared(folder, state, about, size)
    except OSError as failure:
        error = f"{folder}: {failure}"
    errors = [text for text in gather(error) if text]
    if errors:
        raise OSError(f"the checkpoint could not be written: {errors[0]}; make room and resume")
    if rank == 0:
        publish_checkpoint(output_dir, state.step, keep)
    gather(None)


def _save_shards(folder: Path, state: TrainingState, rank: int, size: int) -> None:
    for name, head in state.heads.items():
        moments = state.optimizer.state.get(head.centres, {})
        tensors = {"centres": head.centres.detach()}
        tensors |= {moment: moments[moment] for moment in _MOMENTS if moment in moments}
        place = {"first": str(head.first), "num_centres": str(head.num_centres)}
        path = folder / f"centres_{name}_{rank:05d}_of_{size:05d}.safetensors"
        _save(path, tensors, place)
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    _save(folder / f"random_{rank:05d}_of_{size:05d}.safetensors", random)


def _save_shared(folder: Path, state: TrainingState, about: Mapping[str, Any], size: int) -> None:
    state.encoder.config.save_pretrained(folder / ENCODER_FOLDER)
    weights = folder / ENCODER_FOLDER / "model.safetensors"
    _save(weights, state.encoder.state_dict(), {"format": "pt"})
    names: dict[Tensor, str] = {weight: name for name, weight in state.encoder.named_parameters()}
    moments = {
        f"{names[parameter]}.{moment}": values[moment]
        for parameter, values in state.optimizer.state.items()
        if parameter in names
        for moment in _MOMENTS
    }
    _save(folder / _OPTIMIZER_FILE, moments)
    if state.average:
        _save(folder / _AVERAGE_FILE, state.average)
    row = {"step": state.step, "positions": state.positions, "num_ranks": size, **about}
    write_json(folder / STATE_FILE, row)


def _save(path: Path, tensors: Mapping[str, Tensor], about: dict[str, str] | None = None) -> None:
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replace_file(path) as temporary:
        save_file(ready, temporary, metadata=about)


def read_about(folder: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's ``state.json``."""
    return json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))


def load_state(folder: Path, state: TrainingState) -> None:
    """Fill a state that was built with the settings of the checkpoint.

    Args:
        folder: the checkpoint, of any number of ranks.
        state: what to fill.

    Raises:
        ValueError: if weights, centres or moments are of other names or shapes.
    """
    about = read_about(folder)
    state.step, state.positions = about["step"], about["positions"]
    weights = load_file(folder / ENCODER_FOLDER / "model.safetensors")
    try:
        state.encoder.load_state_dict(weights)
        moments = load_file(folder / _OPTIMIZER_FILE)
        for name, parameter in state.encoder.named_parameters():
            found = {moment: moments[f"{name}.{moment}"] for moment in _MOMENTS}
            _set_moments(state.optimizer, parameter, found, state.step)
        if state.average:
            average = load_file(folder / _AVERAGE_FILE)
            for name, tensor in state.average.items():
                tensor.copy_(average[name])
    except (RuntimeError, KeyError, FileNotFoundError) as error:
        raise ValueError(f"{folder} must hold this encoder and its optimiser: {error}") from error
    for name, head in state.heads.items():
        found = load_centres(folder, name, head, with_moments=True)
        _set_moments(state.optimizer, head.centres, found, state.step)
    _load_random(folder)


def load_centres(
    folder: Path, name: str, head: CentreHead, *, with_moments: bool = False
) -> dict[str, Tensor]:
    """Fill a head's shard from a checkpoint of any number of ranks.

    Args:
        folder: the checkpoint.
        name: name of the head.
        head: whose rows to read.
        with_moments: whether to read the optimiser's moments as well.

    Returns:
        The moments by name; none without ``with_moments``.

    Raises:
        ValueError: if rows are missing, or the bank has another size.
    """
    names = ("centres", *(_MOMENTS if with_moments else ()))
    rows: dict[str, list[Tensor]] = {part: [] for part in names}
    reached = head.first
    for path in _shard_files(folder, name):
        with safe_open(path, framework="pt") as file:
            content = cast("Any", file)
            about: dict[str, str] = content.metadata()
            first, total = int(about["first"]), int(about["num_centres"])
            if total != head.num_centres:
                raise ValueError(
                    f"{path} must have the {head.num_centres} centres of the data's bank, "
                    f"got {total}"
                )
            end = first + content.get_slice("centres").get_shape()[0]
            start, stop = max(first, head.first), min(end, head.end)
            if start >= stop or start != reached:
                continue
            for part in names:
                rows[part].append(content.get_slice(part)[start - first : stop - first])
            reached = stop
    if reached != head.end:
        raise ValueError(
            f"{folder} must hold the centres [{head.first}, {head.end}) of the head {name}, "
            f"got them up to {reached}; copy the files of all ranks to it"
        )
    joined = {
        part: torch.cat(parts) if parts else torch.zeros_like(head.centres)
        for part, parts in rows.items()
    }
    if joined["centres"].shape != head.centres.shape:
        raise ValueError(
            f"{folder}: centres of the head {name} must have the shape "
            f"{tuple(head.centres.shape)}, got {tuple(joined['centres'].shape)}"
        )
    with torch.no_grad():
        head.centres.copy_(joined.pop("centres"))
    return joined


def _shard_files(folder: Path, name: str) -> list[Path]:
    found = [(path, _SHARD_NAME.fullmatch(path.name)) for path in folder.glob("centres_*")]
    return sorted(path for path, match in found if match and match.group(1) == name)


def _set_moments(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, found: dict[str, Tensor], step: int
) -> None:
    for moment, values in found.items():
        if values.shape != parameter.shape:
            raise ValueError(
                f"{moment} must have the shape {tuple(parameter.shape)}, got {tuple(values.shape)}"
            )
    is_fused = optimizer.defaults.get("fused", False)
    device = parameter.device if is_fused else torch.device("cpu")
    optimizer.state[parameter] = {
        "step": torch.tensor(float(step), dtype=torch.float32, device=device),
        **{moment: values.to(parameter) for moment, values in found.items()},
    }


def _load_random(folder: Path) -> None:
    """Restore this rank's random state; on another number of ranks there is none to restore."""
    rank, size = rank_and_size()
    path = folder / f"random_{rank:05d}_of_{size:05d}.safetensors"
    if path.is_file():
        random = load_file(path)
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"])
