"""One run at a time on each part of an output, and the removal of what killed runs left.

Locks belong to open files, so that they end with their process, however it ends. A lock file is
removed when the last run that uses it ends. Some network file systems grant a lock on every
machine at once, or have none: so only leftovers of this machine are removed, and those of the
present boot only by a run that is alone on the output.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Generator
from pathlib import Path
from typing import IO

from cv_reader.assets.files import (
    flush,
    is_temporary,
    machine_and_boot,
    make_folders,
    maker_of,
    writing,
)
from cv_reader.errors import SettingsError

LOCK = ".cv_reader.lock"
_OLD_SECONDS = 3600.0
"""Leftovers of an earlier boot are removed at this age: two machines may share a name."""


@contextlib.contextmanager
def claimed_output(folder: Path, part: str, *places: Path) -> Generator[None, None, None]:
    """Hold one part of an output for one run, and remove leftovers where no other run is active.

    Args:
        folder: the output; made where it does not exist.
        part: name of a shard. Runs on different parts work side by side.
        places: folders whose temporary files and folders belong to runs on this output.

    Raises:
        SettingsError: if another run works on this part.
    """
    make_folders(folder)
    refusal = (
        f"{folder}: another run is at work on its {part}; wait for it, or choose another output "
        "folder"
    )
    with _exclusive(folder / f"{LOCK}.{part}", refusal), _shared(folder / LOCK, *places):
        yield


@contextlib.contextmanager
def shared_output(folder: Path) -> Generator[None, None, None]:
    """Keep other runs from taking what is written in the block for a leftover."""
    make_folders(folder)
    with _shared(folder / LOCK):
        yield


@contextlib.contextmanager
def claimed_file(target: Path) -> Generator[IO[str], None, None]:
    """Give a text file that replaces ``target`` when the block ends without an error.

    It grows as ``.<name>.partial-<machine>-<boot>`` next to the target.

    Raises:
        SettingsError: if another run is writing it.
        OutputError: if it cannot be written.
    """
    lock = target.with_name(f".{target.name}.lock")
    partial = target.with_name(f".{target.name}.partial-{machine_and_boot()}")
    refusal = f"{target}: another run is writing it; wait for it"
    with writing(target), _exclusive(lock, refusal):
        _remove_partial_files(target)
        try:
            with partial.open("w", encoding="utf-8", errors="backslashreplace") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, target)
            flush(target.parent)
        finally:
            partial.unlink(missing_ok=True)


def _remove_partial_files(target: Path) -> None:
    machine, boot = machine_and_boot().split("-")
    prefix = f".{target.name}.partial-{machine}-"
    with os.scandir(target.parent) as entries:
        old = [e for e in entries if e.name.startswith(prefix) and not e.name.endswith(boot)]
    for entry in old:
        if _is_old(entry):
            Path(entry.path).unlink(missing_ok=True)


def remove_leftovers(folder: Path, *, is_alone: bool) -> None:
    """Remove what killed runs of this machine left unfinished in a folder.

    Args:
        folder: nothing below its own entries is looked at.
        is_alone: no other run of this boot is at work on the output.
    """
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        leftovers = [e for e in entries if is_temporary(e.name) and _is_dead(e, is_alone)]
    for entry in leftovers:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink(missing_ok=True)


def is_of_this_machine(name: str) -> bool:
    """Return whether a temporary name was made on this machine, at any boot."""
    return maker_of(name)[:8] == machine_and_boot()[:8]


def _is_dead(entry: "os.DirEntry[str]", is_alone: bool) -> bool:
    maker = maker_of(entry.name)
    if maker[9:] == machine_and_boot()[9:]:
        # One boot is one kernel, even with containers of other names: its locks are reliable.
        return is_alone
    return is_of_this_machine(entry.name) and _is_old(entry)


def _is_old(entry: "os.DirEntry[str]") -> bool:
    with contextlib.suppress(OSError):
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _OLD_SECONDS
    return False


@contextlib.contextmanager
def _exclusive(path: Path, refusal: str) -> Generator[None, None, None]:
    """Hold a lock file alone; it is removed at the end."""
    while True:
        stream = path.open("a")
        is_locked = _lock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_locked is None or (is_locked and _is_current(stream, path)):
            break
        stream.close()
        if is_locked is False:
            raise SettingsError(refusal)
    with stream:
        try:
            yield
        finally:
            _remove_lock(path)


@contextlib.contextmanager
def _shared(path: Path, *places: Path) -> Generator[None, None, None]:
    """Hold a lock file together with other runs; the last one removes it.

    Leftovers in ``places`` are removed first, while no other run can begin to write.
    """
    stream = path.open("a")
    is_alone = _lock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB) is True and _is_current(stream, path)
    for place in places:
        remove_leftovers(place, is_alone=is_alone)
    while _lock(stream, fcntl.LOCK_SH) and not _is_current(stream, path):
        stream.close()
        stream = path.open("a")
    with stream:
        try:
            yield
        finally:
            if _lock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB) is not False:
                _remove_lock(path)


def _lock(stream: IO[str], kind: int) -> bool | None:
    """Lock an open file; False where another run holds it, None where there are no locks."""
    try:
        fcntl.flock(stream, kind)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_current(stream: IO[str], path: Path) -> bool:
    """Return whether a path still leads to an open file: its last user may have removed it."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_lock(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()
