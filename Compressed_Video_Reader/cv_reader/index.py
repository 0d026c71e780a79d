"""The packet index: every frame of a video in presentation order, found without decoding it.

Presentation order is the order of the packets' time stamps. Where these are missing, or repeated
among reordered pictures, or not to be trusted (raw streams; H.264 and HEVC in AVI), the stream is
decoded once for the order alone. Without usable presentation times the frames get the decoding
times, sorted, and without these frame number / frame rate.

Not counted as frames: packets that an edit list discards, invisible VP8 pictures, and pictures
shown before the first key frame, which nothing can decode.

Axis legend: M packets in file order, N frames in presentation order.
"""

import itertools
import os
from dataclasses import dataclass

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from cv_reader.container import FirstPicture, describe, first_picture, open_stream, set_threads
from cv_reader.errors import CorruptVideoError, UnsupportedVideoError
from cv_reader.frames import VideoIndex

NO_TIME = -(1 << 63)
"""Stands for a time stamp that a packet does not have."""

_MAX_REORDER_PACKETS = 64
"""Codecs keep at most 16 pictures back; more means that time stamps jump back."""

_MAX_PROBE_PACKETS = 64
"""Packets to try before the first picture is given up."""

_AVI_REORDERING_CODECS = ("h264", "hevc")
"""Formats whose AVI packets carry decoding times under the name of presentation times."""

_UNKNOWN_FRAME_RATE = 25.0


@dataclass(frozen=True, eq=False, kw_only=True)
class PacketTable:
    """What it takes to find a frame's packets again: one row per packet, in file order.

    Attributes:
        pts: int64 (M,), in units of the stream, ``NO_TIME`` where missing.
        dts: int64 (M,), likewise.
        position: int64 (M,), byte offset in the file, -1 where unknown.
        size_bytes: int32 (M,).
        rank: int32 (M,), place in presentation order, hidden pictures counted.
        frame: int32 (M,), frame number, -1 for hidden pictures.
        packet_of_frame: int32 (N,), row of each frame.
        start_of_frame: int32 (N,), row of the key packet to decode from, so that the frame and
            all that it refers to come out: the last one that precedes the frame in the file and
            in presentation order.
    """

    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    position: NDArray[np.int64]
    size_bytes: NDArray[np.int32]
    rank: NDArray[np.int32]
    frame: NDArray[np.int32]
    packet_of_frame: NDArray[np.int32]
    start_of_frame: NDArray[np.int32]


@dataclass(frozen=True, eq=False, kw_only=True)
class VideoSource:
    """A scanned file: what callers see of it, what the decoder needs, and its first picture."""

    index: VideoIndex
    packets: PacketTable
    first: FirstPicture


@dataclass(frozen=True, eq=False)
class _Scan:
    """Raw columns of a demuxed stream (M rows), and facts about the stream."""

    columns: NDArray[np.int64]
    time_base: float
    frame_rate: float
    codec_name: str
    container_name: str
    first: FirstPicture | None
    declared_size: tuple[int, int]

    def column(self, name: str) -> NDArray[np.int64]:
        return self.columns[:, _COLUMNS.index(name)]

    @property
    def has_trusted_pts(self) -> bool:
        if self.container_name == "avi" and self.codec_name in _AVI_REORDERING_CODECS:
            return False
        return bool((self.column("pts") != NO_TIME).all())


_COLUMNS = ("pts", "dts", "position", "size_bytes", "duration", "is_key", "is_hidden")


def read_index(path: str | os.PathLike[str]) -> VideoIndex:
    """Read the index of a video from its packets; one picture is decoded, for the rotation.

    Raises:
        VideoNotFoundError: nothing to open at the path.
        CorruptVideoError: empty, truncated before its index, or without a single frame.
        UnsupportedVideoError: not a video, no video stream, no decoder, absurd dimensions, a
            rotation by other than right angles, or time stamps that jump back.
    """
    return scan(path).index


def scan(path: str | os.PathLike[str]) -> VideoSource:
    """Like ``read_index``, with what a decoder needs besides."""
    name = os.fspath(path)
    with open_stream(name) as (container, stream):
        raw = _read_packets(container, stream, name)
    if not len(raw.columns):
        raise CorruptVideoError(name, "has a video stream without a single frame; copy it again")
    rank, times = _presentation(raw, name)
    packets = _packet_table(raw, rank)
    if not len(packets.packet_of_frame):
        raise CorruptVideoError(name, "its edit list discards every frame; re-encode it")
    first = raw.first or FirstPicture(*raw.declared_size, *raw.declared_size, rotation_degrees=0)
    return VideoSource(
        index=_video_index(name, raw, packets, times, first), packets=packets, first=first
    )


def _read_packets(container: InputContainer, stream: VideoStream, path: str) -> _Scan:
    set_threads(stream, 1, by_frame=False)
    codec_name = stream.codec_context.codec.canonical_name
    rows: list[tuple[int, ...]] = []
    first: FirstPicture | None = None
    try:
        for packet in container.demux(stream):
            if first is None and len(rows) < _MAX_PROBE_PACKETS:
                first = _probe(stream, packet, path)
            if packet.size:
                rows.append(_row(packet, codec_name))
    except FFmpegError as error:
        # A damaged tail: what comes before it stands.
        if not rows:
            raise CorruptVideoError(path, f"no packet can be read ({describe(error)})") from error
    rate = stream.average_rate or stream.guessed_rate
    return _Scan(
        columns=np.array(rows, dtype=np.int64).reshape(-1, len(_COLUMNS)),
        time_base=float(stream.time_base or 1 / _UNKNOWN_FRAME_RATE),
        frame_rate=float(rate) if rate else _UNKNOWN_FRAME_RATE,
        codec_name=codec_name,
        container_name=container.format.name,
        first=first,
        declared_size=(stream.width, stream.height),
    )


