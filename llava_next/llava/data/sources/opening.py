"""A path of a data path to its entries, and the entries that a strategy takes.

| path | entries |
|---|---|
| ``.jsonl``, ``.json`` | lines, or the elements of an array |
| ``.tar``, ``{0000..0099}.tar``, a folder of tars | samples of WebDataset |
| ``.parquet``, ``.arrow``, a folder of them or of ``save_to_disk`` | rows of a table |
| a name on the Hub (``hf_path`` of a mixture) | rows of a table |

All of them are read by row number, so that batches can be balanced, packed and resumed exactly.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llava.data.sources.json_files import EntryFile, open_json
from llava.data.sources.tables import TableName, TableRows, is_table, open_table
from llava.data.sources.tars import TarSamples, find_tars, open_tars

EntrySource = EntryFile | TarSamples | TableRows

_PACKED = (".tgz", ".gz", ".zst", ".bz2", ".xz", ".zip")


def open_entries(path: Path, table: TableName | None = None) -> EntrySource:
    """Find the entries of a path.

    Args:
        path: see the module.
        table: which part of a data set of ``datasets``, where the path is one.

    Raises:
        ValueError: The path is missing or empty, of an unknown kind, or damaged.
    """
    if table is not None or is_table(path):
        return open_table(path, TableName() if table is None else table)
    if tars := find_tars(path):
        return open_tars(path, tars)
    if path.suffix in (".jsonl", ".json"):
        return open_json(path)
    if path.suffix in _PACKED:
        raise ValueError(
            f"{path} is compressed, so no entry of it can be read by its number; decompress it"
        )
    if path.is_dir():
        raise ValueError(f"folder {path} holds no .tar, .parquet or .arrow file")
    raise ValueError(
        "data must be .jsonl, .json, .tar, .parquet, .arrow, .yaml, .yml or a folder of tars or "
        f"tables, got {path}"
    )


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
