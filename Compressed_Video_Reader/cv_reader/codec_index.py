"""The codec index: which patches of each video of a data set are kept, as one file of JSON lines.

    {"schema": "cv_reader.codec_index", "version": 1, "settings": {...}, "fingerprint": "...",
     "algorithm_version": 8, "grid": 16, "slots": 64, "keep": 2048, "root": "relative"}
    {"video": "a/b.mp4", "source": {...}, "backend": "native", "num_frames": 200,
     "frame_ids": [0, 3, ...], "rows": [0, 1, 1, ...]}

The first line names what made all others; each other line is a video, by its path relative to a
root that the reader of the file chooses. ``rows`` are the kept cells as indices
t * grid^2 + h * grid + w in ascending order, written as differences: the first number is an index,
each other one is added to the sum before it. ``.jsonl.zst`` is the same text, compressed.

Axis letters: T slots, K rows, g cells along a side.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from cv_reader.assets.files import new_file
from cv_reader.assets.freshness import same_source
from cv_reader.errors import AssetError, SettingsError, StaleAssetError
from cv_reader.select.config import ALGORITHM_VERSION, AssetConfig

SCHEMA = "cv_reader.codec_index"
VERSION = 1
SUFFIXES = (".jsonl", ".jsonl.zst")
MAX_LINE_BYTES = 1 << 24
_MAX_UNPACKED_BYTES = 1 << 40


@dataclass(frozen=True)
class IndexHeader:
    """What made an index.

    Attributes:
        config: settings of the selection.
        keep: K, cells of each video; at most ``config.num_rows``.
    """

    config: AssetConfig
    keep: int

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= self.config.num_rows:
            raise SettingsError(
                f"keep must be in 1..{self.config.num_rows} (num_images * grid^2), got {self.keep}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the first line of the file."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "algorithm_version": ALGORITHM_VERSION,
            "settings": self.config.to_dict(),
            "fingerprint": self.config.fingerprint,
            "grid": self.config.grid,
            "slots": self.config.sequence_length,
            "keep": self.keep,
        }


@dataclass(frozen=True)
class IndexEntry:
    """What is kept of one video.

    Attributes:
        video: path relative to the root.
        source: size, modification time and SHA-256 of the file.
        backend: which backend read it, or ``reference`` for a converted entry.
        num_frames: frames of the video; 0 where a converted entry does not say.
        frame_ids: int32 (T,).
        rows: int32 (K, 3), (t, h, w), ascending.
    """

    video: str
    source: dict[str, Any]
    backend: str
    num_frames: int
    frame_ids: NDArray[np.int32]
    rows: NDArray[np.int32]


def index_line(entry: IndexEntry, grid: int) -> bytes:
    """Return the line of an entry, with its line feed."""
    flat = np.sort(entry.rows.astype(np.int64) @ np.array([grid * grid, grid, 1]))
    content = {
        "video": entry.video,
        "source": entry.source,
        "backend": entry.backend,
        "num_frames": entry.num_frames,
        "frame_ids": entry.frame_ids.tolist(),
        "rows": np.diff(flat, prepend=0).tolist(),
    }
    return _json_line(content)


def _json_line(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, separators=(",", ":")) + "\n").encode()


class CodecIndex:
    """An index that is open for reading: where each video's line is, not the lines themselves.

    Raises:
        AssetError: if the file is no index, or damaged; naming file, line and rule.
        StaleAssetError: if another version of the program or of the algorithm made it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._stream: BinaryIO = _unpacked(path)
        except OSError as error:
            raise AssetError(f"{path}: cannot be read ({error.strerror})") from error
        self.header = self._read_header()
        self._places: dict[str, tuple[int, int]] = {}
        for number, offset, line in self._lines():
            entry = _parsed(line, f"{path}:{number}")
            video = entry.get("video")
            if not isinstance(video, str) or not video:
                raise AssetError(f"{path}:{number}: video must be a path, got {video!r}")
            if video in self._places:
                raise AssetError(f"{path}:{number}: {video!r} is there twice; make the index again")
            self._places[video] = (number, offset)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, video: object) -> bool:
        return video in self._places

    def videos(self) -> Iterator[str]:
        """Return the videos in the order of the file."""
        return iter(self._places)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def line(self, video: str) -> bytes:
        """Return the line of a video as it is."""
        self._stream.seek(self._places[video][1])
        return self._stream.readline(MAX_LINE_BYTES)

    def entry(self, video: str) -> IndexEntry:
        """Return what is kept of a video.

        Raises:
            KeyError: The index has no such video.
            AssetError: if its line breaks the format.
        """
        where = f"{self.path}:{self._places[video][0]}"
        return _entry(_parsed(self.line(video), where), self.header, where)

    def is_fresh(self, video: str, path: Path) -> bool:
        """Return whether a file is the one that an entry was made from."""
        content = _parsed(self.line(video), f"{self.path}:{self._places[video][0]}")
        source: Any = content.get("source")
        return isinstance(source, dict) and same_source(source, path)  # pyright: ignore[reportUnknownArgumentType]

    def _read_header(self) -> IndexHeader:
        where = f"{self.path}:1"
        content = _parsed(self._stream.readline(MAX_LINE_BYTES), where)
        if content.get("schema") != SCHEMA:
            raise AssetError(f"{where}: schema must be {SCHEMA!r}, got {content.get('schema')!r}")
        for name, expected in (("version", VERSION), ("algorithm_version", ALGORITHM_VERSION)):
            if content.get(name) != expected:
                raise StaleAssetError(
                    f"{where}: {name} must be {expected}, got {content.get(name)!r}; make the "
                    "index again with cv_reader index --overwrite"
                )
        settings, keep = content.get("settings"), content.get("keep")
        if not isinstance(settings, dict) or not isinstance(keep, int):
            raise AssetError(f"{where}: settings and keep must be there; make the index again")
        config = AssetConfig.from_dict(cast("dict[str, Any]", settings), where)
        header = IndexHeader(config, keep)
        if content.get("fingerprint") != config.fingerprint:
            raise StaleAssetError(
                f"{where}: fingerprint {str(content.get('fingerprint'))[:16]} where its settings "
                f"and this version give {config.fingerprint}: another version made the index, or "
                "the line was changed; make it again with cv_reader index --overwrite"
            )
        return header

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        number, offset = 1, self._stream.tell()
        while line := self._stream.readline(MAX_LINE_BYTES):
            number += 1
            if not line.endswith(b"\n"):
                raise AssetError(
                    f"{self.path}:{number}: the line is cut off, or longer than {MAX_LINE_BYTES} "
                    "bytes; run cv_reader index again"
                )
            yield number, offset, line
            offset += len(line)


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        content: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise AssetError(f"{where}: not valid JSON ({error}); make the index again") from error
    if not isinstance(content, dict):
        raise AssetError(f"{where}: must be a JSON object; make the index again")
    return cast("dict[str, Any]", content)


