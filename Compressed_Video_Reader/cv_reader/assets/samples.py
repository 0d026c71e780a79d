"""Data sets of video samples: streaming, identity, shards, and the rewrite of conversations.

A data set is a ``.json`` array or ``.jsonl`` lines of objects with ``id``, ``video`` and
``conversations``. Neither is ever held as a whole. A sample is known by
``{video}|{id}|{row}``, row being ``_row_idx`` where given, else its 0-based place in the file; its
shard is the first 32 bits of the SHA-1 of that key, modulo the number of shards.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any, TextIO, cast

from cv_reader.assets.names import hash8
from cv_reader.errors import SampleError, SettingsError, VideoNotFoundError

CHUNK_CHARS = 1 << 20
MAX_ELEMENT_CHARS = 1 << 26
VIDEO_PLACEHOLDER = "<video>"
IMAGE_PLACEHOLDER = "<image>"
_LONGEST_TOKEN_CHARS = 16

Row = dict[str, Any]


@dataclass(frozen=True)
class Sample:
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
        """``{video}|{id}|{row}``."""
        return f"{self.video}|{self.sample_id}|{self.row_index}"

    def shard(self, num_shards: int) -> int:
        """The shard it belongs to, 0-based."""
        return int(hash8(self.key), 16) % num_shards


@dataclass(frozen=True)
class BadSample:
    """A row that cannot be used, and why.

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
        """The shard that reports it: without an identity, by its place."""
        return self.row_index % num_shards


def describe(sample: Sample | BadSample) -> dict[str, object]:
    """A sample in a failure file."""
    if isinstance(sample, Sample):
        return {"id": sample.sample_id, "video": sample.video, "where": sample.where}
    return {"id": sample.row.get("id"), "video": sample.row.get("video"), "where": sample.where}


def read_rows(path: Path) -> Iterator[tuple[str, Row | SampleError]]:
    """Stream the rows of a data set, each with its place ("file:line" or "file[element]").

    A broken line of a ``.jsonl`` comes as the error that describes it. A ``.json`` array cannot be
    picked up again behind a syntax error, so that is raised.

    Raises:
        SettingsError: if the file cannot be opened or its suffix is unknown.
        SampleError: if a ``.json`` file is no array or breaks off.
    """
    readers = {".json": _array_rows, ".jsonl": _line_rows}
    if path.suffix not in readers:
        raise SettingsError(f"{path}: a data set must end in .json or .jsonl")
    try:
        yield from readers[path.suffix](path)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from error


def _line_rows(path: Path) -> Iterator[tuple[str, Row | SampleError]]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.isspace():
                continue
            where = f"{path}:{number}"
            yield where, _parse_line(line, where)


def _parse_line(line: bytes, where: str) -> Row | SampleError:
    try:
        content: Any = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return SampleError(f"{where}: not valid JSON ({error}); repair or remove the line")
    return _as_row(content, where)


def _as_row(content: Any, where: str) -> Row | SampleError:
    if not isinstance(content, dict):
        kind = type(content).__name__
        return SampleError(f"{where}: a sample must be a JSON object, got {kind}; repair it")
    return cast("Row", content)


def _array_rows(path: Path) -> Iterator[tuple[str, Row | SampleError]]:
    with path.open(encoding="utf-8-sig") as stream:
        for number, content in enumerate(_ArrayStream(path, stream)):
            where = f"{path}[{number}]"
            yield where, _as_row(content, where)


