"""Data sets of video samples: their identity, their shards, and which rows are usable.

A data set is a ``.json`` array or ``.jsonl`` lines of objects with ``id``, ``video`` and
``conversations``; ``rows`` streams them. The key of a sample is ``{video}|{id}|{row}``, row being
``_row_idx`` where given, else its 0-based number in the file; its shard is the first 32 bits of
the SHA-1 of that key, modulo the number of shards.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path, PurePosixPath

from cv_reader.assets.names import hash8
from cv_reader.assets.rows import Row, read_rows
from cv_reader.errors import SampleError, VideoNotFoundError
from cv_reader.remote.addresses import is_address
from cv_reader.remote.videos import remote_status

_MAX_ROW_INDEX = 1 << 63
_MAX_NAME_BYTES = 255


@dataclass(frozen=True)
class VideoSample:
    """One usable row.

    Attributes:
        sample_id: the row's id as a string.
        video: path or name as written.
        row_index: see the module.
        row: the whole row.
        where: file and line or element, for messages.
    """

    sample_id: str
    video: str
    row_index: int
    row: Row
    where: str

    @property
    def key(self) -> str:
        """Return ``{video}|{id}|{row}``."""
        return f"{self.video}|{self.sample_id}|{self.row_index}"

    def shard(self, num_shards: int) -> int:
        """Return its shard, 0-based."""
        return int(hash8(self.key), 16) % num_shards


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        row_index: its 0-based place in the file.
        where: file and line or element.
        reason: the whole message.
        row: what could be read of it.
    """

    row_index: int
    where: str
    reason: str
    row: Row

    def shard(self, num_shards: int) -> int:
        """Return the shard that reports it: it has no identity, so its number decides."""
        return self.row_index % num_shards


def describe_sample(sample: VideoSample | BadRow) -> dict[str, object]:
    """Return what a failure file says about which sample failed."""
    if isinstance(sample, VideoSample):
        return {"id": sample.sample_id, "video": sample.video, "where": sample.where}
    return {"id": sample.row.get("id"), "video": sample.row.get("video"), "where": sample.where}


def read_samples(
    path: Path, *, num_shards: int = 1, shard_id: int = 0, max_samples: int = 0
) -> Iterator[VideoSample | BadRow]:
    """Stream one shard of a data set, in the order of the file.

    Args:
        path: ``.json`` or ``.jsonl``.
        num_shards: shards in all, by the key's hash; bad rows by their place.
        shard_id: which one.
        max_samples: look at so many rows of the file only; 0 = all.

    Raises:
        SettingsError, SampleError: as ``read_rows``.
    """
    for number, (where, content) in enumerate(read_rows(path)):
        if max_samples and number >= max_samples:
            return
        sample = _check_row(content, number, where)
        if sample.shard(num_shards) == shard_id:
            yield sample


def _check_row(content: Row | SampleError, number: int, where: str) -> VideoSample | BadRow:
    if isinstance(content, SampleError):
        return BadRow(number, where, str(content), {})
    sample_id, video = content.get("id"), content.get("video")
    if isinstance(sample_id, bool) or not isinstance(sample_id, (str, int)) or sample_id == "":
        reason = f"{where}: id must be a string or a number, got {sample_id!r}; add one"
        return BadRow(number, where, reason, content)
    if fault := video_fault(video):
        return BadRow(number, where, f"{where}: {fault}", content)
    row_index = _row_index(content, number)
    if row_index is None:
        reason = (
            f"{where}: _row_idx must be a whole number of at least 0, got "
            f"{content['_row_idx']!r}; correct or remove it"
        )
        return BadRow(number, where, reason, content)
    return VideoSample(str(sample_id), str(video), row_index, content, where)


def video_fault(video: object) -> str:
    """Return why a row's ``video`` cannot name a file; "" where it can."""
    if not isinstance(video, str) or not video:
        return f"video must be a path, got {video!r}; add one or remove the sample"
    is_plain = video.isascii() and video.isprintable() and video[-1] not in "/."
    if is_plain and len(video) <= _MAX_NAME_BYTES:
        return ""
    try:
        encoded = os.fsencode(video)
    except UnicodeEncodeError:
        encoded = b"\0"
    is_short = len(encoded) <= _MAX_NAME_BYTES
    longest = 0 if is_short else max(map(len, encoded.split(b"/")))
    last = video.rpartition("/")[2]
    names_file = last not in ("", ".", "..") or PurePosixPath(video).name not in ("", "..")
    if b"\0" in encoded or longest > _MAX_NAME_BYTES or not names_file:
        return f"video must name a file, got {video!r}; correct it or remove the sample"
    return ""


def _row_index(row: Row, number: int) -> int | None:
    """Return ``_row_idx``; the row's number where it is no number, None where it is absurd."""
    given = row.get("_row_idx")
    if isinstance(given, float) and not isfinite(given):
        return None
    try:
        index = number if given is None else int(given)
    except (TypeError, ValueError):
        return number
    return index if 0 <= index < _MAX_ROW_INDEX else None


def check_video(path: Path) -> None:
    """Raise VideoNotFoundError unless the path is that of a file, here or in a store."""
    is_there = remote_status(path) is not None if is_address(path) else path.is_file()
    if not is_there:
        raise VideoNotFoundError(path, "no such file")
