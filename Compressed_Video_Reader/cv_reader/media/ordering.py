"""Presentation order: which packets are shown, in which order and when.

The order of the time stamps is taken where they can be presentation times. Where they are missing,
or repeated among reordered pictures, or cannot be presentation times, the stream is decoded once,
for the order alone. They cannot be where

- a B picture is not shown before a picture that the file has earlier (decoding times under the name
  of presentation times: streams remuxed from AVI or from raw streams), or another picture is,
- the header says that pictures are reordered, and many in succession are not,
- they jump back (joined files).

What FFmpeg's decoder shows is what counts. It does not show the leading pictures of a key picture
at which decoding starts, nor what comes before the first picture that it can decode.

Axis legend: M packets in file order.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cv_reader.media.coded import numbered
from cv_reader.media.container import DECODE_ERRORS, open_stream, set_threads
from cv_reader.media.headers import (
    CODECS_WITH_B,
    H264_IDR,
    HEVC_KEY,
    NO_PICTURE,
    skipped_leading,
)
from cv_reader.media.scanning import NO_TIME, ScannedPackets, filled_packets

_MAX_REORDER_PACKETS = 64
"""Codecs keep at most 16 pictures back; more means that time stamps jump back."""

_MAX_INCREASING_PACKETS = 16
"""More than so many pictures in succession without reordering are not to be expected of an encoder
that reorders; where they come, the order is made sure of by decoding."""

_MAX_REORDER = 16
"""Pictures that a codec keeps back at most."""

_HELD_BACK_PACKETS = 32
"""Pictures come out of a decoder at most so many packets later."""


@dataclass(frozen=True, eq=False)
class Presentation:
    """How the packets of a stream are shown.

    Attributes:
        rank: int32 (M,), place in presentation order, pictures that are not shown counted.
        is_shown: bool (M,).
        is_cut_off: bool (M,), pictures that may refer to what the stream lacks because it, or a
            part that was joined to it, begins between key pictures.
        seconds: float64 (M,), time of each rank, never decreasing.
        pts_exactness: exactness of the times; see ``VideoIndex``.
    """

    rank: NDArray[np.int32]
    is_shown: NDArray[np.bool_]
    is_cut_off: NDArray[np.bool_]
    seconds: NDArray[np.float64]
    pts_exactness: str


def order_packets(raw: ScannedPackets, path: str) -> Presentation:
    """Find out how the packets of a stream are shown.

    Args:
        raw: the demuxed stream, with at least one packet.
        path: its file, which is opened again where decoding is needed.
    """
    second = raw.column("is_second_field")
    if _is_order_trusted(raw):
        firsts = np.flatnonzero(second == 0)
        order = firsts[np.argsort(raw.column("pts")[firsts], kind="stable")]
        rank = _rank(_with_second_fields(order, second))
        is_lost, is_cut_off = _judge_beginning(raw, rank, path)
    else:
        came_out = _distinct(_decode(raw, path, whole=True))
        rank = _rank(_with_second_fields(_with_lost(came_out, len(second)), second))
        is_lost, is_cut_off = _judge_all(raw, came_out)
    if raw.codec_name == "hevc":
        is_lost |= skipped_leading(raw.column("unit_type"), raw.column("ends_sequence"))
    seconds, pts_exactness = _times(raw, rank)
    is_shown = ~is_lost & (raw.column("is_hidden") == 0)
    return Presentation(rank, is_shown, is_cut_off, seconds, pts_exactness)


def _rank(order: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the place of each packet in an order of them, int32 (M,)."""
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank


