"""The byte offsets of the entries of a data file: found once, kept next to it, mapped afterwards.

``train.jsonl`` gets ``train.jsonl.index``, 24 bytes per entry. It says which file it was made of,
and is made again when that file has changed. Several processes may make it at once: each writes its
own and renames it, and all are equal. Where the folder cannot be written to, every start scans.

Axis letters: N entries.
"""

import hashlib
import json
import logging
import mmap
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from run_kit.files import replace_file

logger = logging.getLogger(__name__)

INDEX_SUFFIX = ".index"
"""Behind the whole name of the data file. Another layout of the index gets another suffix."""

_SCAN_BYTES = 1 << 24
_EDGE_BYTES = 1 << 16
_UTF8_MARK = b"\xef\xbb\xbf"
_BLANK = re.compile(r"\s*")


def load_spans(path: Path) -> np.ndarray:
    """Return the spans of the entries of a .jsonl or .json file, from its index where there is one.

    Returns:
        int64 (N, 3): first byte of an entry, the byte behind it, 1-based line on which it starts.

    Raises:
        ValueError: The JSON array is broken, or the file changes while it is read.
    """
    key = file_key(path)
    spans = _read_index(path, key)
    if spans is not None:
        return spans
    spans = _index_lines(path) if path.suffix == ".jsonl" else _index_array(path)
    if key != file_key(path):
        raise ValueError(f"data file {path} changed while it was read; start when it is complete")
    _write_index(path, key, spans)
    return spans


class FileKey(NamedTuple):
    """The facts that show whether a file has changed.

    Attributes:
        size_bytes: size of the file.
        modified_ns: time of its last change.
        edges: digest of its first and last 64 KB, 63 bits.
    """

    size_bytes: int
    modified_ns: int
    edges: int


def file_key(path: Path) -> FileKey:
    """Return the key of a file as it is now."""
    stat = path.stat()
    with open(path, "rb") as file:
        edges = file.read(_EDGE_BYTES)
        file.seek(max(0, stat.st_size - _EDGE_BYTES))
        edges += file.read(_EDGE_BYTES)
    digest = int.from_bytes(hashlib.sha256(edges).digest()[:8], "little") >> 1
    return FileKey(stat.st_size, stat.st_mtime_ns, digest)


def files_key(paths: Sequence[Path]) -> FileKey:
    """Return one key of several files: their bytes in all, the last change, a digest of all."""
    keys = [file_key(path) for path in paths]
    digest = hashlib.sha256(repr([tuple(key) for key in keys]).encode()).digest()
    return FileKey(
        sum(key.size_bytes for key in keys),
        max(key.modified_ns for key in keys),
        int.from_bytes(digest[:8], "little") >> 1,
    )


def _index_path(path: Path) -> Path:
    return path.with_name(path.name + INDEX_SUFFIX)


def _read_index(path: Path, key: FileKey) -> np.ndarray | None:
    """Return the kept spans of this very file, mapped; None if there are none."""
    place = _index_path(path)
    if not place.is_file():
        return None
    try:
        # The map lives as long as the view of it.
        stored = np.asarray(np.load(place, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        logger.warning("%s is damaged (%s) and is made again", place, error)
        return None
    fits = stored.dtype == np.int64 and stored.ndim == 2 and stored.shape[1] == 3
    if fits and len(stored) and tuple(stored[0].tolist()) == key:
        return stored[1:]
    logger.info("%s belongs to an earlier state of the file and is made again", place)
    return None


def _write_index(path: Path, key: FileKey, spans: np.ndarray) -> None:
    """Write the index; where the folder cannot be written to, each start scans the data again."""
    place = _index_path(path)
    try:
        with replace_file(place) as temporary, temporary.open("xb") as file:
            np.save(file, np.concatenate(([key], spans)))
    except OSError as error:
        logger.info("%s cannot be kept (%s): each start will scan the data", place, error)


def _index_lines(path: Path) -> np.ndarray:
    found = [np.zeros(1, np.int64)]
    size = path.stat().st_size
    with open(path, "rb") as file:
        while block := file.read(_SCAN_BYTES):
            first = file.tell() - len(block)
            found.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + first + 1)
        starts = np.concatenate(found)
        ends = np.append(starts[1:] - 1, size)
        # Only short lines can be blank in practice; a long blank one fails later by its number.
        keep = starts < ends
        for row in np.flatnonzero(keep & (ends - starts < 16)):
            file.seek(int(starts[row]))
            keep[row] = bool(file.read(int(ends[row] - starts[row])).strip())
        file.seek(0)
        if file.read(3) == _UTF8_MARK:
            starts[0] = 3
    rows = np.flatnonzero(keep)
    return np.stack((starts[rows], ends[rows], rows + 1), axis=1)


def _index_array(path: Path) -> np.ndarray:
    """Return the places of an array's elements; ``cv_reader.assets.rows`` streams their content."""
    raw, text = _read_latin1(path)
    spans: list[tuple[int, int]] = []
    decoder = json.JSONDecoder()

    def skip(offset: int) -> int:
        blank = _BLANK.match(text, offset)
        return blank.end() if blank else offset

    def expect(offset: int, allowed: str) -> str:
        if offset >= len(text) or text[offset] not in allowed:
            raise json.JSONDecodeError(f"expected one of {allowed!r}", text, offset)
        return text[offset]

    try:
        at = skip(3 if raw[:3] == _UTF8_MARK else 0)
        expect(at, "[")
        at = skip(at + 1)
        more = text[at : at + 1] != "]"
        while more:
            end = decoder.raw_decode(text, at)[1]
            spans.append((at, end))
            at = skip(end)
            more = expect(at, ",]") == ","
            at = skip(at + 1) if more else at
        if skip(at + 1) != len(text):
            raise json.JSONDecodeError("text behind the array", text, at + 1)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}:{error.lineno}: not a valid JSON array of entries: {error.msg}"
        ) from error
    newlines = np.flatnonzero(np.frombuffer(raw, np.uint8) == ord("\n"))
    starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
    return np.stack((starts, ends, np.searchsorted(newlines, starts) + 1), axis=1)


def _read_latin1(path: Path) -> tuple[mmap.mmap | bytes, str]:
    """Return the bytes of a file, mapped, and as text.

    Latin-1 maps bytes to characters one to one, so that offsets of characters are offsets of bytes;
    all of JSON's structure is ASCII.
    """
    with open(path, "rb") as file:
        if not path.stat().st_size:  # cannot be mapped
            return b"", ""
        raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return raw, str(raw, "latin-1")
