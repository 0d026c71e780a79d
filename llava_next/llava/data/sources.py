"""Files of entries, read by position: JSONL and JSON arrays.

Only the place of each entry is known, never the parsed entry, so memory does not grow with the
length of conversations, and workers can be forked or spawned freely.

Axis letters: N entries.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava.data.entry_index import load_spans
from llava.data.records import RecordError

_MAX_ENTRY_BYTES = 1 << 26


@dataclass(frozen=True)
class EntryFile:
    """The entries of one file, by their byte offsets.

    Attributes:
        path: a .jsonl or .json file.
        spans: int64 (N, 3), as ``load_spans`` returns them.
    """

    path: Path
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.spans)

    def where(self, row: int) -> str:
        """Return ``file:line`` of an entry."""
        return f"{self.path}:{self.spans[row, 2]}"

    def read(self, row: int) -> Any:
        """Decode one entry.

        Raises:
            RecordError: if it is not valid JSON in UTF-8; the message names file and line.
        """
        start, end, _ = self.spans[row].tolist()
        if end - start > _MAX_ENTRY_BYTES:
            raise RecordError(
                f"{self.where(row)}: an entry may have up to {_MAX_ENTRY_BYTES} bytes, "
                f"got {end - start}; split it or leave it out"
            )
        # Opened for every entry: an open handle can neither be shared by forks nor pickled.
        with open(self.path, "rb") as file:
            file.seek(start)
            raw = file.read(end - start)
        try:
            return json.loads(raw.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{self.where(row)}: not valid JSON: {error}") from error


def open_entries(path: Path) -> EntryFile:
    """Find the entries of a .jsonl or .json file.

    Raises:
        ValueError: The file is missing or empty, has another suffix, or is a broken JSON array.
    """
    if path.suffix not in (".jsonl", ".json"):
        raise ValueError(f"data must be .jsonl, .json, .yaml or .yml, got {path}")
    if not path.is_file():
        raise ValueError(f"data file {path} does not exist")
    entries = EntryFile(path, load_spans(path))
    if not len(entries):
        raise ValueError(f"data file {path} holds no entries")
    return entries


def select_rows(num_rows: int, strategy: str, seed: list[int]) -> Sequence[int] | np.ndarray:
    """Return the rows that a sampling strategy takes, ascending: int64 if random, else a range.

    Raises:
        ValueError: The strategy is unknown, or asks for more rows than there are.
    """
    if strategy == "all":
        return range(num_rows)
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
    return range(start, start + count)
