"""Demuxing: one row of numbers per packet of a video stream, and its first picture.

Axis legend: M packets in file order.
"""

from dataclasses import dataclass

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from cv_reader.errors import CorruptVideoError, UnsupportedVideoError
from cv_reader.media.container import (
    DECODE_ERRORS,
    FirstPicture,
    describe,
    first_picture,
    set_threads,
)
from cv_reader.media.container_header import read_header
from cv_reader.media.h264 import is_reference
from cv_reader.media.h264 import length_size as h264_length_size
from cv_reader.media.h264_fields import FieldReader
from cv_reader.media.hevc import are_references, layer_code
from cv_reader.media.hevc import length_size as hevc_length_size

NO_TIME = -(1 << 63)
"""Stands for a time stamp that a packet does not have."""

_HEAD_PACKETS = 8
"""Packets that are kept in any case: by then most decoders give out the first picture."""

_MAX_PROBE_PACKETS = 64
"""Packets to try before the first picture is given up."""

_AVI_REORDERING_CODECS = ("h264", "hevc")
"""Formats whose AVI packets carry decoding times under the name of presentation times."""

_LENGTHS = {"h264": h264_length_size, "hevc": hevc_length_size}
"""How long the length before each unit of a packet is, by codec."""

_UNKNOWN_FRAME_RATE = 25.0

_COLUMNS = (
    "pts",
    "dts",
    "position",
    "size_bytes",
    "duration",
    "is_key",
    "is_hidden",
    "is_reference",
    "is_second_field",
)


@dataclass(frozen=True, eq=False)
class ScannedPackets:
    """A demuxed stream: columns of M rows, and facts about the stream.

    Attributes:
        columns: int64 (M, 9); see ``column``.
        time_base: seconds per unit of ``pts``, ``dts`` and ``duration``.
        frame_rate: as the container declares it, or guessed.
        codec_name: FFmpeg's name of the format.
        container_name: FFmpeg's name of the container.
        first: the first picture, or None where none of the first packets can be decoded, or where
            the header says what it would, and is trusted.
        head: the first packets, at least those that it took to decode it.
        extradata: the codec's parameters as the container keeps them.
        declared_size: width and height by the stream's header.
        is_first_spared: the header is trusted.
        changes_parameters: the container brings other parameters on the way, beside the packets.
        has_fields: some H.264 pictures are coded as two fields.
    """

    columns: NDArray[np.int64]
    time_base: float
    frame_rate: float
    codec_name: str
    container_name: str
    first: FirstPicture | None
    head: tuple[bytes, ...]
    extradata: bytes
    declared_size: tuple[int, int]
    is_first_spared: bool
    changes_parameters: bool
    has_fields: bool

    def column(self, name: str) -> NDArray[np.int64]:
        """``pts``, ``dts``, ``position``, ``size_bytes``, ``duration``, ``is_key``, ``is_hidden``
        (decoded but not shown), ``is_reference`` or ``is_second_field`` (of the frame before):
        int64 (M,)."""
        return self.columns[:, _COLUMNS.index(name)]

    @property
    def has_trusted_pts(self) -> bool:
        """Whether every packet has a presentation time that means one."""
        if self.container_name == "avi" and self.codec_name in _AVI_REORDERING_CODECS:
            return False
        return bool((self.column("pts") != NO_TIME).all())


