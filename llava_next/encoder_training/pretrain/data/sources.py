"""Images and videos to pretrain on, from where users have them, in one order with one key each.

    read_source("photos/")              every image or video below a folder
    read_source("list.jsonl")           lines {"image": PATH} or {"video": PATH}; if wanted with
                                        "key": NAME, "labels": [NUMBER, ...]
    read_source("shards/")              tar files as WebDataset writes them

Paths in a list are relative to the list's folder. A key is the path without its suffix, with dots
replaced, unless the line names one.
"""

import contextlib
import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from encoder_training.pretrain.data.samples import BadSampleError
from encoder_training.pretrain.data.tar_shards import (
    FRAMES,
    IMAGE_EXTENSIONS,
    INDICES,
    VIDEO_EXTENSIONS,
    VIDEO_PATH,
    Member,
    read_member,
    scan_shard,
)
from encoder_training.pretrain.data.videos import video_file

_MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class SourceItem:
    """One image or video.

    Attributes:
        key: its name.
        kind: ``image`` or ``video``.
        path: its file, or the shard that holds it.
        member: its place in the shard; None for a file.
        labels: those that its line of a list gives, such as the words of a text image.
        codec: members of its shard with codec patches that were selected before.
    """

    key: str
    kind: Literal["image", "video"]
    path: Path
    member: Member | None = None
    labels: tuple[int, ...] | None = None
    codec: tuple[tuple[str, Member], ...] = ()

    @property
    def place(self) -> str:
        """Return what messages call it."""
        return str(self.path) if self.member is None else f"{self.path}, key {self.key}"

    @property
    def extension(self) -> str:
        """Return the extension of its file in a shard."""
        suffix = self.path.suffix.lower().lstrip(".")
        return suffix if self.member is None else {"image": "jpg", "video": "mp4"}[self.kind]

    def read(self) -> bytes:
        """Return the content of its file.

        Raises:
            BadSampleError: if it cannot be read.
        """
        if self.member is not None:
            return read_member(self.path, self.member, self.place)
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise BadSampleError(self.place, "missing file", f"cannot be read: {error}") from error

    @contextlib.contextmanager
    def opened(self) -> Generator[Path, None, None]:
        """Give a path under which its file can be opened."""
        if self.member is None:
            yield self.path
        else:
            with video_file(self.read()) as path:
                yield path


def read_source(path: str | Path, kind: str | None = None) -> list[SourceItem]:
    """List the images and videos of a folder, a JSONL list or tar shards.

    Args:
        path: see the module.
        kind: ``image`` or ``video`` keeps only those; None keeps both.

    Raises:
        ValueError: naming path, line, rule and value; also where nothing is found.
    """
    path = Path(path)
    if path.is_dir():
        shards = sorted(path.glob("*.tar"))
        items = list(_of_shards(shards) if shards else _of_folder(path))
    elif path.is_file():
        items = list(_of_shards([path]) if path.suffix == ".tar" else _of_list(path))
    else:
        raise ValueError(f"{path} must be a folder, a JSONL list or a tar shard; it does not exist")
    items = [item for item in items if kind in (None, item.kind)]
    if not items:
        raise ValueError(f"{path} must hold at least one {kind or 'image or video'}")
    seen: dict[str, SourceItem] = {}
    for item in items:
        other = seen.setdefault(item.key, item)
        if other is not item:
            raise ValueError(
                f"{path}: keys must differ, got {item.key!r} for {other.path} and {item.path}; "
                'rename one, or give each line of a list its "key"'
            )
    return items


def _kind(extension: str) -> Literal["image", "video"] | None:
    if extension in IMAGE_EXTENSIONS:
        return "image"
    return "video" if extension in VIDEO_EXTENSIONS else None


def _key(relative: Path) -> str:
    return relative.with_suffix("").as_posix().replace(".", "_")


def _of_folder(folder: Path) -> Iterator[SourceItem]:
    for path in sorted(folder.rglob("*")):
        kind = _kind(path.suffix.lower().lstrip("."))
        if kind and path.is_file() and not path.name.startswith("."):
            yield SourceItem(_key(path.relative_to(folder)), kind, path)


def _of_list(path: Path) -> Iterator[SourceItem]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _of_line(path, number, line)


def _of_line(path: Path, number: int, line: bytes) -> SourceItem:
    where = f"{path}:{number}"
    if len(line) > _MAX_LINE_BYTES:
        raise ValueError(f"{where} must be at most {_MAX_LINE_BYTES} bytes long")
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} must be JSON, got {line[:80]!r} ({error})") from error
    kinds: tuple[Literal["image", "video"], ...] = ("image", "video")
    named = [kind for kind in kinds if isinstance(row, dict) and isinstance(row.get(kind), str)]
    if len(named) != 1:
        raise ValueError(f'{where} must name one "image" or one "video", got {row!r}')
    kind: Literal["image", "video"] = "image" if named[0] == "image" else "video"
    file = Path(row[kind])
    key = row.get("key", _key(file).lstrip("/"))
    if not isinstance(key, str) or not key or "." in key:
        raise ValueError(f"{where}: key must be a text without dots, got {key!r}")
    labels: Any = row.get("labels")
    if labels is not None and not (isinstance(labels, list) and all(map(_is_label, labels))):
        raise ValueError(f"{where}: labels must be whole numbers from 0, got {labels!r}")
    own: tuple[int, ...] | None = None if labels is None else tuple(labels)
    return SourceItem(key, kind, path.parent / file, labels=own)


def _is_label(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _of_shards(shards: Sequence[Path]) -> Iterator[SourceItem]:
    for shard in shards:
        for key, members in scan_shard(shard):
            codec = tuple((name, members[name]) for name in (INDICES, FRAMES) if name in members)
            if VIDEO_PATH in members:
                text = read_member(shard, members[VIDEO_PATH], f"{shard}, key {key}").decode()
                yield SourceItem(key, "video", shard.parent / text.strip())
                continue
            for extension, member in members.items():
                kind = _kind(extension)
                if kind:
                    yield SourceItem(key, kind, shard, member, codec=codec)
                    break
