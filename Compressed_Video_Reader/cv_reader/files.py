"""Atomic writing: what stands under its final name is complete."""

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
