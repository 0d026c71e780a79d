"""Packets of a stream, over losses of the connection and slow callers.

A URL is read by a thread of its own, so that a caller who is slower than the stream loses packets
that are counted, and not the connection. Files and pipes wait for the caller.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from av.container import InputContainer
from av.error import EOFError as StreamEnd
from av.error import ExitError, FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from cv_reader.errors import (
    CorruptVideoError,
    StreamLostError,
    UnsupportedVideoError,
    VideoError,
)
from cv_reader.media.container import describe
from cv_reader.streams.settings import StreamCounters, StreamSettings
from cv_reader.streams.source import Source, open_live, scheme_of, source_name

_MAX_BACKOFF_SECONDS = 30.0
_ENDLESS = ("rtsp", "rtsps")
"""Schemes whose streams end only because something broke."""

Sleep = Callable[[float], None]


@dataclass(frozen=True)
class FeedPiece:
    """A packet, or a break before the packets that follow.

    Attributes:
        stream: that the packet belongs to.
        packet: None for a break: what is in the decoder belongs to the time before.
        is_new: a connection begins; its time stamps may begin anywhere.
        is_last: the connection ends; the stream may not be used afterwards.
    """

    stream: VideoStream
    packet: Packet | None = None
    is_new: bool = False
    is_last: bool = False


def read_pieces(
    source: Source, settings: StreamSettings, counters: StreamCounters, sleep: Sleep = time.sleep
) -> Generator[FeedPiece]:
    """Yield the packets of a stream in the order in which they come, and its breaks.

    Raises:
        VideoError: it cannot be opened at all, or a file or pipe is damaged.
        StreamLostError: it stalls or breaks, and attempts to open it again fail.
    """
    name, scheme = source_name(source), scheme_of(source)
    attempts, is_known = 0, False
    while True:
        try:
            with open_live(source, settings) as (container, stream):
                yield FeedPiece(stream, is_new=True)
                is_known = True
                pieces = _pieces(container, stream, settings, counters, is_live=bool(scheme))
                for piece in _with_last(pieces, stream):
                    attempts = attempts if piece.packet is None else 0
                    yield piece
            if scheme not in _ENDLESS:
                return
            reason = "ended"
        except (FFmpegError, StreamLostError, UnsupportedVideoError) as error:
            if scheme is None or not is_known:
                raise _final(error, name) from error
            counters.stalls += isinstance(error, ExitError)
            reason = describe(error) if isinstance(error, FFmpegError) else error.reason
        if attempts == settings.max_reconnects:
            raise StreamLostError(
                name, f"is lost ({reason}) after {attempts} attempts to open it again; start later"
            )
        sleep(min(settings.backoff_seconds * 2**attempts, _MAX_BACKOFF_SECONDS))
        attempts += 1
        counters.reconnects += 1


def _with_last(pieces: Iterator[FeedPiece], stream: VideoStream) -> Iterator[FeedPiece]:
    """Yield pieces, and at their end, or before their error, that they end."""
    try:
        yield from pieces
    except (FFmpegError, VideoError):
        yield FeedPiece(stream, is_last=True)
        raise
    yield FeedPiece(stream, is_last=True)


def _final(error: Exception, name: str) -> Exception:
    if isinstance(error, ExitError):
        return StreamLostError(name, "does not answer in time; check it, or raise read_seconds")
    if isinstance(error, FFmpegError):
        return CorruptVideoError(name, f"cannot be read on ({describe(error)}); send it again")
    return error


def _pieces(
    container: InputContainer,
    stream: VideoStream,
    settings: StreamSettings,
    counters: StreamCounters,
    *,
    is_live: bool,
) -> Iterator[FeedPiece]:
    if not is_live:
        for packet in _packets(container, stream):
            _count(packet, counters)
            yield FeedPiece(stream, packet)
        return
    with _threaded(container, stream, settings) as queue:
        while True:
            packet, dropped = queue.take()
            if dropped:
                counters.dropped_packets += dropped
                yield FeedPiece(stream)
            if packet is None:
                return
            _count(packet, counters)
            yield FeedPiece(stream, packet)


def _count(packet: Packet, counters: StreamCounters) -> None:
    counters.packets += 1
    counters.packet_bytes += packet.size


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    while True:
        try:
            for packet in container.demux(stream):
                if packet.size:
                    yield packet
        except IndexError:
            continue  # PyAV does not know of a stream that appears on the way; read what follows
        except StreamEnd:
            return
        return


class _Queue:
    """Packets that wait for the caller.

    When it is full all are dropped, and more until a key frame comes: without what they refer to,
    packets are worth nothing.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._changed = limit, threading.Condition()
        self._waiting: deque[Packet] = deque()
        self._dropped, self._is_dropping = 0, False
        self._error: Exception | None = None
        self._is_ended = False
        self.is_closed = False

    def put(self, packet: Packet) -> None:
        with self._changed:
            if len(self._waiting) == self._limit:
                self._dropped += len(self._waiting)
                self._waiting.clear()
                self._is_dropping = True
            self._is_dropping = self._is_dropping and not packet.is_keyframe
            if self._is_dropping:
                self._dropped += 1
            else:
                self._waiting.append(packet)
            self._changed.notify()

    def end(self, error: Exception | None = None) -> None:
        with self._changed:
            self._error, self._is_ended = error, True
            self._changed.notify()

    def take(self) -> tuple[Packet | None, int]:
        """Return the next packet, None at the end, and how many were dropped before it."""
        with self._changed:
            while not self._waiting and not self._is_ended:
                self._changed.wait()
            # All that waited then were dropped too, so that the gap is before what waits now.
            dropped, self._dropped = self._dropped, 0
            if self._waiting:
                return self._waiting.popleft(), dropped
            if self._error is not None:
                raise self._error
            return None, dropped


@contextmanager
def _threaded(
    container: InputContainer, stream: VideoStream, settings: StreamSettings
) -> Generator[_Queue]:
    """Read packets in a thread; it ends with the block, after the time limit at most."""
    queue = _Queue(settings.queue_packets)

    def work() -> None:
        error: Exception | None = None
        try:
            for packet in _packets(container, stream):
                if queue.is_closed:
                    return
                queue.put(packet)
        # FFmpeg's errors, but also any other: ``take`` raises it again in the caller's thread,
        # where it is handled like one of a stream that is read without a thread.
        except Exception as caught:  # noqa: BLE001
            error = caught
        finally:
            queue.end(error)

    thread = threading.Thread(target=work, name="cv_reader stream", daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        queue.is_closed = True
        thread.join()
