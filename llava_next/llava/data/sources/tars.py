"""Samples of WebDataset tars, read by row: one file costs one read at its place.

The members of a sample share their name up to the first dot, its key:

| member | read as |
|---|---|
| ``KEY.json`` | the entry, if it has ``conversations`` or ``messages`` |
| ``KEY.txt`` | a caption, the answer to the picture alone, where no such JSON is |
| ``KEY.jpg``, ``KEY.0.png`` ... | the pictures, by the numbers in their names |
| ``KEY.positions_thw.npy`` | the positions of a codec clip's mosaics |

A name in ``image``, ``images`` or ``positions_thw`` of the entry that is a member (``1.jpg``, or
``KEY.1.jpg``) means that member; where the entry has none of these fields, all members above count.
Other paths join the image folder, as everywhere.

``NAME.index.json`` next to each tar says where its members begin; the first start writes it. The
layout is that of ``cv_reader.shards``, so the tars of ``cv_reader convert --to tar`` are read, too.
"""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cv_reader.shards import (
    Member,
    index_bytes,
    index_path,
    member_name,
    open_file,
    read_shard_index,
    sample_path,
    scan_tar,
)
from llava.constants import IMAGE_PLACEHOLDER
from llava.data.records import RecordError
from llava.data.sources.entry_index import FileKey, files_key
from llava.visual.loading import IMAGE_SUFFIXES, natural_order
from run_kit.files import replace_file

logger = logging.getLogger(__name__)

POSITIONS = "positions_thw.npy"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_TARS = 1_000_000
_MAX_TEXT_BYTES = 1 << 26
_VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".video")


@dataclass(frozen=True)
class TarSamples:
    """The samples of one or more tars.

    Attributes:
        path: the path that names them.
        tars: the files, in order.
        ends: int64, number of samples up to the end of each tar.
    """

    path: Path
    tars: tuple[Path, ...]
    ends: np.ndarray

    def __len__(self) -> int:
        return int(self.ends[-1])

    def key(self) -> FileKey:
        """Return the facts that show whether any of the tars has changed."""
        return files_key(self.tars)

    def where(self, row: int) -> str:
        """Return ``TAR#KEY`` of a sample."""
        tar, key, _ = self._sample(row)
        return str(sample_path(tar, key))

    def read(self, row: int) -> Any:
        """Return a sample as an entry whose paths lead into the tar.

        Raises:
            RecordError: if it holds no conversation, or its JSON is broken; the message names it.
        """
        tar, key, members = self._sample(row)
        folder = sample_path(tar, key)
        entry = _conversation(folder, members)
        # The same forms that WebDataset's own users write: the member's suffix, or its whole name.
        names = {name: str(folder / name) for name in members}
        names |= {member_name(key, name): path for name, path in list(names.items())}
        if not entry.keys() & {"image", "images", "video", "videos", "positions_thw"}:
            entry |= _pictures(folder, members)
        for field in ("image", "images", "positions_thw"):
            value = entry.get(field)
            if isinstance(value, list):
                named = (names.get(item, item) if isinstance(item, str) else item for item in value)
                entry[field] = list(named)
            elif isinstance(value, str):
                entry[field] = names.get(value, value)
        entry.setdefault("id", key)
        return entry

    def _sample(self, row: int) -> tuple[Path, str, dict[str, Member]]:
        number = int(np.searchsorted(self.ends, row, side="right"))
        tar = self.tars[number]
        samples = _samples(tar)
        before = int(self.ends[number - 1]) if number else 0
        if len(samples) != self.ends[number] - before:
            raise RecordError(f"{tar} changed while it was read; start again")
        key = list(samples)[row - before]
        return tar, key, samples[key]


def _samples(tar: Path) -> dict[str, dict[str, Member]]:
    try:
        return read_shard_index(tar).samples
    except OSError as error:
        raise RecordError(f"{tar}: {error}") from error


