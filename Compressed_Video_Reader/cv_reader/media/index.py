"""The packet index: every frame of a video in presentation order, mostly without decoding it.

See ``cv_reader.media.ordering`` for the order and for what counts as a frame. Not counted are
packets that an edit list discards, pictures that are decoded but not shown, and pictures that
nothing can decode because the stream begins after what they refer to.

Axis legend: M packets in file order, N frames in presentation order.
"""

import os
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cv_reader.errors import CorruptVideoError, UnsupportedVideoError
from cv_reader.media.container import FirstPicture, check_size, open_stream
from cv_reader.media.display import UNREADABLE_MATRICES, Display
from cv_reader.media.frames import FrameReach, VideoIndex
from cv_reader.media.ordering import Presentation, order_packets
from cv_reader.media.scanning import ScannedPackets, read_packets
from cv_reader.partial_files import file_status


@dataclass(frozen=True, eq=False, kw_only=True)
class PacketTable:
    """What it takes to find a frame's packets again: one row per packet, in file order.

    Attributes:
        pts: int64 (M,), in units of the stream, ``NO_TIME`` where missing.
        dts: int64 (M,), decoding times in the same units, ``NO_TIME`` where missing.
        position: int64 (M,), byte offset in the file, -1 where unknown.
        size_bytes: int32 (M,).
        rank: int32 (M,), place in presentation order, hidden pictures counted.
        frame: int32 (M,), frame number, -1 for hidden pictures.
        is_reference: bool (M,), False where H.264 or HEVC packets say that nothing refers to it.
        is_cut_off: bool (M,), pictures that may refer to what the stream lacks, because it begins
            between key pictures; given as FFmpeg shows them.
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
    is_cut_off: NDArray[np.bool_]
    packet_of_frame: NDArray[np.int32]
    last_of_frame: NDArray[np.int32]
    start_of_frame: NDArray[np.int32]


@dataclass(frozen=True, eq=False, kw_only=True)
class VideoSource:
    """A scanned file: what callers see of it, and what decoders need.

    Attributes:
        index: index of the frames, which callers see.
        packets: every packet.
        first: the first picture, where it can be decoded, else as declared.
        probe_skipped: the first picture was not decoded, because the header already says how it is
            shown; the backend must verify its size and rotation.
        head: the first packets, at least those that it takes to decode the first picture.
        extradata: the codec's parameters as the container keeps them.
        changes_parameters: the container changes the parameters within the stream, outside
            the packets.
        has_fields: some H.264 pictures are coded as two fields.
        is_packed: MPEG-4 with several pictures in a packet, which are given packets of their own.
    """

    index: VideoIndex
    packets: PacketTable
    first: FirstPicture
    probe_skipped: bool
    head: tuple[bytes, ...]
    extradata: bytes
    changes_parameters: bool
    has_fields: bool
    is_packed: bool


def read_index(path: str | os.PathLike[str]) -> VideoIndex:
    """Read the index of a video from its packets; one picture is decoded, for the rotation.

    Raises:
        VideoNotFoundError: nothing to open at the path.
        CorruptVideoError: empty, truncated before its index, or without a single frame.
        UnsupportedVideoError: not a video, no video stream, no decoder, absurd dimensions, a
            rotation by other than right angles, or time stamps that jump back.
    """
    return scan(path).index


def scan(
    path: str | os.PathLike[str], *, trust_header: bool = False, hdr: str = "tonemap"
) -> VideoSource:
    """Read the index of a video, and what else a decoder needs.

    Args:
        path: path of the file.
        trust_header: see ``read_packets``; ``probe_skipped`` says whether it was.
        hdr: what is done with HDR, one of ``HDR_MODES``.

    Raises:
        VideoError: as ``read_index``, and where HDR is to be refused.
    """
    name = os.fspath(path)
    raw = _read(name, trust_header=trust_header)
    if raw.is_packed:
        raw = _read(name, unpacks=True)
    if not len(raw.columns):
        raise CorruptVideoError(name, "has a video stream without a single frame; copy it again")
    shown = order_packets(raw, name)
    if not shown.is_shown.any():
        raise CorruptVideoError(name, _why_empty(raw))
    packets = _packet_table(raw, shown)
    first = raw.first or FirstPicture(*raw.declared_size, *raw.declared_size, raw.display)
    return VideoSource(
        index=_video_index(name, raw, packets, shown, first, hdr),
        packets=packets,
        first=first,
        probe_skipped=raw.probe_skipped,
        head=raw.head,
        extradata=raw.extradata,
        changes_parameters=raw.changes_parameters,
        has_fields=raw.has_fields,
        is_packed=raw.is_packed,
    )


def _read(path: str, *, trust_header: bool = False, unpacks: bool = False) -> ScannedPackets:
    """Demux the file; see ``read_packets``."""
    with open_stream(path, without_decoding=True) as (container, stream):
        return read_packets(container, stream, path, trust_header=trust_header, unpacks=unpacks)


def _why_empty(raw: ScannedPackets) -> str:
    """Say why no frame of a stream with packets is shown."""
    if (raw.column("is_hidden") == 1).all():
        return "its edit list discards every frame; re-encode it"
    return "holds no picture that a decoder shows; copy it again, or leave it out"


def _packet_table(raw: ScannedPackets, shown: Presentation) -> PacketTable:
    keys = _start_keys(raw)
    second = np.append(raw.column("is_second_field"), 0).astype(np.int32)
    # Frame n is the shown packet with the n-th smallest rank; ``frame`` is the inverse.
    rows = np.flatnonzero(shown.is_shown)
    packet_of_frame = rows[np.argsort(shown.rank[rows])].astype(np.int32)
    frame = np.full(len(shown.rank), -1, np.int32)
    frame[packet_of_frame] = np.arange(len(packet_of_frame), dtype=np.int32)
    return PacketTable(
        pts=raw.column("pts").copy(),
        dts=raw.column("dts").copy(),
        position=raw.column("position").copy(),
        size_bytes=raw.column("size_bytes").astype(np.int32),
        rank=shown.rank,
        frame=frame,
        is_reference=raw.column("is_reference").astype(np.bool_),
        is_cut_off=shown.is_cut_off,
        packet_of_frame=packet_of_frame,
        last_of_frame=packet_of_frame + second[packet_of_frame + 1],
        start_of_frame=_start_packets(keys, shown.rank, packet_of_frame),
    )


def _start_keys(raw: ScannedPackets) -> NDArray[np.int64]:
    """Return the rows at which decoding can start so that all that follows is right.

    Streams that refresh a part of each picture have packets that are flagged as key ones, after
    which a decoder shows pictures that still depend on what came before. Only where such a stream
    begins with one is there no choice.
    """
    keys = np.flatnonzero(raw.column("is_key"))
    is_whole = raw.column("recovery_frames")[keys] == 0
    is_whole[:1] = True
    return keys[is_whole]


def _start_packets(
    keys: NDArray[np.int64], rank: NDArray[np.int32], packet_of_frame: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Return ``PacketTable.start_of_frame``; the first packet where no key packet precedes."""
    # Place 0 is the first packet, place n the n-th key: searchsorted() counts the keys before.
    starts = np.append(0, keys)
    place = np.searchsorted(keys, packet_of_frame, side="right")
    # A picture shown before its key frame may refer to the group before.
    while (leading := (place > 1) & (rank[starts[place]] > rank[packet_of_frame])).any():
        place = place - leading
    return starts[place].astype(np.int32)


