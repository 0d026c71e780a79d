"""Atomic writing, and one run at a time: what stands under its final name is complete.

What a killed process leaves behind has a name of its own, ``.tmp-`` and 32 hexadecimal digits.
Every run holds a shared lock on its output; one that finds itself alone removes such leftovers.
Locks belong to open files, so that they end with their process, however it ends. Where a file
system has no locks, nothing is removed and nobody is kept out.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.errors import SettingsError

LOCK = ".lock"
_LEFTOVER = re.compile(r"\.tmp-[0-9a-f]{32}")


@contextlib.contextmanager
def new_folder(target: Path) -> Generator[Path, None, None]:
    """Give a temporary folder that becomes ``target`` when the block ends without an error.

    A folder that stands at ``target`` by then is replaced. After an error nothing is left behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    temporary.mkdir()
    try:
        yield temporary
        _replace_folder(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(target: Path) -> Path:
    return target.parent / f".tmp-{uuid.uuid4().hex}"


def _replace_folder(temporary: Path, target: Path) -> None:
    # A folder can only be renamed onto an empty one; another process may win in between.
    while True:
        try:
            os.rename(temporary, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
        aside = _beside(target)
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, aside)
            shutil.rmtree(aside)


@contextlib.contextmanager
def new_file(target: Path) -> Generator[Path, None, None]:
    """Give a temporary path that replaces ``target`` when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        # Where nothing can be removed nothing could be written: the block's own error tells.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically, indented, keys in the order given."""
    with new_file(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write a ``.npy`` file atomically."""
    with new_file(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


@contextlib.contextmanager
def claimed_output(folder: Path, part: str, *places: Path) -> Generator[None, None, None]:
    """Hold one part of an output for one run; clean ``places`` of leftovers where nobody else runs.

    Args:
        folder: the output; made where it does not exist.
        part: a shard's name. Runs of different parts go on beside each other.
        places: folders whose temporary files and folders belong to runs on this output.

    Raises:
        SettingsError: if another run is at work on this part.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{LOCK}.{part}").open("a+") as own, (folder / LOCK).open("a+") as shared:
        if not _try_lock(own):
            raise SettingsError(
                f"{folder}: another run is at work on its {part}; wait for it, or choose another "
                "output folder"
            )
        if _try_lock(shared, must=False):
            for place in places:
                remove_leftovers(place)
        with contextlib.suppress(OSError):
            fcntl.flock(shared, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def shared_output(folder: Path) -> Generator[None, None, None]:
    """Keep runs on an output from taking what is written in the block for a leftover."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as shared:
        with contextlib.suppress(OSError):
            fcntl.flock(shared, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def claimed_file(target: Path) -> Generator[IO[str], None, None]:
    """A text file that replaces ``target`` when the block ends without an error.

    It grows under a name of its own beside it, which the next run writes over.

    Raises:
        SettingsError: if another run is writing it.
    """
    partial = target.with_name(f".{target.name}.partial")
    with partial.open("a", encoding="utf-8", errors="backslashreplace") as stream:
        if not _try_lock(stream):
            raise SettingsError(f"{target}: another run is writing it; wait for it")
        stream.truncate(0)
        try:
            yield stream
            stream.flush()
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is unfinished."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left unfinished in a folder."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        leftovers = [entry for entry in entries if is_leftover(entry.name)]
    for entry in leftovers:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink(missing_ok=True)


def _try_lock(stream: IO[str], *, must: bool = True) -> bool:
    """Lock an open file for ourselves; ``must`` is the answer where there are no locks."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return must
    return True