def _probe(stream: VideoStream, packet: Packet, path: str) -> FirstPicture | None:
    try:
        frames = stream.codec_context.decode(packet if packet.size else None)
    except FFmpegError:
        return None
    return first_picture(frames[0], stream, path) if frames else None


def _row(packet: Packet, codec_name: str) -> tuple[int, ...]:
    # A VP8 frame header says in bit 4 of its first byte whether the picture is shown.
    hidden = packet.is_discard or (codec_name == "vp8" and not bytes(packet)[0] & 0x10)
    return (
        NO_TIME if packet.pts is None else packet.pts,
        NO_TIME if packet.dts is None else packet.dts,
        -1 if packet.pos is None else packet.pos,
        packet.size,
        packet.duration or 0,
        packet.is_keyframe,
        hidden,
    )


def _presentation(raw: _Scan, path: str) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Rank of each packet in presentation order, and the time of each rank in seconds."""
    pts, count = raw.column("pts"), len(raw.columns)
    order = np.argsort(pts, kind="stable")
    is_reordered = bool((np.diff(order) < 0).any())
    if not raw.has_trusted_pts or (is_reordered and len(np.unique(pts)) < count):
        order = _decoded_order(path, count)
    rank = np.empty(count, np.int32)
    rank[order] = np.arange(count, dtype=np.int32)
    jumps = np.flatnonzero(np.abs(rank - np.arange(count)) > _MAX_REORDER_PACKETS)
    if len(jumps):
        raise UnsupportedVideoError(
            path, f"its time stamps jump back near packet {jumps[0]}; remux or re-encode it"
        )
    return rank, _times(raw)


def _times(raw: _Scan) -> NDArray[np.float64]:
    """Time of each rank in seconds, never decreasing."""
    ticks = raw.column("pts" if raw.has_trusted_pts else "dts")
    if (ticks == NO_TIME).any():
        return np.arange(len(ticks), dtype=np.float64) / raw.frame_rate
    return np.sort(ticks).astype(np.float64) * raw.time_base


def _decoded_order(path: str, num_packets: int) -> NDArray[np.int64]:
    """Packets in the order in which a decoder shows them; lost ones stand where they are read."""
    order: list[int] = []
    with open_stream(path) as (container, stream):
        set_threads(stream, 0, by_frame=False)
        filled = (packet for packet in container.demux(stream) if packet.size)
        for number, packet in enumerate(itertools.chain(filled, [None])):
            if packet is not None:
                packet.pts = number
            try:
                order.extend(frame.pts for frame in stream.codec_context.decode(packet))
            except FFmpegError:
                continue
    for lost in sorted(set(range(num_packets)) - set(order)):
        later = (place for place, number in enumerate(order) if number > lost)
        order.insert(next(later, len(order)), lost)
    return np.array(order, dtype=np.int64)


def _packet_table(raw: _Scan, rank: NDArray[np.int32]) -> PacketTable:
    keys = np.flatnonzero(raw.column("is_key"))
    hidden = raw.column("is_hidden").astype(np.bool_)
    if len(keys):
        hidden = hidden | (rank < rank[keys[0]])
    shown = np.flatnonzero(~hidden)
    packet_of_frame = shown[np.argsort(rank[shown])].astype(np.int32)
    frame = np.full(len(rank), -1, np.int32)
    frame[packet_of_frame] = np.arange(len(packet_of_frame), dtype=np.int32)
    return PacketTable(
        pts=raw.column("pts").copy(),
        dts=raw.column("dts").copy(),
        position=raw.column("position").copy(),
        size_bytes=raw.column("size_bytes").astype(np.int32),
        rank=rank,
        frame=frame,
        packet_of_frame=packet_of_frame,
        start_of_frame=_start_packets(keys, rank, packet_of_frame),
    )


def _start_packets(
    keys: NDArray[np.int64], rank: NDArray[np.int32], packet_of_frame: NDArray[np.int32]
) -> NDArray[np.int32]:
    if not len(keys):
        return np.zeros(len(packet_of_frame), np.int32)
    place = np.searchsorted(keys, packet_of_frame, side="right") - 1
    # A picture shown before its key frame may refer to the group before.
    while (leading := (place > 0) & (rank[keys[place]] > rank[packet_of_frame])).any():
        place = place - leading
    return keys[np.maximum(place, 0)].astype(np.int32)


def _video_index(
    path: str,
    raw: _Scan,
    packets: PacketTable,
    times: NDArray[np.float64],
    first: FirstPicture,
) -> VideoIndex:
    shown = packets.packet_of_frame
    pts_seconds = times[packets.rank[shown]]
    span = float(pts_seconds[-1] - pts_seconds[0])
    last = float(raw.column("duration")[shown[-1]]) * raw.time_base
    if last <= 0:
        last = span / (len(shown) - 1) if span > 0 else 1 / raw.frame_rate
    upright = first.rotation_degrees % 180 == 0
    status = os.stat(path)
    return VideoIndex(
        path=path,
        codec_name=raw.codec_name,
        width_px=first.width_px if upright else first.height_px,
        height_px=first.height_px if upright else first.width_px,
        rotation_degrees=first.rotation_degrees,
        num_frames=len(shown),
        pts_seconds=pts_seconds,
        is_key=raw.column("is_key")[shown].astype(np.bool_),
        packet_bytes=packets.size_bytes[shown],
        duration_seconds=span + last,
        frame_rate=len(shown) / (span + last),
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )
