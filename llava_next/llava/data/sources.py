"""Files of entries, read by position: JSONL and JSON arrays.

Only the place of each entry is kept (24 bytes per entry), never the parsed entry, so memory does
not grow with the length of conversations, and workers can be forked or spawned freely.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava.data.records import SampleError

_SCAN_BYTES = 1 << 24
_UTF8_MARK = b"\xef\xbb\xbf"
_BLANK = re.compile(r"\s*")


@dataclass(frozen=True)
class EntryFile:
    """Where the entries of one file lie.

    Attributes:
        path: a .jsonl or .json file.
        starts: int64 (N,), first byte of each entry.
        ends: int64 (N,), the byte behind it.
        lines: int64 (N,), 1-based line on which it starts.
    """

    path: Path
    starts: np.ndarray
    ends: np.ndarray
    lines: np.ndarray

    def where(self, row: int) -> str:
        """``file:line`` of an entry."""
        return f"{self.path}:{self.lines[row]}"

    def read(self, row: int) -> Any:
        """Decode one entry.

        Raises:
            SampleError: if it is not valid JSON in UTF-8; the message names file and line.
        """
        # Opened anew each time: an open handle can neither be shared by forks nor pickled.
        with open(self.path, "rb") as file:
            file.seek(int(self.starts[row]))
            raw = file.read(int(self.ends[row] - self.starts[row]))
        try:
            return json.loads(raw.decode("utf-8"))
        except ValueError as error:
            raise SampleError(f"{self.where(row)}: not valid JSON: {error}") from error


def open_entries(path: Path) -> EntryFile:
    """Find the entries of a .jsonl or .json file.

    Raises:
        ValueError: for another suffix, a missing or empty file, or a broken JSON array.
    """
    if path.suffix not in (".jsonl", ".json"):
        raise ValueError(f"data must be .jsonl, .json, .yaml or .yml, got {path}")
    if not path.is_file():
        raise ValueError(f"data file {path} does not exist")
    entries = _index_lines(path) if path.suffix == ".jsonl" else _index_array(path)
    if not len(entries.starts):
        raise ValueError(f"data file {path} holds no entries")
    return entries


def _index_lines(path: Path) -> EntryFile:
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
    return EntryFile(path, starts[rows], ends[rows], rows + 1)


def _index_array(path: Path) -> EntryFile:
    raw = path.read_bytes()
    # Latin-1 maps bytes to characters one to one, so that offsets of characters are offsets of
    # bytes; all of JSON's structure is ASCII.
    text = raw.decode("latin-1")
    newlines = np.flatnonzero(np.frombuffer(raw, np.uint8) == ord("\n"))
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
        at = skip(3 if raw.startswith(_UTF8_MARK) else 0)
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
    starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
    return EntryFile(path, starts, ends, np.searchsorted(newlines, starts) + 1)


def select_rows(num_rows: int, strategy: str, seed: list[int]) -> np.ndarray:
    """Rows that a sampling strategy takes: int64, ascending.

    Raises:
        ValueError: for an unknown strategy, or more rows than there are.
    """
    if strategy == "all":
        return np.arange(num_rows)
    match = re.fullmatch(r"(first|end|random):(\d+)(%?)", strategy)
    if not match:
        raise ValueError(
            "sampling_strategy must be all, first:N, end:N or random:N with N a number or N%, "
            f"got {strategy!r}"
        )
    kind, number, percent = match.groups()
    count = math.ceil(num_rows * int(number) / 100) if percent else int(number)
    if not 1 <= count <= num_rows:
        raise ValueError(
            f"sampling_strategy {strategy!r} takes {count} of {num_rows} entries; "
            "take 1 or more, or use all"
        )
    if kind == "random":
        return np.sort(np.random.default_rng(seed).choice(num_rows, count, replace=False))
    start = 0 if kind == "first" else num_rows - count
    return np.arange(start, start + count)
