"""Data paths: one file or folder, several in braces, or a YAML mixture of sampled data sets.

A mixture::

    seed: 0                               # of random strategies; default 0
    datasets:
      - json_path: codec.jsonl            # relative to the mixture's folder
        sampling_strategy: all            # the default
      - json_path: parts/{one,two}.json   # braces: one data set per file
        sampling_strategy: random:10%     # all | first:N | end:N | random:N, N a number or N%
        type: frames                      # type of entries that do not name their own
        seed: 7                           # instead of the common one
        name: clips                       # in logs; default: the file's name
      - json_path: shards                 # or tars and tables, see llava.data.sources.opening
      - hf_path: lab/some-data            # a name on the Hub, read by the library datasets
        subset: charts                    # of a data set that has several
        split: train                      # the default
        streaming: true                   # read in passing, see llava.data.streamed
        weight: 2                         # share of its samples, where any of the sets is streamed

An absolute path that does not exist, as published mixtures have them, means the file of that name
next to the mixture, if there is one.
"""

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from llava.data.records import RECORD_TYPES, RecordError
from llava.data.sources.entry_index import FileKey
from llava.data.sources.opening import EntrySource, open_entries, select_rows
from llava.data.sources.tables import TableName, TableRows

logger = logging.getLogger(__name__)

_SUFFIXES = (".yaml", ".yml")
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One file of a data path, and what is taken from it.

    Attributes:
        path: a file, a folder, or a name on the Hub.
        table: part of a data set of the library ``datasets``, where the mixture names one.
        strategy: see ``select_rows``.
        seed: seed of a random strategy.
        kind: type of entries that do not name their own, if any.
        name: name in logs.
        streaming: whether the rows are read in passing, not by number.
        weight: share of the samples that come from it, where any source is streamed.
    """

    path: Path
    table: TableName | None = None
    strategy: str = "all"
    seed: tuple[int, ...] = (0,)
    kind: str | None = None
    name: str
    # Not in the text form, over which fingerprints of earlier versions were made.
    streaming: bool = field(default=False, repr=False)
    weight: float = field(default=1.0, repr=False)


class Mixture:
    """The entries of a data path, numbered from 0, file after file.

    Attributes:
        names: names of the data sets, each different.
        sizes: entries taken from each data set.
    """

    def __init__(self, data_path: Path) -> None:
        """Index a file or folder, a .yaml or .yml mixture of them, or files in braces.

        Raises:
            ValueError: if a file is missing or broken, or a setting of the mixture is unknown.
        """
        self._sources = read_sources(data_path)
        for source in self._sources:
            if source.streaming:
                raise ValueError(
                    f"{data_path}, {source.name}: streaming is for --data_path of training; "
                    "here entries are counted and read by number: leave streaming out"
                )
            if source.weight != 1:
                raise ValueError(
                    f"{data_path}, {source.name}: weight is for mixtures of which a part is "
                    "streamed; choose entries by sampling_strategy"
                )
        self.names = tuple(source.name for source in self._sources)
        self._files: list[EntrySource] = []
        self._rows: list[Sequence[int] | np.ndarray] = []
        for source in self._sources:
            file = open_entries(source.path, source.table)
            try:
                rows = select_rows(len(file), source.strategy, list(source.seed))
            except ValueError as error:
                raise ValueError(f"{data_path}, {source.path}: {error}") from error
            self._files.append(file)
            self._rows.append(rows)
        self.sizes = tuple(len(rows) for rows in self._rows)
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def tables(self) -> list[str]:
        """The names of the data sets whose rows may hold contents of files, not paths alone."""
        pairs = zip(self.names, self._files, strict=True)
        return [name for name, file in pairs if isinstance(file, TableRows)]

    def set_of(self, index: int) -> int:
        """Return the number of the data set of entry ``index``.

        Raises:
            IndexError: if ``index`` is not in 0..len - 1.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"entry must be in 0..{len(self) - 1}, got {index}")
        return int(np.searchsorted(self._ends, index, side="right"))

    def set_range(self, number: int) -> range:
        """Return the entry numbers of data set ``number``."""
        end = int(self._ends[number])
        return range(end - self.sizes[number], end)

    def read(self, index: int) -> tuple[Any, str]:
        """Decode entry ``index``: (JSON value, ``file:line``).

        Raises:
            IndexError: if ``index`` is not in 0..len - 1.
            RecordError: if the entry is broken.
        """
        number = self.set_of(index)
        row = int(self._rows[number][index - self.set_range(number).start])
        entry, where = self._files[number].read(row), self._files[number].where(row)
        return with_kind(entry, self._sources[number].kind), where

    def read_or_error(self, index: int) -> tuple[Any, str] | RecordError:
        """Return what ``read`` returns, or the error of a broken entry."""
        try:
            return self.read(index)
        except RecordError as error:
            return error

    def describe(self) -> list[dict[str, Any]]:
        """Return per data set the file, a digest of its ends, and what is taken of it."""
        described: list[dict[str, Any]] = []
        for source, file, rows in zip(self._sources, self._files, self._rows, strict=True):
            described.append(
                {
                    **describe_file(source, file.key()),
                    "entries": len(file),
                    "samples": len(rows),
                    "sampling_strategy": source.strategy,
                    "seed": list(source.seed),
                    "type": source.kind,
                    **({} if source.table is None else source.table._asdict()),
                }
            )
        return described

    def fingerprint(self) -> str:
        """Return 16 hex digits over files (path, size, time of change), entries taken and types."""
        digest = hashlib.sha256()
        for source, file, rows in zip(self._sources, self._files, self._rows, strict=True):
            key = file.key()
            # Which rows are taken follows from strategy, seed and number of entries.
            facts = f"{source}{key.size_bytes}{key.modified_ns}{len(file)}{len(rows)}"
            digest.update(facts.encode())
        return digest.hexdigest()[:16]