def _entry(content: dict[str, Any], header: IndexHeader, where: str) -> IndexEntry:
    config = header.config
    frame_ids = _whole_numbers(content.get("frame_ids"), f"{where}: frame_ids")
    flat = np.cumsum(_whole_numbers(content.get("rows"), f"{where}: rows"))
    cells = config.sequence_length * config.grid**2
    if len(frame_ids) != config.sequence_length:
        raise AssetError(
            f"{where}: frame_ids must have {config.sequence_length} numbers, got {len(frame_ids)}"
        )
    num_frames = content.get("num_frames")
    if not isinstance(num_frames, int) or num_frames < 0:
        raise AssetError(f"{where}: num_frames must be a whole number, got {num_frames!r}")
    if (np.diff(frame_ids) < 0).any() or (num_frames and frame_ids.max() >= num_frames):
        raise AssetError(f"{where}: frame_ids must ascend and be below {num_frames}")
    is_free = config.has_free_length
    if len(flat) > header.keep or not len(flat) or (len(flat) < header.keep and not is_free):
        raise AssetError(f"{where}: rows must have {header.keep} numbers, got {len(flat)}")
    if (np.diff(flat) < 0).any() or flat[-1] >= cells:
        raise AssetError(f"{where}: rows must ascend in [0, {cells})")
    area = config.grid**2
    rows = np.stack((flat // area, flat // config.grid % config.grid, flat % config.grid), axis=-1)
    return IndexEntry(
        video=str(content["video"]),
        source=dict(content.get("source") or {}),
        backend=str(content.get("backend", "")),
        num_frames=num_frames,
        frame_ids=frame_ids.astype(np.int32),
        rows=rows.astype(np.int32),
    )


def _whole_numbers(values: Any, what: str) -> NDArray[np.int64]:
    try:
        array: NDArray[Any] = np.array(values)
    except (ValueError, OverflowError):
        array = np.zeros(0)
    if array.ndim != 1 or array.dtype != np.int64 or not len(array) or array.min() < 0:
        raise AssetError(f"{what} must be whole numbers from 0; make the index again")
    if array.max() >= 1 << 31:
        raise AssetError(f"{what} must be below 2^31, got {array.max()}")
    return array


def check_suffix(path: Path) -> None:
    """Refuse a name that no index may have.

    Raises:
        SettingsError: if the suffix is unknown, or the package for ``.zst`` is missing.
    """
    if not path.name.endswith(SUFFIXES):
        raise SettingsError(f"{path}: an index must end in .jsonl or .jsonl.zst")
    if path.suffix == ".zst":
        _zstandard()


def write_index(path: Path, header: IndexHeader, lines: Iterable[bytes]) -> None:
    """Write an index that appears whole; ``lines`` are those of ``index_line``.

    Raises:
        OutputError: if it cannot be written.
    """
    check_suffix(path)
    with new_file(path) as temporary, _packed(temporary, path.suffix == ".zst") as stream:
        stream.write(_json_line(header.to_json()))
        for line in lines:
            stream.write(line)


@contextlib.contextmanager
def _packed(path: Path, compresses: bool) -> Generator[IO[bytes], None, None]:
    with path.open("wb") as stream:
        if not compresses:
            yield stream
            return
        with _zstandard().ZstdCompressor(level=6).stream_writer(stream, closefd=False) as packed:
            yield packed


def _unpacked(path: Path) -> BinaryIO:
    """Open the text of an index for random access; compressed text goes to a temporary file."""
    if path.suffix != ".zst":
        return path.open("rb")
    library = _zstandard()
    target = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115
    with path.open("rb") as packed:
        try:
            reader = library.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
            while block := reader.read(1 << 20):
                target.write(block)
                if target.tell() > _MAX_UNPACKED_BYTES:
                    raise AssetError(f"{path}: unpacks to more than {_MAX_UNPACKED_BYTES} bytes")
        except library.ZstdError as error:
            raise AssetError(f"{path}: is damaged ({error}); make the index again") from error
    target.seek(0, io.SEEK_SET)
    return target


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise SettingsError(
            "a .jsonl.zst index needs the package zstandard; pip install zstandard, or use .jsonl"
        ) from error
    return zstandard
