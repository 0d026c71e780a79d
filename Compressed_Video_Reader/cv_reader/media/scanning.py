"""Demux a video stream: one row of numbers per packet, and the first picture.

Axis legend: M packets in file order.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from cv_reader.errors import CorruptVideoError, UnsupportedVideoError
from cv_reader.media.coded import unpacked
from cv_reader.media.container import (
    DECODE_ERRORS,
    FirstPicture,
    declared_display,
    describe,
    first_picture,
    set_threads,
)
from cv_reader.media.container_header import MP4, HeaderFacts, key_packet_positions, read_header
from cv_reader.media.display import Display
from cv_reader.media.h264 import FieldReader, length_size, recovery_frames, shown_by_record
from cv_reader.media.headers import (
    H264_IDR,
    NO_PICTURE,
    HeaderReader,
    PacketFacts,
    are_references,
    has_sequence_set,
    header_reader,
)
from cv_reader.partial_files import PartialFile, find_partial

NO_TIME = -(1 << 63)
"""Value of a time stamp that a packet does not have."""

_HEAD_PACKETS = 8
"""Packets that are kept in any case: by then most decoders give out the first picture."""

_MAX_HEAD_PACKETS = 64
"""Packets that are kept while the first picture has not been found."""

_MAX_PROBE_PACKETS = 512
"""Packets to try before the first picture is given up: two long groups of pictures."""

_AVI_REORDERING_CODECS = ("h264", "hevc")
"""Formats whose AVI packets carry decoding times under the name of presentation times."""

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
    "unit_type",
    "is_b",
    "ends_sequence",
    "recovery_frames",
)


_BEGINNING_BYTES = 4096
"""Bytes of a key packet that are fetched to see its first slice, where the rest is not."""

_H264_SLICE = 1
_UNREAD = PacketFacts(unit_type=_H264_SLICE)
"""What stands for a packet whose content is not fetched."""

_MAX_PROBE_NUMBERS = _MAX_PROBE_PACKETS * len(_COLUMNS)
"""The same, in numbers of the table while it is read: an hour has 100,000 packets and more, so that
they are kept as numbers in one piece, not as objects."""


@dataclass(frozen=True, eq=False)
class ScannedPackets:
    """A demuxed stream: columns of M rows, and facts about the stream.

    Attributes:
        columns: int64 (M, 13); see ``column``.
        time_base: seconds per unit of ``pts``, ``dts`` and ``duration``.
        frame_rate: frames per second, declared by the container or guessed.
        codec_name: FFmpeg's name of the format.
        container_name: FFmpeg's name of the container.
        first: the first picture, or None where none of the first packets can be decoded, or where
            the header says what it would, and is trusted.
        display: how pictures are shown, as declared; that of ``first`` comes before it.
        stream_index: number of the stream in its file.
        head: the first packets, at least those that it took to decode it.
        extradata: the codec's parameters as the container keeps them.
        declared_size: width and height by the stream's header.
        probe_skipped: the first picture was not decoded, because the header says what it would.
        changes_parameters: the container changes the parameters within the stream, outside
            the packets.
        has_fields: some H.264 pictures are coded as two fields.
        may_reorder: the codec's header says that pictures may be shown in another order.
        is_packed: MPEG-4 with several pictures in a packet, as Xvid and DivX write it in AVI.
    """

    columns: NDArray[np.int64]
    time_base: float
    frame_rate: float
    codec_name: str
    container_name: str
    first: FirstPicture | None
    display: Display
    stream_index: int
    head: tuple[bytes, ...]
    extradata: bytes
    declared_size: tuple[int, int]
    probe_skipped: bool
    changes_parameters: bool
    has_fields: bool
    may_reorder: bool
    is_packed: bool

    def column(self, name: str) -> NDArray[np.int64]:
        """Return one column, int64 (M,).

        Args:
            name: ``pts``, ``dts``, ``position``, ``size_bytes``, ``duration``, ``is_key``,
                ``is_hidden`` (decoded but not shown), ``is_reference``, ``is_second_field`` (of the
                frame before), ``recovery_frames`` (of key packets: frames that are not
                right where decoding starts there), or ``unit_type``, ``is_b``,
                ``ends_sequence`` of ``PacketFacts``.
        """
        return self.columns[:, _COLUMNS.index(name)]

    @property
    def has_trusted_pts(self) -> bool:
        """Whether every packet has a presentation time that means one."""
        if self.container_name == "avi" and self.codec_name in _AVI_REORDERING_CODECS:
            return False
        if self.is_packed:
            return False
        return bool((self.column("pts") != NO_TIME).all())


def read_packets(
    container: InputContainer,
    stream: VideoStream,
    path: str,
    *,
    trust_header: bool = False,
    unpacks: bool = False,
) -> ScannedPackets:
    """Demux a stream to its end, or to where the file is damaged.

    Args:
        container: container of the file.
        stream: stream of the container.
        path: path of the file.
        trust_header: do not decode the first picture of H.264 and HEVC whose container says that
            pictures are shown as coded.
        unpacks: see ``filled_packets``. Without it the scan ends at the first packet that holds
            several pictures, and the result says ``is_packed``.

    Raises:
        CorruptVideoError: no packet can be read.
        UnsupportedVideoError: encrypted, or the first picture is one that cannot be shown.
    """
    header = _usable_header(path, container.format.name)
    set_threads(stream, 1, by_frame=False)
    # The samples of the first picture are not looked at.
    stream.codec_context.options = {"skip_loop_filter": "all"}
    codec_name = stream.codec_context.codec.canonical_name
    declared = _declared_display(stream, codec_name)
    skips_probe = trust_header and header.is_upright and declared is not None
    rows, last = array("q"), (0,) * len(_COLUMNS)
    first: FirstPicture | None = None
    head: list[bytes] = []
    read_facts = header_reader(codec_name, stream.codec_context.extradata)
    fields = FieldReader(stream.codec_context.extradata) if codec_name == "h264" else None
    is_packed = unpacks
    header_only = _HeaderOnly.of(path, stream, container, fields if skips_probe else None)
    try:
        for packet in filled_packets(container, stream, unpacks=unpacks):
            if len(head) == _HEAD_PACKETS and header_only.starts():
                rows.extend(_row(packet, header_only.facts(packet, read_facts), None, stream))
                continue
            data = memoryview(packet)
            facts = read_facts(data)
            if facts.is_packed and not unpacks:
                is_packed = True
                break
            if len(head) < (_HEAD_PACKETS if first or skips_probe else _MAX_HEAD_PACKETS):
                head.append(bytes(data))
            if first is None and not skips_probe and len(rows) < _MAX_PROBE_NUMBERS:
                first = _probe(stream, packet, path, at_once=not rows)
            is_second = fields is not None and fields.is_second(data)
            rows.extend(last := _row(packet, facts, last if is_second else None, stream))
        if first is None and not skips_probe and len(rows) < _MAX_PROBE_NUMBERS:
            first = _probe(stream, None, path)
    except FFmpegError as error:
        # A damaged tail: what comes before it counts.
        if not rows:
            raise CorruptVideoError(path, f"no packet can be read ({describe(error)})") from error
    finally:
        header_only.stop()
    rate = stream.average_rate or stream.guessed_rate
    return ScannedPackets(
        columns=header_only.complete(_columns(rows, codec_name)),
        time_base=float(stream.time_base or 1 / _UNKNOWN_FRAME_RATE),
        frame_rate=float(rate) if rate else _UNKNOWN_FRAME_RATE,
        codec_name=codec_name,
        container_name=container.format.name,
        first=first,
        display=declared or declared_display(stream),
        stream_index=stream.index,
        head=tuple(head),
        extradata=bytes(stream.codec_context.extradata or b""),
        declared_size=(stream.width, stream.height),
        probe_skipped=skips_probe,
        changes_parameters=header.changes_parameters,
        has_fields=fields is not None and fields.seen,
        may_reorder=bool(stream.codec_context.has_b_frames),
        is_packed=is_packed,
    )


class _HeaderOnly:
    """Spares reading the packets of a partial file whose header says what matters of them.

    An MP4 says of each packet where it is, when it is shown and whether it is a key one. H.264
    without fields needs no more, except for what its key packets say of themselves: FFmpeg looks at
    a packet itself to see whether it is one. All others count as referred to, so that none that is
    needed is left out.
    """

    def __init__(self, file: PartialFile | None, key_positions: list[int]) -> None:
        self._file, self._key_positions = file, key_positions

    @classmethod
    def of(
        cls, path: str, stream: VideoStream, container: InputContainer, fields: FieldReader | None
    ) -> "_HeaderOnly":
        """Return a scan by the header alone, inactive where the packets must be read.

        Args:
            fields: of an H.264 stream of which the first picture is not decoded, else None.
        """
        file = find_partial(path)
        is_mp4 = container.format.name == MP4 and stream.codec_context.extradata is not None
        if file is None or not file.may_skim or not is_mp4 or fields is None or not fields.is_idle:
            return cls(None, [])
        positions = key_packet_positions(path)
        return cls(file if positions else None, positions)

    def starts(self) -> bool:
        """Read holes as zeros from here on, but for the beginnings of key packets."""
        if self._file is not None and not self._file.skims:
            self._file.put_beginnings(self._key_positions, _BEGINNING_BYTES)
            self._file.skims = True
        return self._file is not None

    def stop(self) -> None:
        """Fetch what is read again."""
        if self._file is not None:
            self._file.skims = False

    def facts(self, packet: Packet, read_facts: HeaderReader) -> PacketFacts:
        """Return what is known of a packet."""
        if not packet.is_keyframe or packet.pos is None or self._file is None:
            return _UNREAD
        facts = read_facts(memoryview(packet))
        if facts.unit_type in (_H264_SLICE, H264_IDR):
            return facts
        (data,) = self._file.read_many([(packet.pos, packet.pos + packet.size)])
        return read_facts(memoryview(data))

    def complete(self, columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Call those packets B that are shown before one that the file has earlier, where their
        content was not read."""
        if self._file is None:
            return columns
        pts = columns[:, _COLUMNS.index("pts")]
        is_latest = np.append(True, pts[1:] >= np.maximum.accumulate(pts)[:-1])
        is_unread = columns[:, _COLUMNS.index("is_key")] == 0
        is_unread[:_HEAD_PACKETS] = False
        columns[is_unread, _COLUMNS.index("is_b")] = ~is_latest[is_unread]
        return columns