def read_sources(data_path: Path, *, streaming: bool = False) -> list[DataSource]:
    """Return what a data path names, without looking into the files.

    Args:
        data_path: a file or folder, a mixture, files in braces or, streamed, a name on the Hub.
        streaming: whether sources that do not say so themselves are streamed.

    Raises:
        ValueError: The mixture is missing or broken, or one of its settings is unknown.
    """
    if data_path.suffix in _SUFFIXES:
        return _read_mixture(data_path, streaming)
    paths = expand_braces(data_path)
    names = _distinct([path.stem for path in paths])
    return [
        DataSource(path=path, name=name, streaming=streaming)
        for path, name in zip(paths, names, strict=True)
    ]


def describe_file(source: DataSource, key: FileKey) -> dict[str, Any]:
    """Return the name of a data set, and by what a change of its file is noticed."""
    return {
        "name": source.name,
        "path": str(source.path),
        "size_bytes": key.size_bytes,
        "modified": key.modified_ns,
        "edges": key.edges,
    }


def with_kind(entry: Any, kind: str | None) -> Any:
    """Return an entry with the type of its source, where it does not name its own."""
    if kind is not None and isinstance(entry, dict) and entry.get("type") is None:
        entry["type"] = kind
    return entry


def expand_braces(path: Path) -> list[Path]:
    """Return the files that ``folder/{a,b}.json`` names; other paths, or one that exists, are one.

    Raises:
        ValueError: if the braces are not in the file's name.
    """
    match = _BRACES.search(path.name)
    if path.exists() or not match:
        if _BRACES.search(str(path)) and not path.exists():
            raise ValueError(
                f"braces may be in the name of a file only, not of a folder, got {path}"
            )
        return [path]
    before, after = path.name[: match.start()], path.name[match.end() :]
    names = [before + middle.strip() + after for middle in match[1].split(",")]
    return [file for name in names for file in expand_braces(path.with_name(name))]


