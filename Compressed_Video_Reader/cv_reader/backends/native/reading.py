"""Reading with the native decoder; imported only where ``cv_reader_native`` is installed."""

from collections.abc import Generator, Sequence
from typing import NamedTuple, cast

import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from cv_reader_native import Decoder, Picture
from numpy.typing import NDArray

from cv_reader.backends.native.picture import Layout, NativePicture, NativePixels
from cv_reader.backends.orientation import turn_blocks, turn_cells, turn_pixels, turn_vectors
from cv_reader.backends.pixels import shared_facts
from cv_reader.errors import UnsupportedVideoError
from cv_reader.media.container import MAX_AREA_PX
from cv_reader.media.decoding import DecodeOptions, decode_with
from cv_reader.media.frames import CodecFrame, frames_at_once
from cv_reader.media.index import VideoSource

_MAX_REORDERED = 16
"""Of H.264 and HEVC."""


def refusal(source: VideoSource, num_threads: int) -> str | None:
    """Why this backend cannot read a video, or None; decodes its first picture, with as many
    threads as will read the rest."""
    if source.changes_parameters:
        return "its container changes the codec's parameters on the way, beside the packets"
    if source.has_fields:
        return "some of its pictures are field-coded (interlaced), and have no vectors per frame"
    try:
        picture = _first_picture(source, num_threads)
    except ValueError as error:
        return str(error)
    if picture is None:
        return "its first picture cannot be decoded"
    if source.is_first_spared and picture.picture.is_turned:
        return "its first picture asks to be turned, which its container does not say"
    if (picture.width, picture.height) != (source.first.width_px, source.first.height_px):
        return (
            f"its pictures are cropped to {picture.width}x{picture.height} pixels, but other "
            f"decoders show {source.first.width_px}x{source.first.height_px}"
        )
    return picture.refusal


def read(source: VideoSource, ids: Sequence[int], num_threads: int) -> Generator[CodecFrame]:
    """Decode requested frames with their maps.

    Raises:
        CorruptVideoError: after the last frame, where requested ones could not be decoded.
        UnsupportedVideoError: a picture is one that ``refusal`` names, or its size changes.
    """

    rows = source.packets.packet_of_frame[np.asarray(ids, np.int64)]
    is_wanted = np.zeros(len(source.packets.frame), np.bool_)
    is_wanted[rows] = True

    def open_decoder(stream: VideoStream, num_threads: int) -> _PictureDecoder:
        del stream
        return _PictureDecoder(source, is_wanted, num_threads)

    # Pictures that nobody asked for and nothing refers to do not enter the decoder at all.
    needed = is_wanted | source.packets.is_reference
    options = DecodeOptions(num_threads, other_library=True)
    for decoded in decode_with(source, ids, options, open_decoder, needed):
        if decoded.is_wanted:
            yield _frame(source, decoded.number, decoded.frame)


class _Start(NamedTuple):
    """A decoder that has seen the first packets of a stream, and what came out of it."""

    decoder: Decoder
    num_threads: int
    num_packets: int
    pictures: list[Picture]


class _PictureDecoder:
    """The decoder of one stream. Packets enter by their place in presentation order, so that the
    distance between two pictures is the difference of their numbers."""

    def __init__(self, source: VideoSource, is_wanted: NDArray[np.bool_], num_threads: int) -> None:
        self._rank = source.packets.rank
        self._row = np.argsort(self._rank)
        self._is_wanted = is_wanted
        self._display = source.index.display
        self._layouts: dict[tuple[object, ...], Layout] = {}
        # From ``refusal``: the first reading goes on where that has ended.
        start = source.started.pop() if source.started else None
        if not isinstance(start, _Start) or start.num_threads != num_threads:
            start = _Start(_open(source, num_threads), num_threads, 0, [])
        self._start: _Start | None = start
        self._decoder = start.decoder
        self._waiting: list[Packet] = []
        self._num_at_once = frames_at_once(source.first.width_px, source.first.height_px)

    def __call__(self, packet: Packet | None) -> list[NativePicture]:
        if packet is None:
            self._start = None
            return self._decoded() + self._wrapped(self._decoder.finish())
        row = cast(int, packet.pts)
        if self._start is not None and row < self._start.num_packets:
            return self._started(row)
        if self._start is not None and not self._is_joined(row):
            self._decoder.finish()
        self._start = None
        self._waiting.append(packet)
        return self._decoded() if len(self._waiting) >= self._num_at_once else []

    def _decoded(self) -> list[NativePicture]:
        """The pictures of the packets that wait."""
        pictures: list[Picture] = []
        for packet in self._waiting:
            row = cast(int, packet.pts)
            pictures += self._decoder.decode(
                packet, int(self._rank[row]), bool(self._is_wanted[row])
            )
        self._waiting.clear()
        return self._wrapped(pictures)

    def _started(self, row: int) -> list[NativePicture]:
        """What came out of the first packets, which are not sent again."""
        assert self._start is not None
        pictures = self._start.pictures if row == 0 else []
        self._start = self._start._replace(pictures=[])
        return self._wrapped(pictures)

    def _is_joined(self, row: int) -> bool:
        """Whether a packet that is sent follows those that the decoder has seen."""
        assert self._start is not None
        return not self._start.pictures and row >= self._start.num_packets

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


def _first_picture(source: VideoSource, num_threads: int) -> NativePicture | None:
    """The first picture of the stream, or None."""
    decoder = _open(source, num_threads)
    packets = [packet for packet in source.head if packet]
    pictures: list[Picture] = []
    for row, packet in enumerate(packets):
        if pictures := decoder.decode(packet, int(source.packets.rank[row])):
            source.started[:] = [_Start(decoder, num_threads, row + 1, pictures)]
            break
    pictures = pictures or decoder.finish()
    if not pictures:
        return None
    layout = Layout.of(pictures[0])
    return NativePicture(pictures[0], layout, 0, source.index.display)


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
