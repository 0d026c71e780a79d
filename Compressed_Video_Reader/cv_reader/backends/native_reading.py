"""Reading with the native decoder; imported only where ``cv_reader_native`` is installed."""

from collections.abc import Generator, Sequence

import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from cv_reader_native import Decoder

from cv_reader.backends.native_picture import NativePicture, NativePixels
from cv_reader.backends.pixels import shared_facts
from cv_reader.container import MAX_AREA_PX
from cv_reader.decoding import DecodeOptions, decode_with
from cv_reader.errors import UnsupportedVideoError
from cv_reader.frames import CodecFrame
from cv_reader.index import VideoSource
from cv_reader.orientation import turn_blocks, turn_cells, turn_pixels, turn_vectors


def refusal(source: VideoSource) -> str | None:
    """Why this backend cannot read a video, or None; decodes its first picture."""
    if source.changes_parameters:
        return "its container changes the codec's parameters on the way, beside the packets"
    if source.has_fields:
        return "some of its pictures are field-coded (interlaced), and have no vectors per frame"
    try:
        picture = _first_picture(source)
    except ValueError as error:
        return str(error)
    if picture is None:
        return "its first picture cannot be decoded"
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

    def open_decoder(stream: VideoStream, num_threads: int) -> _PictureDecoder:
        del stream
        return _PictureDecoder(source, num_threads)

    for decoded in decode_with(source, ids, DecodeOptions(num_threads), open_decoder):
        if decoded.is_wanted:
            yield _frame(source, decoded.number, decoded.frame)


class _PictureDecoder:
    """The decoder of one stream. Packets enter by their place in presentation order, so that the
    distance between two pictures is the difference of their numbers."""

    def __init__(self, source: VideoSource, num_threads: int) -> None:
        self._rank = source.packets.rank
        self._row = np.argsort(self._rank)
        self._degrees = source.index.rotation_degrees
        self._decoder = _open(source.index.codec_name, source.extradata, num_threads)

    def __call__(self, packet: Packet | None) -> list[NativePicture]:
        if packet is None:
            pictures = self._decoder.finish()
        else:
            pictures = self._decoder.decode(packet, int(self._rank[packet.pts]))
        return [
            NativePicture(picture, int(self._row[picture.picture_id]), self._degrees)
            for picture in pictures
        ]


def _open(codec_name: str, extradata: bytes, num_threads: int) -> Decoder:
    return Decoder(codec_name, extradata, num_threads=num_threads, max_pixels=MAX_AREA_PX)


def _first_picture(source: VideoSource) -> NativePicture | None:
    """The first picture of the stream, or None."""
    decoder = _open(source.index.codec_name, source.extradata, 1)
    for row, packet in enumerate(source.head):
        if pictures := decoder.decode(packet, row):
            return NativePicture(pictures[0], 0, source.index.rotation_degrees)
    pictures = decoder.finish()
    return NativePicture(pictures[0], 0, source.index.rotation_degrees) if pictures else None


def _frame(source: VideoSource, number: int, picture: NativePicture) -> CodecFrame:
    if (reason := picture.refusal) is not None:
        raise UnsupportedVideoError(
            source.index.path, f"frame {number}: {reason}; use another backend"
        )
    degrees = source.index.rotation_degrees
    height, width = picture.height, picture.width
    bits, qp = picture.bits(), picture.qp()
    return CodecFrame(
        **shared_facts(source, number, picture.pict_type, NativePixels(picture)),
        motion=turn_vectors(picture.motion(), degrees, height, width),
        motion_ref=turn_cells(picture.motion_ref(), degrees, height, width),
        residual_y=turn_pixels(picture.residual_y(), degrees),
        bits=None if bits is None else turn_blocks(bits, degrees, height, width),
        qp=None if qp is None else turn_blocks(qp, degrees, height, width),
    )
