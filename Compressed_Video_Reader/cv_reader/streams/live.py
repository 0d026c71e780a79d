"""Follow a stream: where callers begin."""

import time
from collections.abc import Callable, Generator

from cv_reader.errors import VideoError
from cv_reader.streams.feed import read_pieces
from cv_reader.streams.gate import EventGate
from cv_reader.streams.pictures import PictureReader
from cv_reader.streams.settings import StreamCounters, StreamSettings
from cv_reader.streams.source import Source, scheme_of, source_name
from cv_reader.streams.windows import StreamWindow, WindowMaker


class Stream:
    """A stream that is opened when its windows are asked for; iterate once.

    Attributes:
        name: name of the source, without a URL's user and password.
        settings: see ``StreamSettings``.
        counters: what happened so far.
    """

    def __init__(
        self,
        source: Source,
        settings: StreamSettings,
        gate: EventGate,
        sleep: Callable[[float], None],
    ) -> None:
        scheme_of(source)
        self.name = source_name(source)
        self.settings = settings
        self.counters = StreamCounters()
        self._source, self._gate, self._sleep = source, gate, sleep
        self._windows: Generator[StreamWindow] | None = None

    def __iter__(self) -> Generator[StreamWindow]:
        """Yield windows as soon as they are complete.

        Raises:
            VideoError: there is nothing to open, no video, or none that can be read.
            StreamLostError: it stalls or breaks, and attempts to open it again fail.
            ValueError: it is iterated a second time.
        """
        if self._windows is not None:
            raise ValueError(f"{self.name}: a stream is followed once; call stream() again")
        self._windows = self._read()
        return self._windows

    def _read(self) -> Generator[StreamWindow]:
        pieces = read_pieces(self._source, self.settings, self.counters, self._sleep)
        reader = PictureReader(self.name, self.settings, self.counters)
        maker = WindowMaker(self.settings, self.counters, self._gate)
        pictures = reader.read(pieces)
        try:
            try:
                for picture in pictures:
                    yield from maker.add(picture)
            except VideoError:
                # What came before the stream was lost is a window too.
                yield from maker.finish()
                raise
            yield from maker.finish()
        finally:
            pictures.close()
            pieces.close()

    def close(self) -> None:
        """End the iteration, and close the connection."""
        if self._windows is not None:
            self._windows.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def stream(
    source: Source,
    settings: StreamSettings | None = None,
    *,
    gate: EventGate | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Stream:
    """Follow a stream: packets in, windows of kept patches with their positions out.

    ``with stream("rtsp://camera/1") as live: for window in live: ...``

    A window is ready 500 ms (``window_seconds``) after its first picture at most, by the stream's
    clock, and does not depend on what comes later. Memory stays the same for hours.

    Args:
        source: path of a file or named pipe, ``-`` for the standard input, a file object that reads
            bytes, or a URL (http or https, such as HLS; rtsp, rtsps, udp, rtp, srt, tcp). Nothing
            is opened before the first window is asked for, and nothing that is not named here.
        settings: limits, windows and selection; None = defaults.
        gate: says which windows are events; None = the default one.
        sleep: waits between attempts to connect again.

    Raises:
        UnsupportedVideoError: a URL of another scheme.
    """
    return Stream(source, settings or StreamSettings(), gate or EventGate(), sleep)