def _usable_header(path: str, container_name: str) -> HeaderFacts:
    header = read_header(path, container_name)
    if header.is_encrypted:
        raise UnsupportedVideoError(path, "is encrypted, as its MP4 says; decrypt it first")
    return header


def _columns(rows: "array[int]", codec_name: str) -> NDArray[np.int64]:
    columns = np.frombuffer(rows, np.int64).reshape(-1, len(_COLUMNS))
    if codec_name == "hevc":
        codes = columns[:, _COLUMNS.index("is_reference")]
        codes[:] = are_references(codes)
    return columns


def _recovery_frames(packet: Packet, facts: PacketFacts, stream: VideoStream) -> int:
    if not packet.is_keyframe or stream.codec_context.codec.canonical_name != "h264":
        return 0
    if facts.unit_type == H264_IDR or facts is _UNREAD:
        return 0
    return recovery_frames(bytes(packet), length_size(stream.codec_context.extradata))


def _declared_display(stream: VideoStream, codec_name: str) -> Display | None:
    """How pictures are shown, where the container's record of parameters says all of it."""
    extradata = stream.codec_context.extradata
    if codec_name == "hevc" and has_sequence_set(extradata):
        return declared_display(stream)
    shown = shown_by_record(extradata) if codec_name == "h264" else None
    return None if shown is None else declared_display(stream, shown)


