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
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cv_reader.errors import CorruptVideoError, UnsupportedVideoError
from cv_reader.media.container import DECODE_ERRORS, FirstPicture, open_stream, set_threads
from cv_reader.media.frames import VideoIndex
from cv_reader.media.scanning import NO_TIME, ScannedPackets, read_packets

_MAX_REORDER_PACKETS = 64
"""Codecs keep at most 16 pictures back; more means that time stamps jump back."""


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
        is_reference: bool (M,), False where H.264 or HEVC packets say that nothing refers to it.
        packet_of_frame: int32 (N,), row of each frame.
        last_of_frame: int32 (N,), the same, or the row of its second field.
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
    is_reference: NDArray[np.bool_]
    packet_of_frame: NDArray[np.int32]
    last_of_frame: NDArray[np.int32]
    start_of_frame: NDArray[np.int32]


@dataclass(frozen=True, eq=False, kw_only=True)
class VideoSource:
    """A scanned file: what callers see of it, and what decoders need.

    Attributes:
        index: as callers see it.
        packets: every packet.
        first: the first picture, where it can be decoded, else as declared.
        is_first_spared: it was not tried: the header says upright, and whoever decodes the first
            picture has to hold it against the rest.
        head: the first packets, at least those that it takes to decode the first picture.
        extradata: the codec's parameters as the container keeps them.
        changes_parameters: the container brings others on the way, beside the packets.
        started: what a backend leaves here when it is asked whether it reads the video, for its
            first reading.
        has_fields: some H.264 pictures are coded as two fields.
    """

    index: VideoIndex
    packets: PacketTable
    first: FirstPicture
    is_first_spared: bool
    head: tuple[bytes, ...]
    extradata: bytes
    changes_parameters: bool
    started: list[object] = field(default_factory=list[object], repr=False)
    has_fields: bool


def read_index(path: str | os.PathLike[str]) -> VideoIndex:
    """Read the index of a video from its packets; one picture is decoded, for the rotation.

    Raises:
        VideoNotFoundError: nothing to open at the path.
        CorruptVideoError: empty, truncated before its index, or without a single frame.
        UnsupportedVideoError: not a video, no video stream, no decoder, absurd dimensions, a
            rotation by other than right angles, or time stamps that jump back.
    """
    return scan(path).index


def scan(path: str | os.PathLike[str], *, trust_header: bool = False) -> VideoSource:
    """Like ``read_index``, with what a decoder needs besides.

    Args:
        path: of the file.
        trust_header: see ``read_packets``; ``is_first_spared`` says whether it was.
    """
    name = os.fspath(path)
    with open_stream(name, without_decoding=True) as (container, stream):
        raw = read_packets(container, stream, name, trust_header=trust_header)
    if not len(raw.columns):
        raise CorruptVideoError(name, "has a video stream without a single frame; copy it again")
    rank, times = _presentation(raw, name)
    packets = _packet_table(raw, rank)
    if not len(packets.packet_of_frame):
        raise CorruptVideoError(name, "its edit list discards every frame; re-encode it")
    first = raw.first or FirstPicture(*raw.declared_size, *raw.declared_size, rotation_degrees=0)
    return VideoSource(
        index=_video_index(name, raw, packets, times, first),
        packets=packets,
        first=first,
        is_first_spared=raw.is_first_spared,
        head=raw.head,
        extradata=raw.extradata,
        changes_parameters=raw.changes_parameters,
        has_fields=raw.has_fields,
    )


def _presentation(raw: ScannedPackets, path: str) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Rank of each packet in presentation order, and the time of each rank in seconds."""
    pts, count = raw.column("pts"), len(raw.columns)
    firsts = np.flatnonzero(raw.column("is_second_field") == 0)
    order = firsts[np.argsort(pts[firsts], kind="stable")]
    is_reordered = bool((np.diff(order) < 0).any())
    if not raw.has_trusted_pts or (is_reordered and len(np.unique(pts)) < len(firsts)):
        order = _decoded_order(path, count)
    if len(firsts) < count:
        order = _after_their_firsts(order, raw.column("is_second_field"))
    rank = np.empty(count, np.int32)
    rank[order] = np.arange(count, dtype=np.int32)
    jumps = np.flatnonzero(np.abs(rank - np.arange(count)) > _MAX_REORDER_PACKETS)
    if len(jumps):
        raise UnsupportedVideoError(
            path, f"its time stamps jump back near packet {jumps[0]}; remux or re-encode it"
        )
    return rank, _times(raw, rank)


def _after_their_firsts(
    order: NDArray[np.int64], is_second: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The order of all packets, with second fields behind the first field of their frame."""
    firsts = order[is_second[order] == 0]
    with_second = np.append(is_second, 0)[firsts + 1] == 1
    places = np.flatnonzero(with_second) + 1
    return np.insert(firsts, places, firsts[with_second] + 1)


def _times(raw: ScannedPackets, rank: NDArray[np.int32]) -> NDArray[np.float64]:
    """Time of each rank in seconds, never decreasing."""
    ticks = raw.column("pts" if raw.has_trusted_pts else "dts")
    if (ticks == NO_TIME).any():
        is_first = raw.column("is_second_field")[np.argsort(rank)] == 0
        return (np.cumsum(is_first) - 1) / raw.frame_rate
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
            except DECODE_ERRORS:
                continue
    # A damaged packet can be shown twice: its frame is the first.
    order = list(dict.fromkeys(order))
    for lost in sorted(set(range(num_packets)) - set(order)):
        later = (place for place, number in enumerate(order) if number > lost)
        order.insert(next(later, len(order)), lost)
    return np.array(order, dtype=np.int64)


def _packet_table(raw: ScannedPackets, rank: NDArray[np.int32]) -> PacketTable:
    keys = np.flatnonzero(raw.column("is_key"))
    second = np.append(raw.column("is_second_field"), 0).astype(np.int32)
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
        is_reference=raw.column("is_reference").astype(np.bool_),
        packet_of_frame=packet_of_frame,
        last_of_frame=packet_of_frame + second[packet_of_frame + 1],
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


def _coded_bytes(packets: PacketTable) -> NDArray[np.int32]:
    """Of each frame, with its second field where that has a packet of its own."""
    sizes = packets.size_bytes
    first, last = packets.packet_of_frame, packets.last_of_frame
    return np.where(last > first, sizes[first] + sizes[last], sizes[first])


def _video_index(
    path: str,
    raw: ScannedPackets,
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
        packet_bytes=_coded_bytes(packets),
        duration_seconds=span + last,
        frame_rate=len(shown) / (span + last),
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )
