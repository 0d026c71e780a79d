"""Find what there is to check on disk."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cv_reader.assets.contract import is_asset_file
from cv_reader.assets.files import is_temporary
from cv_reader.assets.metadata import META
from cv_reader.assets.rows import Row, read_rows
from cv_reader.assets.stage1 import META_SUFFIX, ROWS_SUFFIX
from cv_reader.errors import SampleError

ASSET, SELECTION, LEFTOVER, RECORD = "asset", "selection", "leftover", "record"


@dataclass(frozen=True)
class Target:
    """One thing to check.

    Attributes:
        kind: ``ASSET``, ``SELECTION``, ``LEFTOVER`` or ``RECORD``.
        where: its path, or file and line.
        row: content of a JSONL line.
        reason: why a line cannot be read.
    """

    kind: str
    where: str
    row: Row | None = None
    reason: str = ""


def find_targets(place: Path) -> Iterator[Target]:
    """Return what there is to check in a folder, or the lines of a ``.json`` or ``.jsonl``.

    Links to folders are followed, as evaluation follows them, and each folder is visited once.
    """
    if place.is_file():
        for where, row in read_rows(place):
            reason = str(row) if isinstance(row, SampleError) else ""
            yield Target(RECORD, where, None if isinstance(row, SampleError) else row, reason)
        return
    visited: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(place, followlinks=True):
        for name in [name for name in folders if is_temporary(name)]:
            folders.remove(name)
            yield Target(LEFTOVER, os.path.join(folder, name))
        if not _is_first_visit(folder, visited):
            folders.clear()
            continue
        folders.sort()
        if META in files or _looks_like_an_asset(Path(folder), place, [*folders, *files]):
            yield Target(ASSET, folder)
        for name in sorted(files):
            if name.endswith(META_SUFFIX):
                yield Target(SELECTION, os.path.join(folder, name))
            elif name.endswith(ROWS_SUFFIX):
                meta_name = name.removesuffix(ROWS_SUFFIX) + META_SUFFIX
                if not os.path.exists(os.path.join(folder, meta_name)):
                    yield Target(SELECTION, os.path.join(folder, meta_name))
            elif is_temporary(name):
                yield Target(LEFTOVER, os.path.join(folder, name))


def _is_first_visit(folder: str, visited: set[tuple[int, int]]) -> bool:
    try:
        status = os.stat(folder)
    except OSError:
        return False
    identity = status.st_dev, status.st_ino
    is_first = identity not in visited
    visited.add(identity)
    return is_first


def _looks_like_an_asset(folder: Path, place: Path, names: list[str]) -> bool:
    """Return whether a folder without ``meta.json`` should be an asset: its file is missing."""
    is_empty = not names and folder != place and folder.name != "assets"
    return is_empty or any(is_asset_file(name) for name in names)
