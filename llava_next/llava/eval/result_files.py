"""The files that an evaluation leaves next to those of lmms-eval: the manifest and the answers."""

from pathlib import Path
from typing import Any

from run_kit.files import read_json_lines

MANIFEST_FILE = "manifest.json"
ANSWER_FILES = "answers_rank*.jsonl"
"""Pattern of the answers of all ranks."""


def answer_file(folder: Path, rank: int) -> Path:
    """Return the file of a rank's answers."""
    return folder / ANSWER_FILES.replace("*", str(rank))


def read_answers(folder: Path) -> list[dict[str, Any]]:
    """Return the answers of all ranks, without a last line that was cut off."""
    return [row for path in sorted(folder.glob(ANSWER_FILES)) for row in read_json_lines(path)]
