"""What a run leaves behind for people: ``run_config.json`` and ``train_log.jsonl``."""

import dataclasses
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llava.train.arguments import Arguments

CONFIG_FILE = "run_config.json"
LOG_FILE = "train_log.jsonl"
_PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "onevision-encoder")


def write_run_config(
    folder: Path, arguments: Arguments, *, trainable: dict[str, int], world_size: int
) -> None:
    """Write every resolved setting of the run, and the versions it runs on."""
    model_args, data_args, training_args = arguments
    record = {
        "model": dataclasses.asdict(model_args),
        "data": dataclasses.asdict(data_args),
        "training": training_args.to_dict(),
        "trainable_parameters": trainable,
        "world_size": world_size,
        "versions": {name: _version(name) for name in _PACKAGES},
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=2, sort_keys=True, default=str) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class TrainLog:
    """``train_log.jsonl``: one JSON object per logged step, in order of steps."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        """Open the log of a run whose next step is ``first_step``.

        Lines of later steps come from a run that was cut off after its last checkpoint; those
        steps are done again, so their lines are dropped.
        """
        self._path = folder / LOG_FILE
        folder.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_log(folder) if row["step"] < first_step]
        self._path.write_text("".join(map(_line, kept)), encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        """Add the line of one step."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(row))


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; none where there is no log. A line cut off mid-write is dropped."""
    path = folder / LOG_FILE
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"
