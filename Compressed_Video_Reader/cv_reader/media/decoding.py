"""Decoding just what is needed: groups of pictures that hold requested frames.

Each packet enters the decoder with its row of the packet table as time stamp, and the picture comes
out with the same number: a frame is identified by its packet, not by counting or by time.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, cast

import numpy as np
from av.codec.context import Flags2
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from cv_reader.errors import CorruptVideoError, UnsupportedVideoError
from cv_reader.media.coded import Decoded, DecodedPicture, PacketDecoder, PictureT, numbered
from cv_reader.media.container import DECODE_ERRORS, set_threads
from cv_reader.media.index import VideoSource
from cv_reader.media.packets import PacketReader

_MAX_LISTED = 12
"""Frame numbers that an error message lists."""


_MAX_GAP_PACKETS = 4
"""Up to so many pictures that are not needed are decoded rather than skipped by a seek."""

_LATE_EXPORTERS = ("mpeg2video", "mpeg4")
"""Decoders that lose the vectors of the last picture; its group's key frame is sent after it."""

_ECHO = -1
"""Time stamp of the picture that is sent for that purpose alone."""


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode.

    Attributes:
        num_threads: threads of the decoder.
        export_vectors: have FFmpeg attach motion vectors; pictures are then decoded one at a time,
            since vectors of pictures decoded in parallel differ from run to run.
        predecessors: decode the frame before each requested one too.
        other_library: the decoder is not PyAV's, which need not be made ready.
    """

    num_threads: int = 1
    export_vectors: bool = False
    predecessors: bool = False
    other_library: bool = False

    @property
    def by_frame(self) -> bool:
        """Whether pictures may be decoded in parallel."""
        return self.num_threads > 1 and not self.export_vectors

    def configure(self, stream: VideoStream) -> None:
        """Apply to a stream that has just been opened."""
        set_threads(stream, self.num_threads, by_frame=self.by_frame)
        if self.export_vectors:
            stream.codec_context.flags2 |= Flags2.export_mvs


@dataclass(frozen=True)
class _Run:
    """Packets first..last, decoded in one go for the sake of some requested frames."""

    first: int
    last: int
    wanted: tuple[int, ...]


def decode(
    source: VideoSource,
    ids: Sequence[int],
    options: DecodeOptions,
    needed: NDArray[np.bool_] | None = None,
) -> Iterator[Decoded]:
    """Decode as ``decode_with`` does, with PyAV's decoder."""
    return decode_with(source, ids, options, _av_decoder, needed)


def decode_with(
    source: VideoSource,
    ids: Sequence[int],
    options: DecodeOptions,
    open_decoder: Callable[[VideoStream, int], PacketDecoder[PictureT]],
    needed: NDArray[np.bool_] | None = None,
) -> Iterator[DecodedPicture[PictureT]]:
    """Decode requested frames, and the pictures between them and their key frames.

    Args:
        source: from ``cv_reader.media.index.scan``.
        ids: strictly increasing frame numbers.
        open_decoder: makes the decoder of a stream, with a number of threads.
        needed: bool (M,), rows of the packet table that have to enter the decoder, or None for all.

    Yields:
        Pictures in presentation order, requested or not, run after run.

    Raises:
        CorruptVideoError: after the last picture, where requested ones could not be decoded.
        UnsupportedVideoError: the picture changes its size or rotation within the video; or, after
            the last picture, the decoder's order contradicts the time stamps.
    """
    lost: list[int] = []
    is_disordered = False
    careful = replace(options, num_threads=1)
    with _Decoder(source, options, open_decoder, needed) as decoder:
        for run in _plan(source, ids, options):
            can_retry = run.first > 0 or options.by_frame
            rest = yield from decoder.run(run, stop_at_loss=can_retry)
            if rest and can_retry:
                # Again from an earlier key frame, one picture at a time, past all losses.
                with _Decoder(source, careful, open_decoder, needed) as second:
                    rest = yield from second.run(_retry(source, run, rest), stop_at_loss=False)
                    is_disordered |= second.is_disordered
            lost += rest
        is_disordered |= decoder.is_disordered
    if is_disordered:
        raise UnsupportedVideoError(
            source.index.path,
            "its pictures are decoded in another order than its time stamps say, so that frame "
            "numbers are wrong; re-encode it",
        )
    if lost:
        raise lost_frames_error(source.index.path, lost, len(ids))


def lost_frames_error(path: str, lost: Sequence[int], num_requested: int) -> CorruptVideoError:
    """Return the error that names the frames which cannot be decoded.

    Args:
        path: the file.
        lost: their numbers.
        num_requested: frames that were asked for.
    """
    listed = ", ".join(map(str, lost[:_MAX_LISTED])) + (", ..." if lost[_MAX_LISTED:] else "")
    error = CorruptVideoError(
        path,
        f"{len(lost)} of {num_requested} requested frames cannot be decoded ({listed}); "
        "the file is damaged: copy it again, or re-encode what is left of it",
    )
    error.lost = tuple(lost)
    return error


