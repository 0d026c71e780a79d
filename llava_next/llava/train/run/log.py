"""``train_log.jsonl``: the figures of a run, one line per logged step."""

import json
from pathlib import Path
from typing import Any

LOG_FILE = "train_log.jsonl"


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
