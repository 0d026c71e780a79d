"""Read packets from a given row of the packet table.

A container is asked to seek, and where it landed is found out by comparing packets with the table:
byte position and size. Where that fails, packets are read from the start; they are not decoded.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from cv_reader.errors import CorruptVideoError
from cv_reader.media.container import open_stream
from cv_reader.media.index import VideoSource
from cv_reader.media.scanning import NO_TIME, filled_packets

_MAX_UNKNOWN_PACKETS = 8
"""After a seek, packets that may precede the first one known from the table."""


class PacketReader:
    """The packets of one open file, by row."""

    def __init__(
        self,
        source: VideoSource,
        configure: Callable[[VideoStream], None],
        *,
        without_decoding: bool = False,
    ) -> None:
        """Prepare to read; ``configure`` is called with the stream each time the file is opened,
        and ``without_decoding`` says that PyAV does not decode it."""
        self._path = source.index.path
        self._stream_index = source.index.stream_index
        self._table = source.packets
        self._is_packed = source.is_packed
        self._configure = configure
        self._without_decoding = without_decoding
        self._stack = ExitStack()
        self._ahead: Packet | None = None
        self._row: int | None = None

    def open(self) -> None:
        """Open the file again, at row 0."""
        self._release()
        self._container, self.stream = self._stack.enter_context(
            open_stream(
                self._path,
                without_decoding=self._without_decoding,
                stream_index=self._stream_index,
            )
        )
        self._configure(self.stream)
        self._packets = self._filled()
        self._ahead, self._row = None, 0

    def close(self) -> None:
        """Close the file for good."""
        self._release()
        # The caller's method leads back to the caller: a cycle that would keep its decoder, and
        # with it many pictures, until the garbage collector happens to run.
        self._configure = _nothing

    def _release(self) -> None:
        self._packets: Iterator[Packet] = iter(())
        self._stack.close()

    def forget_place(self) -> None:
        """Make the next read seek even if it follows the last: the decoder has been flushed."""
        self._row = None

    def read(self, first: int, last: int) -> Iterator[tuple[int, Packet]]:
        """Yield rows ``first``..``last`` with their packets, fewer where the file ends early.

        Raises:
            CorruptVideoError: the packets are not those of the table: the file has changed.
        """
        row = first if self._row == first else self._seek(first)
        self._row = None
        while row <= last:
            packet = self._next()
            if packet is None:
                return
            if packet.size != self._table.size_bytes[row]:
                raise CorruptVideoError(
                    self._path, f"packet {row} has changed since the index was read; open it again"
                )
            if row >= first:
                yield row, packet
            row += 1
        self._row = row

    def _filled(self) -> Iterator[Packet]:
        return filled_packets(self._container, self.stream, unpacks=self._is_packed)

    def _next(self) -> Packet | None:
        """Return the next packet; None at the end, or where nothing more can be read."""
        if self._ahead is not None:
            packet, self._ahead = self._ahead, None
            return packet
        try:
            return next(self._packets, None)
        except FFmpegError:
            return None

    def _seek(self, first: int) -> int:
        """Go to row ``first`` or some row before it; return the next row that will be read."""
        for time in self._targets(first):
            try:
                self._container.seek(time, stream=self.stream)
            except FFmpegError:
                continue
            self._packets = self._filled()
            row = self._locate()
            if row is not None and row <= first:
                return row
        self.open()
        return 0

    def _targets(self, first: int) -> list[int]:
        """Return times to seek to: some demuxers take presentation times, others decoding times."""
        table = self._table
        earlier = table.start_of_frame[table.start_of_frame < first].max(initial=0)
        times = (table.pts[first], table.dts[first], table.dts[earlier])
        return list(dict.fromkeys(int(time) for time in times if time != NO_TIME))

    def _locate(self) -> int | None:
        """Return the row of the next packet, found by its position in the file and its size."""
        self._ahead = None
        for _ in range(_MAX_UNKNOWN_PACKETS):
            packet = self._next()
            if packet is None:
                return None
            same = (self._table.position == packet.pos) & (self._table.size_bytes == packet.size)
            rows = np.flatnonzero(same) if packet.pos is not None else ()
            if len(rows) == 1:
                self._ahead = packet
                return int(rows[0])
        return None


def _nothing(stream: VideoStream) -> None:
    """Configure nothing: what a closed reader has in place of its settings."""
    del stream