def _conversation(folder: Path, members: dict[str, Member]) -> dict[str, Any]:
    """Return the conversation of a sample: its JSON, else a caption as an answer."""
    if "json" in members:
        try:
            entry = json.loads(_text(folder, "json", members))
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{folder}: its .json is no valid JSON: {error}") from error
        if not isinstance(entry, dict):
            raise RecordError(f"{folder}: its .json must be an object, got {type(entry).__name__}")
        if entry.keys() & {"conversations", "messages"}:
            return entry
    if "txt" in members:
        caption = _text(folder, "txt", members).strip()
        answer = {"from": "gpt", "value": caption}
        return {"conversations": [{"from": "human", "value": IMAGE_PLACEHOLDER}, answer]}
    raise RecordError(
        f"{folder}: a sample needs a .json with conversations or messages, or a .txt, got "
        f"{', '.join(sorted(members)[:5])}"
    )


def _text(folder: Path, name: str, members: dict[str, Member]) -> str:
    size = members[name].size
    if size > _MAX_TEXT_BYTES:
        raise RecordError(f"{folder}: its .{name} may have {_MAX_TEXT_BYTES} bytes, got {size}")
    try:
        with open_file(folder / name) as file:
            return file.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{folder}: its .{name} cannot be read: {error}") from error


def _pictures(folder: Path, members: dict[str, Member]) -> dict[str, Any]:
    """Return the fields of the pictures and positions that are members of a sample."""
    suffixes = {name: Path(f"x.{name}").suffix.lower() for name in members}
    videos = [name for name, suffix in suffixes.items() if suffix in _VIDEO_SUFFIXES]
    if videos:
        raise RecordError(
            f"{folder}: videos inside tars are not read, got {videos[0]}; make codec assets with "
            "`cv_reader precompute --output tar`, or unpack the videos and name them in video"
        )
    images = [folder / name for name, suffix in suffixes.items() if suffix in IMAGE_SUFFIXES]
    fields: dict[str, Any] = {}
    if images:
        fields["image"] = [str(path) for path in sorted(images, key=natural_order)]
    if POSITIONS in members:
        fields["positions_thw"] = str(folder / POSITIONS)
    return fields


def find_tars(path: Path) -> list[Path]:
    """Return the tars that a path names: itself, ``{0000..0099}.tar``, or all of a folder.

    Raises:
        ValueError: The range is too long or runs backwards.
    """
    if path.is_dir():
        return sorted(file for file in path.glob("*.tar") if not file.name.startswith("."))
    if path.suffix != ".tar":
        return []
    match = None if path.exists() else _RANGE.search(path.name)
    if match is None:
        return [path]
    first, last = match.groups()
    if not int(first) <= int(last) < int(first) + _MAX_TARS:
        raise ValueError(f"a range of tars must be {{FIRST..LAST}}, ascending, got {path.name}")
    before, after = path.name[: match.start()], path.name[match.end() :]
    return [
        path.with_name(f"{before}{number:0{len(first)}d}{after}")
        for number in range(int(first), int(last) + 1)
    ]


def open_tars(path: Path, tars: Sequence[Path]) -> TarSamples:
    """Find the samples of tars; the index of a tar that has none is written next to it.

    Raises:
        ValueError: A tar is missing, damaged or without samples, or its index cannot be written.
    """
    counts: list[int] = []
    for tar in tars:
        if not tar.is_file():
            raise ValueError(f"data file {tar} does not exist")
        try:
            if not _is_indexed(tar):
                _write_index(tar)
            counts.append(len(read_shard_index(tar).samples))
        except OSError as error:
            raise ValueError(f"{tar}: {error}") from error
    if not sum(counts):
        raise ValueError(f"{path} holds no samples")
    return TarSamples(path, tuple(tars), np.cumsum(counts))


def _is_indexed(tar: Path) -> bool:
    """Return whether a tar has an index that is not older than the tar itself."""
    index = index_path(tar)
    return index.is_file() and index.stat().st_mtime_ns >= tar.stat().st_mtime_ns


def _write_index(tar: Path) -> None:
    logger.info("%s: writing its index", tar)
    content = index_bytes(scan_tar(tar))
    try:
        with replace_file(index_path(tar)) as temporary, temporary.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise OSError(
            f"its index {index_path(tar).name} cannot be written next to it ({error}); make the "
            "folder writable for the first start"
        ) from error
