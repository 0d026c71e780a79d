"""What a run records: ``train_log.jsonl``, ``validation_log.jsonl``, ``run_config.json``."""

import json
from pathlib import Path
from typing import Any

from run_kit.files import append_json_lines, read_json_lines, write_json_lines

CONFIG_FILE = "run_config.json"
LOG_FILE = "train_log.jsonl"
VALIDATION_FILE = "validation_log.jsonl"


class TrainLog:
    """``train_log.jsonl``: one JSON object per logged step, in order of steps."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        """Open the log of a run whose next step is ``first_step``.

        Lines of later steps come from a run that ended after its last checkpoint. The run repeats
        those steps, so their lines are removed, here and from the log of the validation.
        """
        self._path = folder / LOG_FILE
        write_json_lines(self._path, _before(first_step, read_log(folder)))
        validation = read_validation(folder)
        if validation:
            write_json_lines(folder / VALIDATION_FILE, _before(first_step, validation))

    def append(self, row: dict[str, Any]) -> None:
        """Add the line of one step."""
        append_json_lines(self._path, [row])


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; none where there is no log."""
    return read_json_lines(folder / LOG_FILE)


def read_run_config(folder: Path) -> dict[str, Any] | None:
    """Return what a run was made of, its ``run_config.json``; None where there is none."""
    path = folder / CONFIG_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def append_validation(folder: Path, row: dict[str, Any]) -> None:
    """Add the figures of one validation."""
    append_json_lines(folder / VALIDATION_FILE, [row])


def read_validation(folder: Path) -> list[dict[str, Any]]:
    """Return the figures of a run's validations; none where there were none."""
    return read_json_lines(folder / VALIDATION_FILE)


def _before(step: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["step"] < step]
