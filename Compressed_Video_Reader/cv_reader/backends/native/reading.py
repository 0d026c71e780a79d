"""Reading with the native decoder; imported only where ``cv_reader_native`` is installed."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from cv_reader_native import Decoder, Picture
from numpy.typing import NDArray

from cv_reader.backends.native.picture import Layout, NativePicture, NativePixels
from cv_reader.backends.orientation import turn_blocks, turn_cells, turn_pixels, turn_vectors
from cv_reader.backends.pixels import shared_facts
from cv_reader.backends.probe import Probe
from cv_reader.errors import UnsupportedVideoError
from cv_reader.media.container import MAX_AREA_PX
from cv_reader.media.decoding import DecodeOptions, decode_with
from cv_reader.media.frames import CodecFrame, frames_at_once
from cv_reader.media.index import VideoSource
from cv_reader.media.packets import PacketReader

_MAX_REORDERED = 16
"""Pictures that H.264 and HEVC keep back at most."""

_MAX_PROBE_PACKETS = 512
"""Packets to try before the first picture is given up: two long groups of pictures."""


@dataclass(frozen=True, eq=False)
class NativeProbe(Probe):
    """A decoder that has seen the first packets of a stream, and what came out of it.

    Attributes:
        decoder: ready for the packet after those.
        num_threads: threads that it decodes with.
        first: row of the first packet that it has seen.
        end: row of the next packet.
        pictures: what came out.
    """

    decoder: Decoder
    num_threads: int
    first: int
    end: int
    pictures: list[Picture]


def probe(source: VideoSource, num_threads: int) -> NativeProbe | str:
    """Decode the first picture; see ``cv_reader.backends.native.probe``."""
    if source.changes_parameters:
        return "its container changes the codec's parameters within the stream, outside the packets"
    if source.has_fields:
        return "some of its pictures are field-coded (interlaced), and have no vectors per frame"
    try:
        started = _decode_first(source, num_threads)
    except ValueError as error:
        return str(error)
    if not started.pictures:
        return "its first picture cannot be decoded"
    first = started.pictures[0]
    picture = NativePicture(first, Layout.of(first), 0, source.index.display)
    if source.probe_skipped and picture.picture.is_turned:
        return "its first picture asks to be turned, which its container does not say"
    if (picture.width, picture.height) != (source.first.width_px, source.first.height_px):
        return (
            f"its pictures are cropped to {picture.width}x{picture.height} pixels, but other "
            f"decoders show {source.first.width_px}x{source.first.height_px}"
        )
    return picture.refusal or started


def read(
    source: VideoSource, ids: Sequence[int], num_threads: int, probe: Probe | None
) -> Generator[CodecFrame]:
    """Decode requested frames with their maps; see ``cv_reader.backends.native.read``."""
    rows = source.packets.packet_of_frame[np.asarray(ids, np.int64)]
    is_wanted = np.zeros(len(source.packets.frame), np.bool_)
    is_wanted[rows] = True
    unused = [probe] if isinstance(probe, NativeProbe) and probe.num_threads == num_threads else []

    def open_decoder(stream: VideoStream, num_threads: int) -> _PictureDecoder:
        del stream
        started = unused.pop() if unused else None
        return _PictureDecoder(source, is_wanted, num_threads, started)

    # Pictures that are not requested and that nothing refers to need not be decoded at all.
    needed = is_wanted | source.packets.is_reference
    options = DecodeOptions(num_threads, other_library=True)
    for decoded in decode_with(source, ids, options, open_decoder, needed):
        if decoded.is_wanted:
            yield _frame(source, decoded.number, decoded.frame)


class _PictureDecoder:
    """The decoder of one stream.

    Packets enter by their place in presentation order, so that the distance between two pictures is
    the difference of their numbers.
    """

    def __init__(
        self,
        source: VideoSource,
        is_wanted: NDArray[np.bool_],
        num_threads: int,
        started: NativeProbe | None,
    ) -> None:
        """Prepare.

        Args:
            source: the video.
            is_wanted: bool (M,), rows of the packets whose pictures need maps.
            num_threads: threads that decode.
            started: a decoder to continue with, where the first packets are those that it has seen.
        """
        self._rank = source.packets.rank
        self._row = np.argsort(self._rank)
        self._is_wanted = is_wanted
        self._display = source.index.display
        self._layouts: dict[tuple[object, ...], Layout] = {}
        self._started = started
        self._is_continued = False
        self._decoder = started.decoder if started else _open(source, num_threads)
        self._waiting: list[Packet] = []
        self._num_at_once = frames_at_once(source.first.width_px, source.first.height_px)

    def __call__(self, packet: Packet | None) -> list[NativePicture]:
        if packet is None:
            self._started = None
            return self._decoded() + self._wrapped(self._decoder.finish())
        row = cast(int, packet.pts)
        if (started := self._started) is not None:
            if row == started.first:
                self._is_continued = True
                return self._wrapped(started.pictures)
            if self._is_continued and row < started.end:
                return []
            if not self._is_continued:
                # Another group comes first: what the probe has decoded is of no use.
                self._decoder.finish()
            self._started = None
        self._waiting.append(packet)
        return self._decoded() if len(self._waiting) >= self._num_at_once else []

    def _decoded(self) -> list[NativePicture]:
        """Decode the waiting packets, and return the pictures that come out."""
        pictures: list[Picture] = []
        for packet in self._waiting:
            row = cast(int, packet.pts)
            pictures += self._decoder.decode(
                packet, int(self._rank[row]), bool(self._is_wanted[row])
            )
        self._waiting.clear()
        return self._wrapped(pictures)

    def _wrapped(self, pictures: list[Picture]) -> list[NativePicture]:
        return [
            NativePicture(
                picture, self._layout(picture), int(self._row[picture.picture_id]), self._display
            )
            for picture in pictures
        ]

    def _layout(self, picture: Picture) -> Layout:
        key = picture.layout
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._layouts[key] = Layout.of(picture)
        return layout


def _open(source: VideoSource, num_threads: int) -> Decoder:
    # A picture that follows k others which are shown later takes room for as many.
    rank = source.packets.rank
    num_reordered = int((np.arange(len(rank)) - rank).max())
    return Decoder(
        source.index.codec_name,
        source.extradata,
        num_threads=num_threads,
        max_pixels=MAX_AREA_PX,
        num_reordered=min(num_reordered, _MAX_REORDERED),
    )


def _decode_first(source: VideoSource, num_threads: int) -> NativeProbe:
    """Decode from the key packet of the first frame until a picture comes out, if one does."""
    decoder = _open(source, num_threads)
    first = row = int(source.packets.start_of_frame[0])
    for row, packet in _first_packets(source, first):
        if pictures := decoder.decode(packet, int(source.packets.rank[row])):
            return NativeProbe(decoder, num_threads, first, row + 1, pictures)
    return NativeProbe(decoder, num_threads, first, row + 1, decoder.finish())


def _first_packets(source: VideoSource, first: int) -> Iterator[tuple[int, Packet | bytes]]:
    """Yield packets from row ``first`` on: the kept ones, then those of the file."""
    yield from enumerate(source.head[first:], first)
    row = max(first, len(source.head))
    last = min(first + _MAX_PROBE_PACKETS, len(source.packets.frame)) - 1
    if row <= last:
        reader = PacketReader(source, lambda _: None, without_decoding=True)
        try:
            reader.open()
            yield from reader.read(row, last)
        finally:
            reader.close()


def _frame(source: VideoSource, number: int, picture: NativePicture) -> CodecFrame:
    if (reason := picture.refusal) is not None:
        raise UnsupportedVideoError(
            source.index.path, f"frame {number}: {reason}; use another backend"
        )
    orientation = source.index.display.orientation
    height, width = picture.height, picture.width
    bits, qp = picture.bits(), picture.qp()
    return CodecFrame(
        **shared_facts(source, number, picture.pict_type, NativePixels(picture)),
        motion=turn_vectors(picture.motion(), orientation, height, width),
        motion_ref=turn_cells(picture.motion_ref(), orientation, height, width),
        residual_y=turn_pixels(picture.residual_y(), orientation),
        bits=None if bits is None else turn_blocks(bits, orientation, height, width),
        qp=None if qp is None else turn_blocks(qp, orientation, height, width),
        residual_blocks=picture.residual_blocks(),
    )