def _with_second_fields(
    order: NDArray[np.int64], is_second: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the order of all packets, second fields after the first field of their frame."""
    if not is_second.any():
        return order
    firsts = order[is_second[order] == 0]
    with_second = np.append(is_second, 0)[firsts + 1] == 1
    places = np.flatnonzero(with_second) + 1
    return np.insert(firsts, places, firsts[with_second] + 1)


def _is_order_trusted(raw: ScannedPackets) -> bool:
    """Return whether the order of the time stamps is that of presentation."""
    is_first = raw.column("is_second_field") == 0
    pts, is_b = raw.column("pts")[is_first], raw.column("is_b")[is_first] == 1
    if not raw.has_trusted_pts or (raw.column("unit_type") == NO_PICTURE).any():
        return False
    order = np.argsort(pts, kind="stable")
    is_reordered = bool((np.diff(order) < 0).any())
    if is_reordered and len(np.unique(pts)) < len(pts):
        return False
    jumps = np.abs(order - np.arange(len(order))) > _MAX_REORDER_PACKETS
    if jumps.any() or len(_segments(raw, raw.column("pts"))) > 1:
        return False
    # Pictures later than all that the file has before them: not to be expected of B pictures.
    is_latest = np.append(True, pts[1:] >= np.maximum.accumulate(pts)[:-1])
    if raw.codec_name in CODECS_WITH_B or not raw.may_reorder:
        # All others are shown in the order of the file.
        return not (is_b[1:] & is_latest[1:]).any() and bool((np.diff(pts[~is_b]) >= 0).all())
    runs = np.diff(np.concatenate([[0], np.flatnonzero(~is_latest), [len(pts)]]))
    return bool(runs.max() <= min(_MAX_INCREASING_PACKETS, len(pts) - 1))


def _judge_beginning(
    raw: ScannedPackets, rank: NDArray[np.int32], path: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Decode the beginning of a stream unless its headers say that all of it can be decoded.

    Returns:
        bool (M,), packets that no decoder shows because the stream begins after what they refer to;
        bool (M,), ``Presentation.is_cut_off``.
    """
    nothing = np.zeros(len(rank), np.bool_)
    if raw.codec_name == "hevc" and raw.column("unit_type")[0] in HEVC_KEY:
        return nothing, nothing
    is_early = (rank < rank[0]) & (raw.column("is_hidden") == 0)
    if _starts_whole(raw, 0) and not is_early.any():
        return nothing, nothing
    rows = _decode(raw, path, whole=False)
    has_come = nothing.copy()
    has_come[rows] = True
    groups = _Groups(raw)
    is_before = np.arange(len(rank)) < groups.first_complete(has_come)
    keys = np.flatnonzero(raw.column("is_key"))
    if (np.diff(rank[rows]) <= 0).any() and len(keys):
        # What comes out of order, or twice, is made up by the decoder.
        return (is_before & ~has_come) | (rank < rank[keys[0]]), nothing
    return is_before & ~has_come, nothing if _starts_whole(raw, 0) else is_before


def _judge_all(
    raw: ScannedPackets, came_out: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Judge a stream that was decoded.

    Args:
        raw: the stream.
        came_out: rows that gave a picture.

    Returns:
        bool (M,), packets that gave no picture for another reason than damage: they hold none, or
        the stream begins after what they refer to; bool (M,), ``Presentation.is_cut_off``.
    """
    unit_type, groups = raw.column("unit_type"), _Groups(raw)
    rows = np.arange(len(unit_type))
    has_come = np.zeros(len(unit_type), np.bool_)
    has_come[came_out] = True
    is_excused = unit_type == NO_PICTURE
    is_cut_off = np.zeros(len(unit_type), np.bool_)
    for start in _segments(raw, _ticks(raw)):
        end = groups.first_complete(has_come, start)
        if not _starts_whole(raw, start):
            is_cut_off[start:end] = True
        if start == 0 and raw.codec_name not in ("h264", "hevc"):
            # Older formats have open groups whose headers are not read.
            is_excused |= rows < end
    return ~has_come & (is_excused | is_cut_off), is_cut_off


def _starts_whole(raw: ScannedPackets, row: int) -> bool:
    """Return whether what follows a row in the file can be decoded without what precedes it."""
    is_idr = raw.codec_name != "h264" or raw.column("unit_type")[row] == H264_IDR
    return bool(raw.column("is_key")[row]) and is_idr


class _Groups:
    """Groups of pictures: from one key packet to before the next."""

    def __init__(self, raw: ScannedPackets) -> None:
        keys = np.flatnonzero(raw.column("is_key")).tolist()
        self._num_packets = len(raw.columns)
        self.keys = frozenset(keys)
        self._pairs = list(pairwise([*keys, self._num_packets]))
        # These never give a picture of their own.
        self._is_excused = (
            (raw.column("is_hidden") == 1)
            | (raw.column("is_second_field") == 1)
            | (raw.column("unit_type") == NO_PICTURE)
        )

    def first_complete(
        self, has_come: NDArray[np.bool_], start: int = 0, num_sent: int | None = None
    ) -> int:
        """Return the first row of a group of which every picture came out; M where there is none.

        Args:
            has_come: bool (M,), rows that gave a picture.
            start: row from which on to look.
            num_sent: packets that the decoder has had; None = all.
        """
        for first, end in self._pairs:
            if num_sent is not None and num_sent < end + _HELD_BACK_PACKETS:
                break
            if first >= start and (has_come | self._is_excused)[first:end].all():
                return first
        return self._num_packets


def _decode(raw: ScannedPackets, path: str, *, whole: bool) -> NDArray[np.int64]:
    """Decode a stream for the order of its pictures alone.

    Args:
        raw: the stream.
        path: its file.
        whole: decode all of it, and not just up to the first complete group of pictures.

    Returns:
        Rows of the packets that gave a picture, int64, in the order in which the decoder shows
        them; a damaged packet can come twice.
    """
    groups, count = _Groups(raw), len(raw.columns)
    order: list[int] = []
    has_come = np.zeros(count, np.bool_)
    with open_stream(path, stream_index=raw.stream_index) as (container, stream):
        set_threads(stream, 0, by_frame=False)
        # Only the order matters, not the samples.
        stream.codec_context.options = {"skip_loop_filter": "all"}
        packets = filled_packets(container, stream, unpacks=raw.is_packed)
        for row, packet in _until_damage(packets, count):
            try:
                frames = stream.codec_context.decode(
                    None if packet is None else numbered(packet, row)
                )
            except DECODE_ERRORS:
                continue
            rows = [frame.pts for frame in frames]
            order += rows
            has_come[rows] = True
            if not whole and row in groups.keys:
                first = groups.first_complete(has_come, num_sent=row)
                if first < count:
                    break
    return np.array(order, dtype=np.int64)


def _distinct(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows without repetitions: a damaged packet can be shown twice."""
    return rows[np.sort(np.unique(rows, return_index=True)[1])]


def _until_damage(packets: Iterator[Packet], count: int) -> Iterator[tuple[int, Packet | None]]:
    """Yield packets with their rows, and None at the end of the file or where it is damaged."""
    with suppress(FFmpegError):
        yield from zip(range(count), packets, strict=False)
    yield count, None


def _with_lost(came_out: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the order of all M packets: those that gave no picture come before the first picture
    that the file has after them."""
    lost = np.setdiff1d(np.arange(count), came_out)
    places = np.searchsorted(np.maximum.accumulate(came_out), lost, side="right")
    return np.insert(came_out, places, lost)


def _times(raw: ScannedPackets, rank: NDArray[np.int32]) -> tuple[NDArray[np.float64], str]:
    """Return the time of each rank in seconds, never decreasing, and how exact it is."""
    by_rank = np.argsort(rank)
    is_first = raw.column("is_second_field")[by_rank] == 0
    ticks = _ticks(raw)
    if (ticks == NO_TIME).any():
        return (np.cumsum(is_first) - 1) / raw.frame_rate, "estimated"
    shown = ticks[by_rank][is_first]
    if raw.has_trusted_pts and (np.diff(shown) > 0).all():
        return ticks[by_rank].astype(np.float64) * raw.time_base, "exact"
    parts: list[NDArray[np.int64]] = []
    starts = _segments(raw, ticks)
    for first, end in zip(starts, [*starts[1:], len(ticks)], strict=True):
        part = np.sort(ticks[first:end])
        if parts:
            # Joined files: each begins where the one before it ends.
            part = part + (parts[-1][-1] + _frame_ticks(raw) - part[0])
        parts.append(part)
    return np.concatenate(parts).astype(np.float64) * raw.time_base, "approximate"


def _ticks(raw: ScannedPackets) -> NDArray[np.int64]:
    """Return the time stamps that mean something, int64 (M,)."""
    return raw.column("pts" if raw.has_trusted_pts else "dts")


def _segments(raw: ScannedPackets, ticks: NDArray[np.int64]) -> list[int]:
    """Return the first row of each part of a stream that was joined from several: time stamps fall
    below all recent ones there, at a key picture or by more than reordering explains.

    Args:
        raw: the stream.
        ticks: int64 (M,), its time stamps.
    """
    starts, reach = [0], _MAX_REORDER * _frame_ticks(raw)
    # Most streams have no such row at all: B pictures fall below the last one, not below all.
    before = np.concatenate([np.full(_MAX_REORDER, np.iinfo(np.int64).max), ticks[:-1]])
    if (ticks[1:] >= sliding_window_view(before, _MAX_REORDER).min(axis=1)[1:]).all():
        return starts
    is_key = raw.column("is_key")
    for row in (np.flatnonzero(np.diff(ticks) < 0) + 1).tolist():
        recent = ticks[max(starts[-1], row - _MAX_REORDER) : row]
        if ticks[row] < recent.min() and (is_key[row] or recent.max() - ticks[row] > reach):
            starts.append(row)
    return starts


def _frame_ticks(raw: ScannedPackets) -> int:
    """Return the usual duration of a frame in units of the stream, at least 1."""
    declared = float(np.median(raw.column("duration")))
    return max(round(declared or 1 / (raw.frame_rate * raw.time_base)), 1)
