"""Rows of data sets of the library ``datasets``, read in passing: nothing is copied to this disk.

| path | read by |
|---|---|
| ``.parquet``, ``.arrow``, ``.jsonl``, ``.json``, ``.tar``, or a folder of these | its builder |
| a folder of ``save_to_disk`` | the library, from its files |
| another folder, or a name on the Hub | the one that the library chooses |

A stream is made of shards: its files, or the row groups of Parquet files where these are too few.
Its rows have no numbers over the whole, only within their shard, and are read from there in order.
"""

import hashlib
import logging
import tarfile
from collections.abc import Generator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from torch.utils.data import get_worker_info

from llava.constants import IMAGE_PLACEHOLDER
from llava.data.records import RecordError
from llava.data.sources.entry_index import FileKey, files_key
from llava.data.sources.tables import (
    TableName,
    is_saved,
    plain_entry,
    plain_value,
    refuse_parts,
    rows_of,
)
from llava.visual.loading import IMAGE_SUFFIXES, natural_order

logger = logging.getLogger(__name__)

_BUILDERS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "json",
    ".json": "json",
    ".tar": "webdataset",
}
_MAX_SAVED_SHARDS = 64
_KEY, _PLACE = "__key__", "__url__"
"""Columns that the library gives to samples of WebDataset."""


class StreamError(ValueError):
    """A stream cannot be read on; the message names data set, shard and row."""


@dataclass(frozen=True)
class RowStream:
    """A data set that is read in passing.

    Attributes:
        path: the file, folder or name that it was opened from.
        dataset: a ``datasets.IterableDataset`` that gives Arrow tables.
        shards: number of its parts.
        state_key: what shows whether it has changed.
        files: names of the files that are the shards, where each shard is one of several files.
    """

    path: Path
    dataset: Any
    shards: int
    state_key: FileKey
    files: tuple[str, ...] = ()

    def key(self) -> FileKey:
        """Return the facts that show whether the data has changed, as far as they are known."""
        return self.state_key

    def where(self, shard: int, row: int) -> str:
        """Return ``path, shard:row``, both counted from 1, with the file where shards are files."""
        file = f" ({self.files[shard]})" if self.files else ""
        return f"{self.path}, shard {shard + 1}{file}:{row + 1}"

    def rows(self, shard: int, start: int = 0) -> Generator[dict[str, Any], None, None]:
        """Read the raw rows of a shard in order, from row ``start`` (counted from 0) on.

        Raises:
            StreamError: The shard is damaged or cannot be reached; the message names it.
        """
        if get_worker_info() is not None:
            import fsspec.asyn

            fsspec.asyn.reset_lock()  # of the process that this one was forked from
        part = self.dataset.shard(num_shards=self.shards, index=shard)
        row = start
        try:
            tables = part.iter(batch_size=1)
            for table in islice(tables, start, None):
                yield rows_of(table)[0]
                row += 1
        except _errors() as error:
            raise StreamError(
                f"{self.where(shard, row)}: the stream cannot be read on: {_line(error)}; repair "
                "it, then continue with --resume_from_checkpoint auto"
            ) from error

    def entry(self, row: dict[str, Any], where: str) -> Any:
        """Return a raw row as an entry; contents of picture files are ``PictureBytes``.

        Raises:
            RecordError: The row cannot be one; the message names it.
        """
        if {_KEY, _PLACE} <= row.keys():
            return _of_members(row, where)
        return plain_entry(row, where)