def read_packets(
    container: InputContainer, stream: VideoStream, path: str, *, trust_header: bool = False
) -> ScannedPackets:
    """Demux a stream to its end, or to where the file is damaged.

    Args:
        container: of the file.
        stream: of the container.
        path: of the file.
        trust_header: do not decode the first picture of H.264 and HEVC whose container says that
            pictures are shown as coded.

    Raises:
        CorruptVideoError: no packet can be read.
        UnsupportedVideoError: encrypted, or the first picture is one that cannot be shown.
    """
    header = read_header(path, container.format.name)
    if header.is_encrypted:
        raise UnsupportedVideoError(path, "is encrypted, as its MP4 says; decrypt it first")
    set_threads(stream, 1, by_frame=False)
    # Nobody looks at the samples of the first picture.
    stream.codec_context.options = {"skip_loop_filter": "all"}
    codec_name = stream.codec_context.codec.canonical_name
    lengths = _LENGTHS.get(codec_name)
    is_spared = trust_header and header.is_upright and lengths is not None
    rows: list[tuple[int, ...]] = []
    first: FirstPicture | None = None
    head: list[bytes] = []
    nal_length = lengths(stream.codec_context.extradata) if lengths else None
    fields = FieldReader(stream.codec_context.extradata) if codec_name == "h264" else None
    try:
        for packet in container.demux(stream):
            if len(head) < (_HEAD_PACKETS if first or is_spared else _MAX_PROBE_PACKETS):
                head.append(bytes(packet))
            if first is None and not is_spared and len(rows) < _MAX_PROBE_PACKETS:
                first = _probe(stream, packet, path, at_once=not rows)
            if packet.size:
                is_second = fields is not None and fields.is_second(memoryview(packet))
                rows.append(_row(packet, codec_name, nal_length, rows[-1] if is_second else None))
    except FFmpegError as error:
        # A damaged tail: what comes before it stands.
        if not rows:
            raise CorruptVideoError(path, f"no packet can be read ({describe(error)})") from error
    rate = stream.average_rate or stream.guessed_rate
    columns = np.array(rows, dtype=np.int64).reshape(-1, len(_COLUMNS))
    if codec_name == "hevc":
        codes = columns[:, _COLUMNS.index("is_reference")]
        codes[:] = are_references(codes)
    return ScannedPackets(
        columns=columns,
        time_base=float(stream.time_base or 1 / _UNKNOWN_FRAME_RATE),
        frame_rate=float(rate) if rate else _UNKNOWN_FRAME_RATE,
        codec_name=codec_name,
        container_name=container.format.name,
        first=first,
        head=tuple(head),
        extradata=bytes(stream.codec_context.extradata or b""),
        declared_size=(stream.width, stream.height),
        is_first_spared=is_spared,
        changes_parameters=header.changes_parameters,
        has_fields=fields is not None and fields.seen,
    )


def _probe(stream: VideoStream, packet: Packet, path: str, *, at_once: bool) -> FirstPicture | None:
    """The first picture, or None; ``at_once`` spares the pictures that decoders want to see after
    it."""
    context = stream.codec_context
    frames: list[VideoFrame] = []
    try:
        if at_once and packet.size:
            frames = context.decode(packet) or context.decode(None)
            context.flush_buffers()
        frames = frames or context.decode(packet if packet.size else None)
    except DECODE_ERRORS:
        return None
    return first_picture(frames[0], stream, path) if frames else None


def _row(
    packet: Packet, codec_name: str, nal_length: int | None, other_field: tuple[int, ...] | None
) -> tuple[int, ...]:
    """One row; that of a second field has the times of the first."""
    data = memoryview(packet)
    # A VP8 frame header says in bit 4 of its first byte whether the picture is shown.
    hidden = packet.is_discard or (codec_name == "vp8" and not data[0] & 0x10)
    times = (
        NO_TIME if packet.pts is None else packet.pts,
        NO_TIME if packet.dts is None else packet.dts,
    )
    return (
        *(times if other_field is None else other_field[:2]),
        -1 if packet.pos is None else packet.pos,
        packet.size,
        packet.duration or 0,
        packet.is_keyframe,
        hidden or other_field is not None,
        _reference_code(data, codec_name, nal_length),
        other_field is not None,
    )


def _reference_code(data: memoryview, codec_name: str, nal_length: int | None) -> int:
    """Whether others may refer to a picture; of HEVC a code, since it takes the whole stream."""
    if codec_name == "h264":
        return is_reference(data, nal_length)
    return layer_code(data, nal_length) if codec_name == "hevc" else True
