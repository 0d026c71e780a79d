"""Checkpoints of a run: which are complete, and which one a run goes on from."""

import json
import logging
from pathlib import Path

logger = logging.getLogger(__name__)

MARKER_FILE = "complete.json"
"""Written last into a checkpoint folder, when every rank has written its share."""


def mark_complete(folder: Path, step: int) -> None:
    """Say that everything of a checkpoint is on disk."""
    (folder / MARKER_FILE).write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")


def checkpoints(output_dir: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest step first, complete or not."""
    found = {
        int(folder.name.removeprefix("checkpoint-")): folder
        for folder in output_dir.glob("checkpoint-*")
        if folder.is_dir() and folder.name.removeprefix("checkpoint-").isdigit()
    }
    return [found[step] for step in sorted(found)]


def find_checkpoint(output_dir: Path, request: str | None) -> Path | None:
    """The checkpoint that a run goes on from.

    Args:
        output_dir: folder of the run.
        request: None to start anew, ``auto`` for the newest complete checkpoint (none: start
            anew), otherwise the folder itself.

    Raises:
        ValueError: if the requested folder is no complete checkpoint, or a new run would mix its
            checkpoints with those of another.
    """
    existing = checkpoints(output_dir)
    if request is None:
        if existing:
            raise ValueError(
                f"{output_dir} already holds {existing[-1].name}; add --resume_from_checkpoint "
                "auto to go on from it, or choose another --output_dir"
            )
        return None
    if request != "auto":
        if not (Path(request) / MARKER_FILE).is_file():
            raise ValueError(
                f"{request} is no complete checkpoint ({MARKER_FILE} is absent); use "
                "--resume_from_checkpoint auto to find the newest complete one"
            )
        return Path(request)
    for folder in reversed(existing):
        if (folder / MARKER_FILE).is_file():
            logger.info("going on from %s", folder)
            return folder
        logger.warning("%s is incomplete and left out", folder)
    logger.info("%s holds no complete checkpoint: starting anew", output_dir)
    return None