def _of_members(row: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a sample of WebDataset as an entry, by the rules of ``llava.data.sources.tars``."""
    members = {
        name: value
        for name, value in row.items()
        if name not in (_KEY, _PLACE) and value is not None
    }
    entry: Any = members.get("json")
    caption = members.get("txt")
    if isinstance(entry, dict) and entry.keys() & {"conversations", "messages"}:
        entry = {name: value for name, value in entry.items() if value is not None}
    elif isinstance(caption, str):
        answer = {"from": "gpt", "value": caption.strip()}
        entry = {"conversations": [{"from": "human", "value": IMAGE_PLACEHOLDER}, answer]}
    else:
        raise RecordError(
            f"{where}: a sample needs a .json with conversations or messages, or a .txt, got "
            f"{', '.join(sorted(members)[:5])}"
        )
    if any(name.endswith(".npy") for name in members) or "positions_thw" in entry:
        raise RecordError(
            f"{where}: positions of codec clips are read from tars by number only; name the tars "
            "as json_path and leave streaming out"
        )
    pictures = {
        name: plain_value(value, f"{where}, {name}")
        for name, value in members.items()
        if Path(f"x.{name}").suffix.lower() in IMAGE_SUFFIXES
    }
    if not entry.keys() & {"image", "images", "video", "videos"}:
        if pictures:
            names = sorted(pictures, key=lambda name: natural_order(Path(name)))
            entry["image"] = [pictures[name] for name in names]
    else:
        named = pictures | {f"{row[_KEY]}.{name}": value for name, value in pictures.items()}
        for field in ("image", "images"):
            value = entry.get(field)
            if isinstance(value, list):
                entry[field] = [
                    named.get(name, name) if isinstance(name, str) else name for name in value
                ]
            elif isinstance(value, str):
                entry[field] = named.get(value, value)
    entry.setdefault("id", row[_KEY])
    return entry


def open_row_stream(path: Path, name: TableName, *, readers: int) -> RowStream:
    """Open a data set, reading one row of it, or one for each reader where files are few.

    Args:
        path: see the module.
        name: which part of it.
        readers: Parquet files fewer than these are split further, into their row groups.

    Raises:
        ValueError: ``datasets`` is not installed, or there is no such data set, or it is empty or
            damaged.
    """
    if find_spec("datasets") is None:
        raise ValueError(f"{path} is streamed by the package datasets; pip install datasets")
    try:
        dataset, key, files = _load(path, name)
        if dataset.num_shards < readers and hasattr(dataset, "reshard"):  # not in old versions
            dataset = dataset.reshard()
        dataset = dataset.with_format("arrow")
        needed = readers if dataset.num_shards < readers else 1  # a row for each, where they share
        count = sum(1 for _ in islice(dataset.iter(batch_size=1), needed))
        if count == 0:
            raise ValueError("it holds no rows")
        if count < needed:
            raise ValueError(
                f"it holds {count} rows for {readers} readers; use fewer ranks, or fewer "
                "--dataloader_num_workers"
            )
    except _errors() as error:
        raise ValueError(
            f"stream {path} cannot be read: {_line(error)} (a stream is a name on the Hub, a file "
            f"of {', '.join(_BUILDERS)}, or a folder of these)"
        ) from error
    shards = dataset.num_shards
    names = tuple(file.name for file in files) if 1 < len(files) == shards else ()
    return RowStream(path, dataset, shards, key, names)


def _errors() -> tuple[type[Exception], ...]:
    """Return what the library raises for data that is missing or damaged."""
    import pyarrow
    from datasets.exceptions import DatasetsError

    return (
        OSError, ValueError, TypeError, LookupError, RuntimeError, StopIteration, EOFError,
        pyarrow.ArrowException, DatasetsError, tarfile.TarError,
    )  # fmt: skip


def _line(error: Exception) -> str:
    """Return what an error says as one line; those of files without rows say nothing of use."""
    if "BatchSize must be greater than 0" in str(error):
        return "a Parquet file holds no rows, which the library cannot read; remove that file"
    return " ".join(str(error).split())[:600] or "it holds no rows"


def _load(path: Path, name: TableName) -> tuple[Any, FileKey, list[Path]]:
    """Return a ``datasets.IterableDataset``, what shows whether it has changed, and its files."""
    import datasets

    if path.is_dir() and is_saved(path):
        saved: Any = datasets.load_from_disk(str(path))
        if isinstance(saved, datasets.DatasetDict):
            saved = _split_of(saved, name)
        files = [Path(file["filename"]) for file in saved.cache_files]
        shards = max(1, min(_MAX_SAVED_SHARDS, len(saved)))
        return saved.to_iterable_dataset(num_shards=shards), files_key(files), []
    files = _files(path)
    if files:
        refuse_parts(name)
        if files[0].suffix == ".tar":
            _check_ends(files)
        names = [str(file) for file in files]
        builder = datasets.load_dataset_builder(_BUILDERS[files[0].suffix], data_files=names)
        return builder.as_streaming_dataset(split="train"), files_key(files), files
    if not path.exists() and path.suffix in _BUILDERS:
        raise ValueError("it does not exist")
    builder = datasets.load_dataset_builder(str(path), name.subset)
    key = _key_of(builder.config.data_files)
    return _split_of(builder.as_streaming_dataset(), name), key, []


def _check_ends(files: list[Path]) -> None:
    """Refuse tars that were cut: the library reads them as if they were whole.

    Raises:
        ValueError: One does not end in the block of zeros of the format; the message names it.
    """
    for file in files:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - tarfile.BLOCKSIZE))
            end = stream.read()
        if size % tarfile.BLOCKSIZE or end != bytes(tarfile.BLOCKSIZE):
            raise ValueError(
                f"{file} has {size} bytes and no end of a tar: it was cut, or is none; "
                "copy it again"
            )


def _split_of(splits: Any, name: TableName) -> Any:
    if name.split not in splits:
        raise ValueError(f"it has the splits {', '.join(map(str, splits))}, not {name.split!r}")
    return splits[name.split]


def _files(path: Path) -> list[Path]:
    """Return the files of one of the known kinds that a path is, or that a folder holds."""
    if path.is_file():
        return [path] if path.suffix in _BUILDERS else []
    if path.is_dir():
        for suffix in _BUILDERS:
            files = sorted(file for file in path.glob(f"*{suffix}") if file.name[0] != ".")
            if files:
                return files
    return []


def _key_of(data_files: Any) -> FileKey:
    """Return a digest of names and states of files, with the revision that the Hub has of them."""
    facts = repr(
        [
            (split, list(files), getattr(files, "origin_metadata", None))
            for split, files in (data_files or {}).items()
        ]
    )
    digest = hashlib.sha256(facts.encode()).digest()
    return FileKey(0, 0, int.from_bytes(digest[:8], "little") >> 1)
