"""Checkpoints of a run: which are complete, and which one a run continues from."""

import json
import logging
import os
import platform
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from run_kit.files import write_text
from run_kit.ranks import gather, rank_and_size

logger = logging.getLogger(__name__)

MARKER_FILE = "complete.json"
"""Written last into a checkpoint folder, when every rank has written its share."""


def mark_complete(folder: Path, step: int) -> None:
    """Mark a checkpoint whose files are all written."""
    write_text(folder / MARKER_FILE, json.dumps({"step": step}) + "\n")


UNFINISHED_FOLDER = "unfinished"
"""Folder below the run's, in which a checkpoint is written until it is complete."""


class CheckpointError(OSError):
    """A checkpoint could not be written; the earlier ones are unchanged."""


def discard_unfinished(output_dir: Path) -> None:
    """Remove the unfinished checkpoint of a run that was killed or whose disk was full."""
    shutil.rmtree(output_dir / UNFINISHED_FOLDER, ignore_errors=True)


def publish_checkpoint(output_dir: Path, step: int, keep: int | None) -> None:
    """Move a checkpoint that every rank has written to its final name, and remove the oldest.

    Args:
        output_dir: folder of the run.
        step: number of the checkpoint.
        keep: number of complete checkpoints to keep, at least 1; None keeps all.
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
    """Return the checkpoint folders of a run, oldest step first, complete or not."""
    found = {
        int(folder.name.removeprefix("checkpoint-")): folder
        for folder in output_dir.glob("checkpoint-*")
        if folder.is_dir() and folder.name.removeprefix("checkpoint-").isdigit()
    }
    return [found[step] for step in sorted(found)]


class RankState(NamedTuple):
    """What one rank sees of the checkpoints of a run.

    Attributes:
        host: name of the machine.
        folder: folder of the run.
        existing: names of the checkpoint folders, oldest step first, complete or not.
        complete: those that are complete.
        has_requested: whether the requested checkpoint folder is complete.
    """

    host: str
    folder: str
    existing: tuple[str, ...]
    complete: tuple[str, ...]
    has_requested: bool


def find_checkpoint(output_dir: Path, request: str | None) -> Path | None:
    """Return the checkpoint that a run continues from; every rank must call it.

    All ranks decide alike, by what every one of them sees: folders may differ between machines.

    Args:
        output_dir: folder of the run.
        request: None to start from the beginning, ``auto`` for the newest complete checkpoint (or
            the beginning, where there is none), otherwise the checkpoint folder itself.

    Raises:
        ValueError: on all ranks at once, if the requested folder is no complete checkpoint on every
            machine, or a new run would mix its checkpoints with those of another.
    """
    existing = checkpoints(output_dir)
    own = RankState(
        host=platform.node(),
        folder=str(output_dir.absolute()),
        existing=tuple(folder.name for folder in existing),
        complete=tuple(folder.name for folder in existing if (folder / MARKER_FILE).is_file()),
        has_requested=request is not None and (Path(request) / MARKER_FILE).is_file(),
    )
    states: list[RankState] = gather(own)
    if request is None:
        _refuse_existing(states)
        return None
    if request == "auto":
        name = _newest_common(states)
        return None if name is None else output_dir / name
    without = [state.host for state in states if not state.has_requested]
    if without:
        raise ValueError(
            f"{request} is no complete checkpoint ({MARKER_FILE} is absent"
            f"{_on_hosts(without, states)}); use --resume_from_checkpoint auto to find the newest "
            "complete one"
        )
    return Path(request)


def _refuse_existing(states: Sequence[RankState]) -> None:
    for state in states:
        if state.existing:
            raise ValueError(
                f"{state.folder} already holds {state.existing[-1]}"
                f"{_on_hosts([state.host], states)}; add --resume_from_checkpoint auto to continue "
                "from it, or choose another --output_dir"
            )


def _newest_common(states: Sequence[RankState]) -> str | None:
    """Return the newest checkpoint that is complete for every rank, None if there is none at all.

    Raises:
        ValueError: if there are complete checkpoints, but none that every rank sees.
    """
    common = set(states[0].complete).intersection(*(state.complete for state in states))
    for state in states:
        left_out = [name for name in state.existing if name not in common]
        if left_out and state == states[0]:
            logger.warning("%s: incomplete, left out: %s", state.folder, ", ".join(left_out))
    if common:
        chosen = [name for name in states[0].complete if name in common][-1]
        logger.info("continuing from %s", Path(states[0].folder) / chosen)
        return chosen
    if not any(state.complete for state in states):
        logger.info("%s holds no complete checkpoint: starting at step 0", states[0].folder)
        return None
    seen = "; ".join(
        f"{state.folder} on {state.host}: {', '.join(state.complete) or 'none'}"
        for state in dict.fromkeys(states)
    )
    raise ValueError(
        f"no complete checkpoint is there for every process ({seen}); --output_dir must be one "
        "folder that all machines share; copy the checkpoint to it, or choose another one"
    )


def _on_hosts(hosts: Sequence[str], states: Sequence[RankState]) -> str:
    several = len({state.host for state in states}) > 1
    return f" on {', '.join(dict.fromkeys(hosts))}" if several else ""


def check_sharing(output_dir: Path) -> None:
    """Check that all ranks have one and the same folder; every rank must call it.

    A run whose machines have folders of their own could not resume: each rank writes its part of a
    checkpoint into its own folder, and only the first writes the weights.

    Args:
        output_dir: folder of the run, on this rank.

    Raises:
        ValueError: on all ranks at once, if a rank has another folder than the first.
    """
    rank, size = rank_and_size()
    if size == 1:
        return
    token = gather(f".shared-{uuid.uuid4().hex}")[0]
    if rank == 0:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / token).touch()
    gather(None)  # wait for the file
    is_seen = output_dir.is_dir() and token in os.listdir(output_dir)
    found: list[tuple[str, str, bool]] = gather(
        (platform.node(), str(output_dir.absolute()), is_seen)
    )
    if rank == 0:
        (output_dir / token).unlink()
    for host, folder, is_seen in found:
        if not is_seen:
            raise ValueError(
                f"{folder} on {host} is not the --output_dir of the first process "
                f"({found[0][1]} on {found[0][0]}), so checkpoints would be incomplete; use a "
                "folder that all machines share, or add --save_only_model true or --save_strategy "
                "no (such a run cannot be resumed)"
            )