def filled_packets(
    container: InputContainer, stream: VideoStream, *, unpacks: bool
) -> Iterator[Packet]:
    """Iterate over the packets of a stream that hold data, from the container's position.

    Args:
        container: container of the file.
        stream: stream of the container.
        unpacks: apply ``unpacked``; the container must be positioned at a key packet or the start.
    """
    packets = (packet for packet in container.demux(stream) if packet.size)
    return unpacked(packets, stream) if unpacks else packets


def _probe(
    stream: VideoStream, packet: Packet | None, path: str, *, at_once: bool = False
) -> FirstPicture | None:
    """Return the first picture, or None while the decoder needs more packets.

    Args:
        stream: stream of the packet.
        packet: the next packet, or None at the end.
        path: path of the file.
        at_once: flush the decoder so that no further packets are needed.
    """
    context = stream.codec_context
    frames: list[VideoFrame] = []
    try:
        if at_once:
            frames = context.decode(packet) or context.decode(None)
            context.flush_buffers()
        frames = frames or context.decode(packet)
    except DECODE_ERRORS:
        return None
    return first_picture(frames[0], stream, path) if frames else None


def _row(
    packet: Packet, facts: PacketFacts, other_field: tuple[int, ...] | None, stream: VideoStream
) -> tuple[int, ...]:
    """Return one row; that of a second field has the times of the first."""
    times = (
        NO_TIME if packet.pts is None else packet.pts,
        NO_TIME if packet.dts is None else packet.dts,
    )
    return (
        *(times if other_field is None else other_field[:2]),
        -1 if packet.pos is None else packet.pos,
        packet.size,
        packet.duration or 0,
        # Packed MPEG-4 in AVI has the flag on pictures that are none too.
        packet.is_keyframe and not facts.is_b and facts.unit_type != NO_PICTURE,
        packet.is_discard or facts.is_hidden or other_field is not None,
        facts.reference,
        other_field is not None,
        facts.unit_type,
        facts.is_b,
        facts.ends_sequence,
        _recovery_frames(packet, facts, stream),
    )