class _ArrayStream:
    """Elements of a JSON array, parsed from a buffer that is refilled chunk by chunk."""

    def __init__(self, path: Path, stream: TextIO) -> None:
        self._path, self._stream = path, stream
        self._buffer, self._position, self._ended = "", 0, False
        self._lines_before = 0
        self._decoder = json.JSONDecoder()

    def __iter__(self) -> Iterator[Any]:
        if self._next_char() != "[":
            raise self._broken("a .json data set must be one array of objects")
        self._position += 1
        if self._next_char() == "]":
            return
        while True:
            yield self._element()
            separator = self._next_char()
            self._position += 1
            if separator == "]":
                return
            if separator != ",":
                raise self._broken(f"expected ',' or ']' after an element, got {separator!r}")

    def _next_char(self) -> str:
        """Skip white space; "" at the end of the file."""
        while True:
            while self._position < len(self._buffer):
                if not self._buffer[self._position].isspace():
                    return self._buffer[self._position]
                self._position += 1
            if not self._refill():
                return ""

    def _refill(self) -> bool:
        try:
            chunk = self._stream.read(CHUNK_CHARS)
        except UnicodeDecodeError as error:
            raise self._broken(f"not UTF-8 ({error.reason})") from error
        self._lines_before += self._buffer.count("\n", 0, self._position)
        self._buffer, self._position = self._buffer[self._position :] + chunk, 0
        self._ended = not chunk
        return not self._ended

    def _element(self) -> Any:
        self._next_char()
        while True:
            try:
                element, end = self._decoder.raw_decode(self._buffer, self._position)
            except (JSONDecodeError, RecursionError) as error:
                if not self._is_cut(error) or not self._refill():
                    raise self._broken(str(error)) from error
            else:
                self._position = end
                return element

    def _is_cut(self, error: JSONDecodeError | RecursionError) -> bool:
        """Whether more text may mend it: the error is at the end of the buffer."""
        if isinstance(error, RecursionError):
            return False
        size = len(self._buffer) - self._position
        at_end = error.pos >= len(self._buffer) - _LONGEST_TOKEN_CHARS
        return size < MAX_ELEMENT_CHARS and (at_end or "Unterminated string" in error.msg)

    def _broken(self, reason: str) -> SampleError:
        line = self._lines_before + self._buffer.count("\n", 0, self._position) + 1
        return SampleError(f"{self._path}:{line}: {reason}; repair the file")


def read_samples(
    path: Path, *, num_shards: int = 1, shard_id: int = 0, max_samples: int = 0
) -> Iterator[Sample | BadSample]:
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


def _check_row(content: Row | SampleError, number: int, where: str) -> Sample | BadSample:
    if isinstance(content, SampleError):
        return BadSample(number, where, str(content), {})
    sample_id, video = content.get("id"), content.get("video")
    if isinstance(sample_id, bool) or not isinstance(sample_id, (str, int)) or sample_id == "":
        reason = f"{where}: id must be a string or a number, got {sample_id!r}; add one"
        return BadSample(number, where, reason, content)
    if not isinstance(video, str) or not video:
        reason = f"{where}: video must be a path, got {video!r}; add one or remove the sample"
        return BadSample(number, where, reason, content)
    return Sample(str(sample_id), video, _row_index(content, number), content, where)


def _row_index(row: Row, number: int) -> int:
    try:
        return int(row["_row_idx"])
    except (KeyError, TypeError, ValueError):
        return number


def resolve_video(video: str, *, data_file: Path, video_root: Path | None) -> Path:
    """Where a video lies: relative paths join the root, else the folder of the data set."""
    return (video_root or data_file.parent) / video


def check_video(path: Path) -> None:
    """Raise VideoNotFoundError unless a file stands there."""
    if not path.is_file():
        raise VideoNotFoundError(path, "no such file")


def rewrite_conversations(sample: Sample, num_images: int) -> list[dict[str, Any]]:
    """Put one ``<image>`` line per mosaic where the first human turn has ``<video>``.

    Without a placeholder the lines go before the turn; a turn that has ``<image>`` already is left.

    Raises:
        SampleError: if there is no human turn, or the ``<image>`` count comes out wrong.
    """
    turns: Any = sample.row.get("conversations")
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("value"), str)  # pyright: ignore[reportUnknownMemberType]
        for turn in cast("list[Any]", turns)
    ):
        raise SampleError(
            f"{sample.where}: sample {sample.sample_id}: conversations must be a list of turns "
            'like {"from": "human", "value": "..."}; repair it'
        )
    rewritten = [dict(turn) for turn in cast("list[dict[str, Any]]", turns)]
    first = next((turn for turn in rewritten if turn.get("from") == "human"), None)
    if first is None:
        raise SampleError(
            f"{sample.where}: sample {sample.sample_id}: no turn is from a human; add one"
        )
    first["value"] = _with_images(first["value"], num_images)
    found = sum(turn["value"].count(IMAGE_PLACEHOLDER) for turn in rewritten)
    if found != num_images:
        raise SampleError(
            f"{sample.where}: sample {sample.sample_id}: {found} {IMAGE_PLACEHOLDER} for "
            f"{num_images} images; write one {VIDEO_PLACEHOLDER} instead"
        )
    return rewritten


def _with_images(text: str, num_images: int) -> str:
    block = "\n".join([IMAGE_PLACEHOLDER] * num_images)
    if VIDEO_PLACEHOLDER in text:
        return text.replace(VIDEO_PLACEHOLDER, block, 1)
    return text if IMAGE_PLACEHOLDER in text else f"{block}\n{text}"