def _distinct(names: list[str]) -> list[str]:
    """Return names in which those that occur again have a number."""
    seen: dict[str, int] = {}
    result: list[str] = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result


def _read_mixture(path: Path, streaming: bool) -> list[DataSource]:
    if not path.is_file():
        raise ValueError(f"data file {path} does not exist")
    try:
        settings = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(settings, dict) or not settings.keys() <= {"datasets", "seed"}:
        raise ValueError(f"{path} must be a mapping of datasets and (optional) seed")
    seed, datasets = settings.get("seed", 0), settings.get("datasets")
    if not _is_seed(seed) or not isinstance(datasets, list) or not datasets:
        raise ValueError(f"{path} needs a list of datasets, and a seed >= 0 if any")
    parts: list[tuple[Path, dict[str, Any], str]] = []
    for number, entry in enumerate(datasets, start=1):
        _check_entry(entry, f"{path}: data set {number}")
        files = _files_of(entry, path.parent)
        parts += [(file, entry, str(entry.get("name", file.stem))) for file in files]
    names = _distinct([name for _, _, name in parts])
    return [
        DataSource(
            path=file,
            table=_table(entry),
            strategy=str(entry.get("sampling_strategy", "all")),
            seed=(entry.get("seed", seed), number),
            kind=entry.get("type"),
            name=name,
            streaming=entry.get("streaming", streaming),
            weight=float(entry.get("weight", 1)),
        )
        for number, ((file, entry, _), name) in enumerate(zip(parts, names, strict=True))
    ]


def _files_of(entry: dict[str, Any], folder: Path) -> list[Path]:
    """Return the paths of a data set of a mixture in ``folder``."""
    if "hf_path" in entry:
        name = Path(str(entry["hf_path"]))
        return [folder / name if (folder / name).exists() else name]
    written = folder / str(entry["json_path"])
    return [_found(file, folder) for file in expand_braces(written)]


def _found(path: Path, folder: Path) -> Path:
    """Return a path, or that of the file of its name in a folder where only that one exists."""
    near = folder / path.name
    if path == near or path.exists() or not near.exists():
        return path
    logger.info("%s does not exist; %s is read instead", path, near)
    return near


def _table(entry: dict[str, Any]) -> TableName | None:
    """Return the part of a data set of ``datasets``; None where the path says what it is."""
    if "hf_path" not in entry and not entry.keys() & {"subset", "split"}:
        return None
    return TableName(entry.get("subset"), entry.get("split", "train"))


def _check_entry(entry: Any, name: str) -> None:
    paths = ("json_path", "hf_path")
    keys = ("sampling_strategy", "type", "seed", "name", "subset", "split", "streaming", "weight")
    known = isinstance(entry, dict) and entry.keys() <= {*paths, *keys}
    if not known or len(entry.keys() & set(paths)) != 1:
        raise ValueError(
            f"{name} must have json_path or hf_path and (optional) {', '.join(keys)}, got {entry!r}"
        )
    if not isinstance(entry.get("streaming", False), bool):
        raise ValueError(f"{name}: streaming must be true or false, got {entry['streaming']!r}")
    weight = entry.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e9:
        raise ValueError(
            f"{name}: weight must be a number above 0 and below 1e9, such as 3 or 0.5, "
            f"got {weight!r}"
        )
    for key in ("subset", "split"):
        if not isinstance(entry.get(key, ""), str):
            raise ValueError(f"{name}: {key} must be a text, got {entry[key]!r}")
    if entry.get("type") not in (None, *RECORD_TYPES):
        raise ValueError(
            f"{name}: type must be one of {', '.join(RECORD_TYPES)}, got {entry['type']!r}"
        )
    if not _is_seed(entry.get("seed", 0)):
        raise ValueError(f"{name}: seed must be an integer >= 0, got {entry['seed']!r}")


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