def _coded_bytes(packets: PacketTable) -> NDArray[np.int32]:
    """Return int32 (N,), the size of each frame, with its second field where that has a packet."""
    sizes = packets.size_bytes
    first, last = packets.packet_of_frame, packets.last_of_frame
    return np.where(last > first, sizes[first] + sizes[last], sizes[first])


def _video_index(
    path: str,
    raw: ScannedPackets,
    packets: PacketTable,
    presentation: Presentation,
    first: FirstPicture,
    hdr: str,
) -> VideoIndex:
    shown = packets.packet_of_frame
    pts_seconds = presentation.seconds[packets.rank[shown]]
    span = float(pts_seconds[-1] - pts_seconds[0])
    last = float(raw.column("duration")[shown[-1]]) * raw.time_base
    if last <= 0:
        # The last frame has no duration of its own: it lasts as long as the mean of the others.
        last = span / (len(shown) - 1) if span > 0 else 1 / raw.frame_rate
    display = checked_display(first.display, hdr, path)
    coded_size = first.width_px, first.height_px
    shown_size, sample_size = display.shown_size(coded_size), display.turned(coded_size)
    check_size(*shown_size, path)
    size_bytes, mtime_ns = file_status(path)
    return VideoIndex(
        path=path,
        codec_name=raw.codec_name,
        width_px=shown_size[0],
        height_px=shown_size[1],
        num_columns=sample_size[0],
        num_rows=sample_size[1],
        rotation_degrees=display.orientation.rotation_degrees,
        num_frames=len(shown),
        pts_seconds=pts_seconds,
        is_key=raw.column("is_key")[shown].astype(np.bool_),
        packet_bytes=_coded_bytes(packets),
        duration_seconds=span + last,
        frame_rate=len(shown) / (span + last),
        size_bytes=size_bytes,
        mtime_ns=mtime_ns,
        pts_exactness=presentation.pts_exactness,
        stream_index=raw.stream_index,
        display=display,
        reach=_reach(packets),
    )


def _reach(packets: PacketTable) -> FrameReach:
    """Return what it takes to decode each frame."""
    # Pictures that must be decoded are the references from the start packet to the frame's last:
    # a difference of running counts.
    references = np.append(0, np.cumsum(packets.is_reference)).astype(np.int32)
    last = packets.last_of_frame
    is_reference = packets.is_reference[packets.packet_of_frame] | packets.is_reference[last]
    return FrameReach(
        start=packets.start_of_frame,
        references=references[last + 1] - references[packets.start_of_frame],
        is_reference=is_reference,
    )


def checked_display(display: Display, hdr: str, path: str) -> Display:
    """Return how pictures are shown, with what is done with HDR.

    Raises:
        UnsupportedVideoError: their colours cannot be shown, or they are HDR that is to be refused.
    """
    if display.colors.matrix in UNREADABLE_MATRICES:
        raise UnsupportedVideoError(
            path,
            f"its colours are {UNREADABLE_MATRICES[display.colors.matrix]}, which cannot be shown; "
            "convert it to BT.709 or BT.2020",
        )
    if display.hdr and hdr == "refuse":
        raise UnsupportedVideoError(
            path,
            f"is HDR ({display.hdr.upper()}), which is refused here (hdr='refuse'); choose "
            "'tonemap' to read it as SDR, or convert it",
        )
    return replace(display, tone_maps=bool(display.hdr) and hdr == "tonemap")
