"""Files of entries, read by position: JSONL and JSON arrays.

Only the place of each entry is known, never the parsed entry, so memory does not grow with the
length of conversations, and workers can be forked or spawned freely.

Axis letters: N entries.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava.data.records import RecordError
from llava.data.sources.entry_index import FileKey, file_key, load_spans

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

    def key(self) -> FileKey:
        """Return the facts that show whether the file has changed."""
        return file_key(self.path)

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


def open_json(path: Path) -> EntryFile:
    """Find the entries of a .jsonl or .json file.

    Raises:
        ValueError: The file is missing or empty, or is a broken JSON array.
    """
    if not path.is_file():
        raise ValueError(f"data file {path} does not exist")
    entries = EntryFile(path, load_spans(path))
    if not len(entries):
        raise ValueError(f"data file {path} holds no entries")
    return entries
