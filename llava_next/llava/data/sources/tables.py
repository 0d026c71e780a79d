"""Rows of tables, read by the library ``datasets``: Parquet, Arrow, and names on the Hub.

``datasets`` turns Parquet files into Arrow files in its cache (``HF_DATASETS_CACHE``) once; rows
are then mapped from there, so that memory does not grow with the data and any row is read alone.

The columns are the fields of an entry. A picture is a path, or a struct of ``bytes`` and ``path``
as the library writes it, so published data sets with pictures inside need no unpacking.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from llava.data.records import RecordError
from llava.data.sources.entry_index import FileKey, files_key
from llava.visual.pictures import PictureBytes

_SUFFIXES = (".parquet", ".arrow")
_MAX_PICTURE_BYTES = 1 << 28
_FIELDS = ("image", "images", "video", "videos", "positions_thw")


class TableName(NamedTuple):
    """Which part of a data set is meant.

    Attributes:
        subset: a configuration of a data set that has several.
        split: a split, by its name alone.
    """

    subset: str | None = None
    split: str = "train"


@dataclass(frozen=True)
class TableRows:
    """The rows of a table.

    Attributes:
        path: the file, folder or name that it was opened from.
        table: a ``datasets.Dataset`` that gives Arrow tables.
        files_key: what shows whether it has changed.
    """

    path: Path
    table: Any
    files_key: FileKey

    def __len__(self) -> int:
        return len(self.table)

    def key(self) -> FileKey:
        """Return the facts that show whether the data has changed."""
        return self.files_key

    def where(self, row: int) -> str:
        """Return ``path:row``, counted from 1."""
        return f"{self.path}:{row + 1}"

    def read(self, row: int) -> Any:
        """Return a row as an entry; contents of picture files are ``PictureBytes``.

        Raises:
            RecordError: if the row cannot be read; the message names it.
        """
        try:
            [entry] = rows_of(self.table[row : row + 1])
        except (OSError, ValueError) as error:
            raise RecordError(f"{self.where(row)}: cannot be read: {error}") from error
        return plain_entry(entry, self.where(row))


def rows_of(table: Any) -> list[dict[str, Any]]:
    """Return the rows of an Arrow table, JSON inside decoded.

    The library keeps a column of several types, such as the text or list of parts of a message, as
    JSON.

    Raises:
        ValueError: The JSON is broken.
    """
    rows = table.to_pylist()
    for field in table.schema:
        if "json" in str(field.type):
            for row in rows:
                row[field.name] = _decoded(row[field.name], field.type)
    return rows


def _decoded(value: Any, kind: Any) -> Any:
    """Return a value of an Arrow type, with what is JSON in it decoded."""
    if value is None:
        return None
    if getattr(kind, "extension_name", "") == "arrow.json":
        return json.loads(value) if isinstance(value, str) else value
    if isinstance(value, list):
        return [_decoded(item, kind.value_type) for item in value]
    if isinstance(value, dict):
        return {name: _decoded(item, kind.field(name).type) for name, item in value.items()}
    return value


def plain_entry(row: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a row of the library as an entry; contents of picture files are ``PictureBytes``.

    Raises:
        RecordError: A picture has more bytes than any picture needs; the message names it.
    """
    named = ((field, f"{where}, {field}") for field in _FIELDS if field in row)
    return row | {field: plain_value(row[field], name) for field, name in named}


def plain_value(value: Any, where: str) -> Any:
    """Return paths and contents in place of the library's structs of both.

    Raises:
        RecordError: as ``plain_entry``.
    """
    if isinstance(value, list):
        return [
            plain_value(item, f"{where} {number}") for number, item in enumerate(value, start=1)
        ]
    if not isinstance(value, Mapping) or not {"bytes", "path"} >= value.keys():
        return value
    content, path = value.get("bytes"), value.get("path")
    if isinstance(content, bytes):
        if len(content) > _MAX_PICTURE_BYTES:
            raise RecordError(
                f"{where}: a picture may have up to {_MAX_PICTURE_BYTES} bytes, "
                f"got {len(content)}; make it smaller or leave it out"
            )
        return PictureBytes(content, f"{where} ({path})" if path else where)
    return path


def is_table(path: Path) -> bool:
    """Return whether a path is a table (Parquet, Arrow, ``save_to_disk``) or a folder of them."""
    if path.is_dir():
        return any(path.glob("*.parquet")) or any(path.glob("*.arrow")) or is_saved(path)
    return path.suffix in _SUFFIXES


def is_saved(folder: Path) -> bool:
    """Return whether a folder was written by ``save_to_disk``."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def open_table(path: Path, name: TableName) -> TableRows:
    """Open a table.

    Args:
        path: a .parquet or .arrow file, a folder of them, one written by ``save_to_disk``, or a
            name on the Hub (which needs a network, or the library's cache).
        name: which part of it.

    Raises:
        ValueError: ``datasets`` is not installed, or there is no such table, or it is damaged.
    """
    if find_spec("datasets") is None:
        raise ValueError(f"{path} is read by the package datasets; pip install datasets")
    import pyarrow
    from datasets.exceptions import DatasetsError

    try:
        table, files = _load(path, name)
    except (OSError, ValueError, pyarrow.ArrowException, DatasetsError) as error:
        raise ValueError(f"table {path} cannot be read: {error}") from error
    if not len(table):
        raise ValueError(f"table {path} holds no rows")
    return TableRows(path, table.with_format("arrow"), _key(files, table))


def _load(path: Path, name: TableName) -> tuple[Any, list[Path]]:
    """Return a ``datasets.Dataset``, and its files where they are the user's own."""
    import datasets

    if path.is_dir() and is_saved(path):
        saved: Any = datasets.load_from_disk(str(path))
        if isinstance(saved, datasets.DatasetDict):
            if name.split not in saved:
                raise ValueError(
                    f"it has the splits {', '.join(map(str, saved))}, not {name.split!r}"
                )
            saved = saved[name.split]
        return saved, [Path(file["filename"]) for file in saved.cache_files]
    if not path.exists() and path.suffix not in _SUFFIXES:
        return datasets.load_dataset(str(path), name.subset, split=name.split), []
    refuse_parts(name)
    for suffix in _SUFFIXES:
        files = sorted(path.glob(f"*{suffix}")) if path.is_dir() else [path]
        files = [file for file in files if file.suffix == suffix]
        if files and suffix == ".arrow":
            parts = [datasets.Dataset.from_file(str(file)) for file in files]
            return datasets.concatenate_datasets(parts), files
        if files:
            names = [str(file) for file in files]
            return datasets.load_dataset("parquet", data_files=names, split="train"), files
    raise ValueError("it does not exist")


def refuse_parts(name: TableName) -> None:
    """Refuse subset and split where a path is files, which have neither.

    Raises:
        ValueError: One is named; the message says which.
    """
    if name != TableName():
        part = f"subset {name.subset!r}" if name.subset is not None else f"split {name.split!r}"
        raise ValueError(
            f"{part} is of names on the Hub and of save_to_disk, and these are files, all of which "
            "are read: leave it out, and name the files of that part"
        )


def _key(files: list[Path], table: Any) -> FileKey:
    """Return the facts of the files; of a data set of the Hub, of what the library made of it."""
    if files:
        return files_key(files)
    info = table.info
    facts = repr((info.version, info.download_checksums, table.num_rows, table.features))
    digest = hashlib.sha256(facts.encode()).digest()
    return FileKey(int(info.dataset_size or 0), 0, int.from_bytes(digest[:8], "little") >> 1)
