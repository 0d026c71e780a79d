"""Write files and folders so that each appears whole or not at all, and survives a power loss.

Content is written under a temporary name next to its target, flushed to the disk, renamed, and the
rename is flushed too. A folder that is replaced is exchanged with the new one in one step where
the system can do so. Temporary names are ``.tmp-<machine>-<boot>-<32 hexadecimal digits>``:
``claims`` removes those that killed runs of this machine left.
"""

import contextlib
import ctypes
import errno
import hashlib
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.errors import AssetError, OutputError

_TEMPORARY = re.compile(r"\.tmp-(?:([0-9a-f]{8}-[0-9a-f]{8})-)?[0-9a-f]{32}")
_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@cache
def machine_and_boot() -> str:
    """Return ``<machine>-<boot>``, 8 hexadecimal digits each; the boot is 0 where unknown."""
    machine = hashlib.sha256(os.uname().nodename.encode() + _read_line("/etc/machine-id"))
    boot = _read_line("/proc/sys/kernel/random/boot_id").replace(b"-", b"").decode()
    return f"{machine.hexdigest()[:8]}-{boot[:8] or '0' * 8}"


def _read_line(path: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(path).read_bytes().strip()
    return b""


def temporary_path(folder: Path) -> Path:
    """Return a new temporary name in a folder; nothing is made."""
    return folder / f".tmp-{machine_and_boot()}-{uuid.uuid4().hex}"


def is_temporary(name: str) -> bool:
    """Return whether a file or folder of this name is unfinished output."""
    return _TEMPORARY.fullmatch(name) is not None


def maker_of(name: str) -> str:
    """Return the ``<machine>-<boot>`` of a temporary name; "" where it does not say."""
    match = _TEMPORARY.fullmatch(name)
    return (match.group(1) or "") if match else ""


@contextlib.contextmanager
def writing(target: Path) -> Generator[None, None, None]:
    """Turn system errors that concern the whole output into one that names it.

    Raises:
        OutputError: The disk is full or fails, or refuses the output for another general reason.
        OSError: Writing failed for any other reason; the system's own error.
    """
    try:
        yield
    except OSError as error:
        if found := OutputError.from_system(target, error):
            raise found from error
        raise


@contextlib.contextmanager
def new_folder(
    target: Path, *, is_replaceable: Callable[[str], bool]
) -> Generator[Path, None, None]:
    """Give a temporary folder that becomes ``target`` when the block ends without an error.

    After an error nothing is left behind.

    Args:
        target: a folder of this name is replaced as a whole.
        is_replaceable: whether a file of this name may be replaced. A folder that holds any other
            is somebody's own, and is left as it is.

    Raises:
        AssetError: if ``target`` holds files that may not be replaced.
        OutputError: if the output cannot be written.
    """
    with writing(target):
        refuse_foreign_files(target, is_replaceable)
        make_folders(target.parent)
        temporary = temporary_path(target.parent)
        temporary.mkdir()
        try:
            yield temporary
            _flush_folder(temporary)
            refuse_foreign_files(target, is_replaceable)
            _put_folder(temporary, target)
            flush(target.parent)
        finally:
            _remove(temporary)


def refuse_foreign_files(target: Path, is_replaceable: Callable[[str], bool]) -> None:
    """Refuse to replace what no run of this project wrote.

    Raises:
        AssetError: naming the first file that may not be replaced.
    """
    if target.is_symlink() or not target.exists():
        return
    if not target.is_dir():
        raise AssetError(f"{target}: a file has this name; move it away")
    with os.scandir(target) as entries:
        names = (entry.name for entry in entries)
        foreign = next((n for n in names if not is_replaceable(n) and not is_temporary(n)), None)
    if foreign is not None:
        raise AssetError(
            f"{target}: holds {foreign!r}, which this command did not write and would remove; "
            "move it away, or choose another output"
        )


def _put_folder(temporary: Path, target: Path) -> None:
    """Rename a folder; what has the target's name ends under the temporary one."""
    while True:
        try:
            os.rename(temporary, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            return
        if _exchange(temporary, target):
            return
        # Without an exchange there is a moment without a target; another process may use it.
        aside = temporary_path(target.parent)
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, aside)
            _remove(aside)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system cannot, or one is missing."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    if exchange is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    return exchange(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0


def _remove(path: Path) -> None:
    # Where nothing can be removed nothing could be written: the block's own error is reported.
    if path.is_symlink():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def make_folders(folder: Path) -> None:
    """Make a folder and its parents, and flush their names to the disk."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    flush(folder.parent)


def flush(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot flush folders; they do so with each rename.
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(handle)


def _flush_folder(folder: Path) -> None:
    paths = sorted(folder.rglob("*"))
    for path in paths:
        _start_writing(path)
    for path in paths:
        flush(path)
    flush(folder)


def _start_writing(path: Path) -> None:
    """Let the disk begin with a file, so that it takes all at once; flushing waits for each."""
    if hasattr(os, "posix_fadvise"):
        handle = os.open(path, os.O_RDONLY)
        with contextlib.suppress(OSError):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


@contextlib.contextmanager
def new_file(target: Path) -> Generator[Path, None, None]:
    """Give a temporary path that replaces ``target`` when the block ends without an error.

    Raises:
        OutputError: if the output cannot be written.
    """
    with writing(target):
        make_folders(target.parent)
        temporary = temporary_path(target.parent)
        try:
            yield temporary
            flush(temporary)
            os.replace(temporary, target)
            flush(target.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def replace_file(target: Path, content: bytes) -> None:
    """Write a file that appears whole.

    Raises:
        OutputError: if the output cannot be written.
    """
    with new_file(target) as temporary:
        temporary.write_bytes(content)


def replace_files(contents: dict[Path, bytes]) -> None:
    """Write several files of one folder: all are on the disk before the first is renamed.

    They are renamed in the order given, so that the last can vouch for the others.

    Raises:
        OutputError: if the output cannot be written.
    """
    with contextlib.ExitStack() as stack:
        temporaries: dict[Path, Path] = {}
        for target, content in contents.items():
            stack.enter_context(writing(target))
            make_folders(target.parent)
            temporary = temporaries[target] = temporary_path(target.parent)
            stack.callback(temporary.unlink, missing_ok=True)
            temporary.write_bytes(content)
        for temporary in temporaries.values():
            _start_writing(temporary)
        for temporary in temporaries.values():
            flush(temporary)
        for target, temporary in temporaries.items():
            os.replace(temporary, target)
        for folder in {target.parent for target in contents}:
            flush(folder)


def json_bytes(content: dict[str, Any]) -> bytes:
    """Return indented JSON, keys in the order given."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return (text + "\n").encode("utf-8", "backslashreplace")


def array_bytes(array: NDArray[Any]) -> bytes:
    """Return a ``.npy`` file's content; numpy's own writing hides why a disk refuses."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that appears whole."""
    replace_file(path, json_bytes(content))
