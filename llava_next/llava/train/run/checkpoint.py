"""Checkpoints of a run: which are complete, and which one a run goes on from."""

import json
import logging
import shutil
from pathlib import Path

logger = logging.getLogger(__name__)

MARKER_FILE = "complete.json"
"""Written last into a checkpoint folder, when every rank has written its share."""


def mark_complete(folder: Path, step: int) -> None:
    """Say that everything of a checkpoint is on disk."""
    (folder / MARKER_FILE).write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")


UNFINISHED_FOLDER = "unfinished"
"""Where a checkpoint is written before it gets its place, below the folder of the run."""


class CheckpointError(OSError):
    """A checkpoint could not be written; those before it are untouched."""


def discard_unfinished(output_dir: Path) -> None:
    """Remove what a run that was killed, or a full disk, left of a checkpoint."""
    shutil.rmtree(output_dir / UNFINISHED_FOLDER, ignore_errors=True)


def publish_checkpoint(output_dir: Path, step: int, keep: int | None) -> None:
    """Give a checkpoint that every rank has written its place, and remove the oldest.

    Args:
        output_dir: folder of the run.
        step: number of the checkpoint.
        keep: how many complete ones stay, at least 1; None for all.
    """
    written = output_dir / UNFINISHED_FOLDER / f"checkpoint-{step}"
    place = output_dir / written.name
    mark_complete(written, step)
    if place.exists():
        shutil.rmtree(place)
    written.rename(place)
    if keep is None:
        return
    complete = [folder for folder in checkpoints(output_dir) if (folder / MARKER_FILE).is_file()]
    for folder in complete[: -max(1, keep)]:
        # Without its marker a half-removed folder is no checkpoint.
        (folder / MARKER_FILE).unlink()
        shutil.rmtree(folder)


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
