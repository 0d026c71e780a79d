"""``run_config.json``: what a run is made of, and whether a resumed run is still the same one.

The file holds every resolved setting, a fingerprint of the data, versions, the state of the code,
and one entry per start. A run resumes only with the data and settings that its checkpoint was made
with, unless the user allows changes; what cannot change a result (folders, logging, workers) may
always differ.
"""

import dataclasses
import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from llava.data.mixture import Mixture
from llava.data.streamed import StreamedEntries
from llava.train.arguments import Arguments
from run_kit.checkpoints import MARKER_FILE
from run_kit.files import write_json
from run_kit.log import CONFIG_FILE, read_run_config
from run_kit.versions import code_state, package_versions

_PACKAGES = (
    "torch", "transformers", "accelerate", "deepspeed", "peft", "bitsandbytes", "flash-attn",
    "safetensors", "numpy", "pillow", "av", "onevision-encoder", "cv-reader-native",
)  # fmt: skip
_COMPARED = ("model", "data", "training", "deepspeed_settings", "world_size")
_FREE = frozenset((
    "data_path", "streaming", "shuffle_buffer", "image_folder", "video_folder", "on_bad_sample",
    "max_bad_fraction", "video_time_limit_seconds",
    "lengths_file", "output_dir", "deepspeed", "resume_from_checkpoint", "resume_with_changes",
    "eval_data_path", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "do_eval",
    "per_device_eval_batch_size",
    "peak_tflops", "local_rank", "disable_tqdm", "logging_strategy", "logging_steps",
    "logging_first_step", "log_on_each_node", "logging_nan_inf_filter", "log_level",
    "log_level_replica", "report_to", "picture_steps", "run_name", "project", "trackio_space_id",
    "trackio_bucket_id", "trackio_static_space_id", "save_strategy", "save_steps",
    "save_on_each_node", "save_only_model", "save_total_limit", "dataloader_num_workers",
    "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context", "ddp_timeout", "include_num_input_tokens_seen",
    "skip_memory_metrics", "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id",
    "hub_strategy", "hub_always_push", "hub_revision",
))  # fmt: skip
"""Settings that a resumed run may change: none of them changes what is computed.

The paths of the data may change as well: its fingerprint says whether it is the same, and how
streams are read.
"""


class ChangedRunError(ValueError):
    """A run would resume with other data or settings than those of its checkpoint."""


def describe_run(
    arguments: Arguments,
    entries: Mixture | StreamedEntries,
    *,
    trainable: dict[str, int],
    world_size: int,
) -> dict[str, Any]:
    """Return all that the results of a run depend on, as plain JSON values.

    Args:
        arguments: resolved settings.
        entries: entries of the data.
        trainable: number of tuned parameters of each part.
        world_size: number of ranks.
    """
    model_args, data_args, training_args = arguments
    sharding = training_args.deepspeed
    description = {
        "model": dataclasses.asdict(model_args),
        "data": dataclasses.asdict(data_args),
        "training": training_args.to_dict(),
        "deepspeed_settings": _read_json(Path(sharding)) if isinstance(sharding, str) else sharding,
        "data_fingerprint": fingerprint(entries),
        "trainable_parameters": trainable,
        "world_size": world_size,
        "versions": {"python": platform.python_version(), **package_versions(_PACKAGES)},
        "code": code_state(Path(__file__).parent),
        "device": _device_name(training_args.device),
    }
    return json.loads(json.dumps(description, sort_keys=True, default=str))


def fingerprint(entries: Mixture | StreamedEntries) -> dict[str, Any]:
    """Return the files of the data and what is taken from them; ``digest`` ignores their paths.

    A file counts as the same when its size, its time of change, its first and last 64 KB, the
    number of its entries and the rule by which they are taken are.
    """
    datasets = entries.describe()
    same = [{key: row[key] for key in row if key != "path"} for row in datasets]
    samples = len(entries) if isinstance(entries, Mixture) else None
    digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]
    return {"digest": digest, "samples": samples, "datasets": datasets}


def find_changes(checkpoint: Path, description: Mapping[str, Any]) -> list[str]:
    """Return what differs from the run that wrote a checkpoint: one text each, with both values.

    Args:
        checkpoint: folder of the checkpoint, in the folder of its run.
        description: result of ``describe_run``.
    """
    before = read_run_config(checkpoint.parent)
    if before is None:
        return [f"{CONFIG_FILE} is absent from {checkpoint.parent}: nothing to compare with"]
    return list(_changes(before, description))


def refuse_changes(checkpoint: Path, changes: Sequence[str]) -> None:
    """Refuse to resume with other data or settings.

    Raises:
        ChangedRunError: if anything changed, naming every change and the remedy.
    """
    if changes:
        raise ChangedRunError(
            f"{checkpoint} was made by another run than this one:\n  "
            + "\n  ".join(changes)
            + "\nUse the same data and settings, or add --resume_with_changes true to continue "
            "with these (the result then differs from that of an uninterrupted run)"
        )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for group in _COMPARED:
        yield from _differences(group, before.get(group), now.get(group))
    old, new = before.get("data_fingerprint", {}), now["data_fingerprint"]
    if old.get("digest") == new["digest"]:
        return
    yield f"data fingerprint: {old.get('digest')} before, {new['digest']} now"
    earlier = {row["name"]: row for row in old.get("datasets", [])}
    current = {row["name"]: row for row in new["datasets"]}
    for name in dict.fromkeys((*earlier, *current)):
        where = f"data set {name}"
        if name not in earlier or name not in current:
            yield f"{where}: {'only before' if name in earlier else 'only now'}"
            continue
        one, two = ({**row, "path": None} for row in (earlier[name], current[name]))
        yield from _differences(where, one, two)
    if list(earlier) != list(current) and set(earlier) == set(current):
        yield f"order of data sets: {list(earlier)} before, {list(current)} now"


def _differences(name: str, before: Any, now: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            if key not in _FREE:
                yield from _differences(f"{name}, {key}", before.get(key), now.get(key))
    elif before != now:
        yield f"{name}: {json.dumps(before)} before, {json.dumps(now)} now"


def write_run_config(
    folder: Path, description: Mapping[str, Any], checkpoint: Path | None, changes: list[str]
) -> None:
    """Write ``run_config.json``; a resumed run adds its start to those before.

    Args:
        folder: folder of the run.
        description: result of ``describe_run``.
        checkpoint: checkpoint that the run continues from, if any.
        changes: result of ``find_changes``.
    """
    before = None if checkpoint is None else read_run_config(checkpoint.parent)
    start = {
        "first_step": 1
        + (0 if checkpoint is None else _read_json(checkpoint / MARKER_FILE)["step"]),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([sys.executable, *sys.argv]),
        "host": platform.node(),
        "changes": changes,
        "versions": description["versions"],
        "code": description["code"],
    }
    starts = [*(before or {}).get("starts", []), start]
    write_json(folder / CONFIG_FILE, {**description, "starts": starts}, sort_keys=True)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
