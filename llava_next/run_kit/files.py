"""Write files atomically, and read and append JSON lines.

A file under its final name is always complete. A process that is killed while it writes leaves a
hidden file named ``.STEM.<32 hexadecimal digits>.tmp.SUFFIX``, which no reader looks at.
"""

import contextlib
import fcntl
import json
import math
import os
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

_TAIL_BYTES = 1 << 16


@contextlib.contextmanager
def replace_file(path: Path) -> Generator[Path, None, None]:
    """Give a temporary path whose file replaces ``path`` when the block ends without an error.

    The block must create the file. It is flushed to the disk before it gets its name, so that a
    power failure leaves the old file or the new one. After an error the old file is unchanged and
    the temporary file is removed. Missing parent folders are created.

    Args:
        path: file to write or replace.

    Yields:
        A path in the same folder, with the same suffix as ``path``.

    Raises:
        OSError: if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    finally:
        # Where nothing can be removed nothing could be written: the block's own error says why.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, on file systems that can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, sort_keys: bool = False) -> None:
    """Write one indented JSON value atomically; numbers that are not finite become null."""
    text = json.dumps(without_nan(value), indent=2, sort_keys=sort_keys, allow_nan=False)
    write_text(path, text + "\n")


def json_line(value: Any) -> str:
    """Return a value as one line of strict JSON; numbers that are not finite become null."""
    return json.dumps(without_nan(value), allow_nan=False) + "\n"


def without_nan(value: Any) -> Any:
    """Return a copy of a JSON value with None in place of NaN and infinity, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in cast("Sequence[Any]", value)]
    return value


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write a JSONL file atomically, one value per line."""
    with replace_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(map(json_line, rows))


def append_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Append values to a JSONL file, one per line.

    Several processes may append to one file: the lines of a call stay together. A last line that
    an earlier process was killed in is removed first.

    Raises:
        OSError: if the file cannot be written.
    """
    text = "".join(map(json_line, rows)).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", buffering=0) as file:
        with contextlib.suppress(OSError):  # a file system without locks: one writer at a time
            fcntl.flock(file, fcntl.LOCK_EX)
        complete = _complete_bytes(file.fileno())
        if complete < os.fstat(file.fileno()).st_size:
            file.truncate(complete)
        view = memoryview(text)
        while view:
            view = view[file.write(view) :]


def _complete_bytes(descriptor: int) -> int:
    """Return the size of a file up to the end of its last complete line."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - _TAIL_BYTES)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def read_json_lines(path: Path) -> list[Any]:
    """Return the values of a JSONL file, without a last line that was cut off.

    A process that is killed while it appends leaves part of a line, without a line break.

    Returns:
        One value per complete line; none where the file does not exist. Blank lines are left out.

    Raises:
        ValueError: if a complete line is not JSON, naming file and line.
    """
    if not path.is_file():
        return []
    rows: list[Any] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(
                f"{path}:{number} must be JSON, got damage ({error}); remove the line or the file"
            ) from error
    return rows


@contextlib.contextmanager
def whole_pictures_only() -> Generator[None, None, None]:
    """Let Pillow refuse truncated files: its switch is global, and lmms-eval sets it at import."""
    from PIL import ImageFile

    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
