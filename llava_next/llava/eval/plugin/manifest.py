"""Write ``manifest.json``: what the scores next to it were made from.

Rank 0 writes one file per run when all ranks have answered. The manifest of an earlier run in the
same folder is kept under the time at which that run ended.

Its counts are of visuals that reached the model: ``hits`` (codec assets found), ``misses`` (videos
without an asset), ``online`` (misses whose asset was made in the run; the others became frames),
``frames`` (videos shown as uniform frames, for any reason), ``frame_folders`` (videos that the task
stores as folders of images, shown as uniform frames) and ``images``.
"""

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llava.eval.plugin.visuals import Visual
from llava.eval.settings import EvalSettings
from run_kit.files import write_json

_CHUNK_BYTES = 1 << 24
COUNTS = ("hits", "misses", "online", "frames", "frame_folders", "images")
DEFAULT_STOP_RULE = (
    "a stop string that lmms-eval adds to a task that states none (its few-shot delimiter) is left "
    "out, because it would cut every answer at its first blank line; what a task or --gen_kwargs "
    "states is obeyed"
)
_PACKAGES = ("onevision-encoder", "lmms-eval", "torch", "transformers", "av", "numpy", "pillow")


@dataclass
class RunRecord:
    """The counts of one rank; ranks are added up for the manifest.

    Attributes:
        samples: requests answered in this run, by task.
        resumed: requests whose answers an interrupted run had recorded, by task.
        visuals: visuals shown, by the names of ``COUNTS``.
        missing_keys: videos without an asset.
        fingerprints: number of assets used, by fingerprint.
        backends: number of assets used, by the backend that read the video.
        exactness: number of assets used, by the exactness of their signals.
        ignored_generation_settings: settings of tasks that have no meaning here, by task.
        default_stops: lmms-eval's own stop string that was left out, by task.
        judged_tasks: tasks that a judge model scores.
        visual_tokens: number of each sample.
        text_tokens: number of each sample's prompt.
        new_tokens: number of each sample's answer.
        nanoseconds: time by stage, ``visuals`` and ``model``.
    """

    samples: Counter[str] = field(default_factory=Counter)
    resumed: Counter[str] = field(default_factory=Counter)
    visuals: Counter[str] = field(default_factory=Counter)
    missing_keys: list[str] = field(default_factory=list)
    fingerprints: Counter[str] = field(default_factory=Counter)
    backends: Counter[str] = field(default_factory=Counter)
    exactness: Counter[str] = field(default_factory=Counter)
    ignored_generation_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    default_stops: dict[str, str] = field(default_factory=dict)
    judged_tasks: set[str] = field(default_factory=set)
    visual_tokens: list[int] = field(default_factory=list)
    text_tokens: list[int] = field(default_factory=list)
    new_tokens: list[int] = field(default_factory=list)
    nanoseconds: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        started = time.perf_counter_ns()
        try:
            yield
        finally:
            self.nanoseconds[name] += time.perf_counter_ns() - started

    def count_visual(self, visual: Visual, video: object) -> None:
        """Count one visual that goes to the model."""
        source = visual.source
        self.visuals["hits"] += source == "codec"
        self.visuals["misses"] += visual.missed
        self.visuals["online"] += source == "online"
        self.visuals["frames"] += source == "frames"
        self.visuals["frame_folders"] += source == "frame_folder"
        self.visuals["images"] += source == "image"
        if visual.missed and str(video) not in self.missing_keys:
            self.missing_keys.append(str(video))
        if visual.asset is not None:
            self.fingerprints[visual.asset.fingerprint] += 1
            self.backends[visual.asset.backend] += 1
            self.exactness[json.dumps(visual.asset.exactness, sort_keys=True)] += 1


def describe_visuals(visuals: Sequence[Visual], shown: Sequence[object]) -> dict[str, Any]:
    """Describe where the visuals of a sample came from and how many tokens they are, for JSON.

    Args:
        visuals: the loaded visuals of the sample.
        shown: what the task returned for each of them: a path or a picture.
    """
    rows = [
        {
            "source": visual.source,
            "path": item if isinstance(item, str) else None,
            "asset": None if visual.asset is None else str(visual.asset.folder),
        }
        for visual, item in zip(visuals, shown, strict=True)
    ]
    tokens = sum(sum(visual.segment.placeholder_tokens) for visual in visuals)
    return {"visuals": rows, "visual_tokens": tokens}


def merge(records: Sequence[RunRecord]) -> RunRecord:
    """Add up the records of all ranks."""
    total = RunRecord()
    for record in records:
        for name, value in vars(record).items():
            mine = getattr(total, name)
            if isinstance(value, list):
                mine.extend(value)
            else:
                mine.update(value)
    total.missing_keys = sorted(set(total.missing_keys))
    return total


def build_manifest(
    record: RunRecord,
    settings: EvalSettings,
    checkpoint: Path,
    *,
    model_dtype: str,
    device: str,
    world_size: int,
) -> dict[str, Any]:
    """Return the manifest of a run, ready for JSON.

    Args:
        record: the counts of all ranks together.
        settings: settings of the run.
        checkpoint: folder of the weights.
        model_dtype: dtype of the weights as loaded.
        device: device of rank 0.
        world_size: number of processes.
    """
    return {
        "schema_version": 1,
        "finished_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ"),
        "command": sys.argv,
        "world_size": world_size,
        "device": device,
        "dtype": model_dtype,
        "samples": dict(record.samples),
        "resumed": dict(record.resumed),
        **{name: record.visuals[name] for name in COUNTS},
        "missing_keys": record.missing_keys,
        "assets": {
            "fingerprints": dict(record.fingerprints),
            "backends": dict(record.backends),
            "exactness": [
                {**json.loads(text), "assets": count} for text, count in record.exactness.items()
            ],
        },
        "tokens_per_sample": {
            name: _mean_and_max(getattr(record, f"{name}_tokens"))
            for name in ("visual", "text", "new")
        },
        "seconds": {stage: count / 1e9 for stage, count in record.nanoseconds.items()},
        "ignored_generation_settings": record.ignored_generation_settings,
        "default_stop_strings": {"rule": DEFAULT_STOP_RULE, "left_out": record.default_stops},
        "judged_tasks": sorted(record.judged_tasks),
        "settings": settings.to_dict(),
        "model": describe_model(checkpoint),
        "versions": library_versions(),
    }


def describe_model(folder: Path) -> dict[str, Any]:
    """Return path and hashes of a checkpoint: config, and all weights in order of their names."""
    weights = sorted(folder.glob("*.safetensors"))
    content = hashlib.sha256()
    for path in weights:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                content.update(chunk)
    return {
        "path": str(folder),
        "config_sha256": hashlib.sha256((folder / "config.json").read_bytes()).hexdigest(),
        "weight_files": len(weights),
        "weights_sha256": content.hexdigest(),
    }


def library_versions() -> dict[str, str | None]:
    """Return the versions of the libraries behind an answer; None for one not installed."""
    return {package: _version(package) for package in _PACKAGES}


def write_manifest(manifest: dict[str, Any], path: Path) -> None:
    """Write a manifest; an earlier run's gets the time at which that run ended in its name."""
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))["finished_at"]
        path.rename(path.with_name(f"{earlier}_{path.name}"))
    write_json(path, manifest)


def _mean_and_max(values: Sequence[int]) -> dict[str, float]:
    return {"mean": sum(values) / max(1, len(values)), "max": max(values, default=0)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
