"""Sound pictures of a stream with their times, from its packets.

What cannot be shown as it was coded is left out: pictures behind a loss, up to the next key frame,
and damaged ones. Each break is named, so that windows do not reach over it.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import cast

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from cv_reader.backends.pixels import AvPicture
from cv_reader.errors import UnsupportedVideoError
from cv_reader.media.container import DECODE_ERRORS, first_picture, set_threads
from cv_reader.media.display import Display
from cv_reader.media.index import checked_display
from cv_reader.streams.feed import FeedPiece
from cv_reader.streams.losses import LossDetector
from cv_reader.streams.settings import StreamCounters, StreamSettings

_LATE_SECONDS, _MAX_LATE = 0.5, 8
"""Pictures that come up to so much and so many behind their turn are left out; otherwise the time
stamps have jumped back."""


@dataclass(frozen=True)
class StreamPicture:
    """A picture of a stream.

    Attributes:
        number: number of the picture among all sound ones, from 0.
        time_seconds: the stream's own time stamp.
        is_key: it begins a group of pictures.
        picture: its pixels.
        break_before: why it does not continue the picture before it: ``start``, ``reconnect``,
            ``loss``, ``jump`` or ``size``; empty where it does.
        spent_bits: bits of the packets since the picture before; key frames are not counted.
    """

    number: int
    time_seconds: float
    is_key: bool
    picture: AvPicture
    break_before: str
    spent_bits: int


class PictureReader:
    """Decodes the packets of one stream.

    Args:
        name: name of the stream, for errors.
        settings: limits, and what is done with HDR.
        counters: updated on the way.
    """

    def __init__(self, name: str, settings: StreamSettings, counters: StreamCounters) -> None:
        self._name, self._settings, self._counters = name, settings, counters
        self._losses: LossDetector | None = None
        self._needs_key, self._num_keyless = True, 0
        self._break, self._spent_bits = "start", 0
        self._last_seconds: float | None = None
        self._size: tuple[int, int, int] | None = None
        self._display = Display()
        self._step_seconds, self._num_late = 0.04, 0
        self._start_seconds: float | None = None

    def read(self, pieces: Iterable[FeedPiece]) -> Generator[StreamPicture]:
        """Yield sound pictures in the order in which they are shown.

        Raises:
            UnsupportedVideoError: no key frame comes, or pictures that cannot be read.
        """
        for piece in pieces:
            if piece.packet is not None:
                yield from self._packet(piece.packet, piece.stream)
            elif piece.is_new:
                self._open(piece.stream)
                self._begin_again("reconnect")
            else:
                yield from self._drained(piece.stream)
                if not piece.is_last:
                    self._begin_again("loss")

    def _open(self, stream: VideoStream) -> None:
        # Pictures decoded in parallel come later.
        set_threads(stream, 1, by_frame=False)
        is_h264 = stream.codec_context.name == "h264"
        self._losses = LossDetector(stream.codec_context.extradata) if is_h264 else None
        if stream.average_rate:
            self._step_seconds = float(1 / stream.average_rate)
        start, unit = stream.start_time, stream.time_base
        self._start_seconds = None if start is None or unit is None else float(start * unit)

    def _begin_again(self, reason: str) -> None:
        self._needs_key, self._break = True, self._break or reason
        if self._losses is not None:
            self._losses.forget()

    def _packet(self, packet: Packet, stream: VideoStream) -> Generator[StreamPicture]:
        if not packet.is_keyframe:
            self._spent_bits += 8 * packet.size
        is_lost = packet.is_corrupt
        if self._losses is not None:
            is_lost |= self._losses.is_behind_loss(bytes(packet))
        if is_lost and not self._needs_key:
            yield from self._after_loss(stream)
        if self._needs_key and not self._accepts(packet):
            return
        try:
            frames = stream.codec_context.decode(packet)
        except DECODE_ERRORS:
            yield from self._after_loss(stream)
            return
        for frame in frames:
            yield from self._picture(frame, stream)

    def _after_loss(self, stream: VideoStream) -> Generator[StreamPicture]:
        self._counters.losses += 1
        yield from self._drained(stream)
        self._begin_again("loss")

    def _accepts(self, packet: Packet) -> bool:
        """Return whether decoding can begin with a packet."""
        if packet.is_keyframe and not packet.is_corrupt:
            self._needs_key, self._num_keyless = False, 0
            return True
        self._counters.skipped_packets += 1
        self._num_keyless += 1
        if self._num_keyless > self._settings.max_keyless_packets:
            raise UnsupportedVideoError(
                self._name,
                f"no key frame in {self._num_keyless} packets, so that decoding cannot begin; have "
                "key frames sent, or raise max_keyless_packets",
            )
        return False

    def _drained(self, stream: VideoStream) -> Generator[StreamPicture]:
        """Yield what the decoder still holds, and make it ready for what comes next."""
        try:
            frames = stream.codec_context.decode(None)
        except DECODE_ERRORS:
            frames = []
        stream.codec_context.flush_buffers()
        for frame in frames:
            yield from self._picture(frame, stream)

    def _picture(self, frame: VideoFrame, stream: VideoStream) -> Generator[StreamPicture]:
        counters = self._counters
        if frame.is_corrupt:
            counters.damaged_pictures += 1
            return
        seconds = self._seconds(frame, stream)
        if seconds is None:
            counters.late_pictures += 1
            return
        self._check_size(frame, stream)
        self._last_seconds = seconds
        reason, self._break = self._break, ""
        bits, self._spent_bits = self._spent_bits, 0
        number, counters.pictures = counters.pictures, counters.pictures + 1
        yield StreamPicture(
            number,
            seconds,
            frame.key_frame,
            AvPicture(frame, self._display),
            reason,
            bits,
        )

    def _seconds(self, frame: VideoFrame, stream: VideoStream) -> float | None:
        """Return a picture's time; None where it is out of order."""
        last, limit = self._last_seconds, self._settings.max_gap_seconds
        pts = cast("int | None", frame.pts)
        is_first = last is None or self._break in ("start", "reconnect")
        if pts is None or stream.time_base is None:
            if is_first and self._start_seconds is not None:
                # RTSP: the first picture has no time, and the stream's is that of the second.
                return self._start_seconds - self._step_seconds
            return (last or 0.0) + self._step_seconds
        seconds = float(pts * stream.time_base)
        if last is None or is_first:
            return seconds
        if last < seconds < last + limit:
            self._num_late = 0
            return seconds
        self._num_late += 1
        if last - _LATE_SECONDS < seconds <= last and self._num_late < _MAX_LATE:
            return None
        self._num_late = 0
        self._counters.jumps += 1
        self._break = self._break or "jump"
        return seconds

    def _check_size(self, frame: VideoFrame, stream: VideoStream) -> None:
        size = (frame.width, frame.height, frame.rotation)
        if size == self._size:
            return
        if self._size is not None:
            self._counters.size_changes += 1
            self._break = self._break or "size"
        display = first_picture(frame, stream, self._name).display
        self._display = checked_display(display, self._settings.config.hdr, self._name)
        self._size = size