def _plan(source: VideoSource, ids: Sequence[int], options: DecodeOptions) -> Iterator[_Run]:
    """Join the groups of the requested frames into runs; near groups need no seek."""
    packets = source.packets
    number = np.asarray(ids, dtype=np.int64)
    first = packets.start_of_frame[number]
    last = packets.last_of_frame[number]
    if options.predecessors:
        last = np.maximum(last, packets.last_of_frame[np.maximum(number - 1, 0)])
    reach = np.maximum.accumulate(last) if len(last) else last
    begins = np.flatnonzero(first[1:] > reach[:-1] + 1 + _MAX_GAP_PACKETS) + 1
    for rows in np.split(np.arange(len(number)), begins):
        if len(rows):
            yield _Run(int(first[rows].min()), int(last[rows].max()), tuple(number[rows].tolist()))


def _retry(source: VideoSource, run: _Run, rest: Sequence[int]) -> _Run:
    """Return the same run for the frames that are left, from one key frame further back."""
    start = int(source.packets.start_of_frame[rest[0]])
    earlier = source.packets.start_of_frame[source.packets.start_of_frame < start]
    return _Run(int(earlier.max(initial=0)), run.last, tuple(rest))


def _av_decoder(stream: VideoStream, num_threads: int) -> PacketDecoder[VideoFrame]:
    del num_threads  # chosen when the stream was opened

    def send(packet: Packet | None) -> list[VideoFrame]:
        try:
            return stream.codec_context.decode(packet)
        except DECODE_ERRORS:
            return []

    return send


class _Decoder(Generic[PictureT]):
    """One open file with a decoder, used for run after run."""

    def __init__(
        self,
        source: VideoSource,
        options: DecodeOptions,
        open_decoder: Callable[[VideoStream, int], PacketDecoder[PictureT]],
        needed: NDArray[np.bool_] | None,
    ) -> None:
        self._path = source.index.path
        self._codec_name = source.index.codec_name
        self._first = source.first
        self._table = source.packets
        self._options = options
        self._open_decoder = open_decoder
        self._needed = needed
        self._is_midway = False
        self.is_disordered = False
        self._reader = PacketReader(source, self._configure, without_decoding=options.other_library)

    def _configure(self, stream: VideoStream) -> None:
        self._options.configure(stream)
        self._send = self._open_decoder(stream, self._options.num_threads)

    def __enter__(self) -> "_Decoder[PictureT]":
        self._reader.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader.close()

    def run(
        self, run: _Run, *, stop_at_loss: bool
    ) -> Generator[DecodedPicture[PictureT], None, list[int]]:
        """Yield a run's pictures in presentation order.

        Returns:
            The requested frames that did not come out; with ``stop_at_loss`` all that are left
            when the first of them is found missing.
        """
        pending = deque(run.wanted)
        lost: list[int] = []
        starts_run = True
        highest = -1
        for frame in self._pictures(run.first, run.last):
            packet = cast(int, frame.pts)
            number = int(self._table.frame[packet])
            rank = int(self._table.rank[packet])
            if rank < highest and not (frame.is_corrupt or self._table.is_cut_off[packet]):
                self.is_disordered = True
            highest = max(highest, rank)
            self._check_same_picture(frame, number)
            while pending and pending[0] < number:
                if stop_at_loss:
                    return list(pending)
                lost.append(pending.popleft())
            is_wanted = bool(pending) and pending[0] == number
            is_damaged = frame.is_corrupt and not self._table.is_cut_off[packet]
            if is_wanted and is_damaged:
                if stop_at_loss:
                    return list(pending)
                lost.append(number)
            if is_wanted:
                pending.popleft()
            yield DecodedPicture(frame, number, packet, is_wanted and not is_damaged, starts_run)
            starts_run = False
        return lost + list(pending)

    def _pictures(self, first: int, last: int) -> Iterator[PictureT]:
        if self._is_midway:
            self._send(None)  # what a run that was given up has left in the decoder
        self._is_midway = True
        echo: Packet | None = None
        for row, packet in self._reader.read(first, last):
            if self._needed is not None and not self._needed[row]:
                continue
            if echo is None and self._exports_late:
                echo = Packet(bytes(packet))
                echo.pts = _ECHO
            yield from self._send(numbered(packet, row))
        if echo is not None:
            yield from self._send(echo)
        # What the decoder still holds back for reordering; it takes no more packets after this.
        yield from (frame for frame in self._send(None) if frame.pts != _ECHO)
        self._reader.forget_place()
        self._is_midway = False

    @property
    def _exports_late(self) -> bool:
        """Whether a held back picture gets its vectors only when another picture follows it."""
        return self._options.export_vectors and self._codec_name in _LATE_EXPORTERS

    def _check_same_picture(self, frame: PictureT, number: int) -> None:
        first = self._first
        turn = -frame.rotation % 360
        expected_turn = first.display.orientation.reported_degrees
        if (
            frame.width != first.width_px
            or frame.height != first.height_px
            or turn != expected_turn
        ):
            raise UnsupportedVideoError(
                self._path,
                f"frame {number} is {frame.width}x{frame.height} pixels turned by {turn} degrees, "
                f"but the video began with {first.width_px}x{first.height_px} turned by "
                f"{expected_turn}; split or re-encode it",
            )
