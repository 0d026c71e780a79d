"""Files of which this disk holds only parts: the rest is fetched when it is read.

Such a file has its full size, with holes. Whoever reads videos opens it by ``open_binary``, and
gets the bytes of holes from their source; nothing else about it differs from other files. A file is
known to the process that added it only.
"""

import io
import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

BLOCK_BYTES = 1 << 16
_MAX_AHEAD_BYTES = 1 << 21

Span = tuple[int, int]
"""First byte, and the byte after the last."""


class PartialFile:
    """A file with holes, and where their content comes from.

    Args:
        path: an empty file of this disk.
        size_bytes: size of the whole.
        mtime_ns: modification time of the whole.
        fetch: returns the bytes of each of some spans.
        may_skim: whether a reader may trust a video's header instead of fetching most packets.

    Attributes:
        path, mtime_ns, may_skim: as given.
        skims: holes are read as zeros for now; nothing is fetched.
        failure: the error of the first transfer that failed; no other is tried after it.
    """

    def __init__(
        self,
        path: Path,
        size_bytes: int,
        mtime_ns: int,
        fetch: Callable[[Sequence[Span]], Sequence[bytes]],
        *,
        may_skim: bool = False,
    ) -> None:
        self.path, self.mtime_ns, self.may_skim, self.skims = path, mtime_ns, may_skim, False
        self.failure: OSError | None = None
        self._size, self._source = size_bytes, fetch
        self._has = bytearray(-(-size_bytes // BLOCK_BYTES))
        self._lock = threading.Lock()
        self._end_of_last, self._ahead = -1, BLOCK_BYTES
        self._file = os.open(path, os.O_RDWR)
        os.ftruncate(self._file, size_bytes)

    def close(self) -> None:
        """Close the file; it is not removed."""
        os.close(self._file)

    def read(self, start: int, size: int) -> bytes:
        """Return bytes from a place on, fewer at the end of the file; fetch what is missing."""
        end = min(start + size, self._size)
        if start >= end:
            return b""
        if not self.skims:
            self._fill(start, end)
        return os.pread(self._file, end - start, start)

    def read_many(self, spans: Sequence[Span]) -> list[bytes]:
        """Return the bytes of several spans that are inside the file; they are fetched together."""
        missing = [span for span in spans if 0 in self._blocks(*span)]
        found = dict(zip(missing, self._fetch(missing), strict=True)) if missing else {}
        return [
            found[span] if span in found else os.pread(self._file, span[1] - span[0], span[0])
            for span in spans
        ]

    def put_beginnings(self, places: Sequence[int], size: int) -> None:
        """Fetch some bytes from each of several places on, together, and keep them in the holes."""
        ends = [min(place + size, self._size) for place in places]
        spans = [span for span in zip(places, ends, strict=True) if span[0] < span[1]]
        for (start, _), content in zip(spans, self.read_many(spans), strict=True):
            os.pwrite(self._file, content, start)

    def _fetch(self, spans: Sequence[Span]) -> Sequence[bytes]:
        # FFmpeg may take an error for the end of a damaged file: what follows must fail as well.
        if self.failure is not None:
            raise self.failure
        try:
            return self._source(spans)
        except OSError as error:
            self.failure = error
            raise

    def _blocks(self, start: int, end: int) -> bytearray:
        return self._has[start // BLOCK_BYTES : -(-end // BLOCK_BYTES)]

    def _fill(self, start: int, end: int) -> None:
        # One lock for the lookup and the transfer: threads that decode neighbouring groups would
        # fetch the same blocks twice.
        with self._lock:
            first, last = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
            while (hole := self._has.find(0, first, last)) >= 0:
                first = self._fetch_from(hole)

    def _fetch_from(self, block: int) -> int:
        """Fetch a missing block, with more of those after it the longer reading goes straight on.

        Returns:
            The block after the last one that was fetched.
        """
        is_straight = block == self._end_of_last
        self._ahead = min(self._ahead * 2, _MAX_AHEAD_BYTES) if is_straight else BLOCK_BYTES
        end = min(block + self._ahead // BLOCK_BYTES, len(self._has))
        known = self._has.find(1, block, end)
        end = known if known >= 0 else end
        start_byte, end_byte = block * BLOCK_BYTES, min(end * BLOCK_BYTES, self._size)
        (content,) = self._fetch([(start_byte, end_byte)])
        os.pwrite(self._file, content, start_byte)
        self._has[block:end] = b"\1" * (end - block)
        self._end_of_last = end
        return end


class _Reader(io.RawIOBase):
    """One place in a partial file; FFmpeg reads through it."""

    def __init__(self, file: PartialFile, size_bytes: int) -> None:
        self._file, self._size, self._place = file, size_bytes, 0
        self.name = str(file.path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        content = self._file.read(self._place, self._size if size < 0 else size)
        self._place += len(content)
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(start + offset, 0)
        return self._place

    def tell(self) -> int:
        return self._place


_known: dict[str, PartialFile] = {}


@contextmanager
def partial_file(file: PartialFile) -> Generator[Path]:
    """Make a partial file known to ``find_partial`` and ``open_binary`` inside the block."""
    _known[str(file.path)] = file
    try:
        yield file.path
    finally:
        del _known[str(file.path)]


def find_partial(path: str | os.PathLike[str]) -> PartialFile | None:
    """Return the partial file of a path; None where the disk holds the whole."""
    return _known.get(os.fspath(path)) if _known else None


def file_status(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the size of a file in bytes, and its modification time in ns.

    Raises:
        OSError: it cannot be looked at.
    """
    file, status = find_partial(path), os.stat(path)
    # Each part that is fetched sets the time of the file on this disk.
    return status.st_size, status.st_mtime_ns if file is None else file.mtime_ns


def open_binary(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read its bytes; those of a partial file are fetched where they are missing.

    Raises:
        OSError: it cannot be opened, or, when it is read, a part cannot be fetched.
    """
    file = find_partial(path)
    if file is None:
        return open(path, "rb")
    return cast(BinaryIO, _Reader(file, os.stat(path).st_size))
