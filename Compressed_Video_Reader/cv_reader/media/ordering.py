"""Presentation order: which packets are shown, in which order and when.

The order of the time stamps is taken where they can be presentation times. Where they are missing,
or repeated among reordered pictures, or cannot be presentation times, the stream is decoded once,
for the order alone. They cannot be where

- a B picture is not shown before a picture that the file has earlier (decoding times under the name
  of presentation times: streams remuxed from AVI or from raw streams),
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
        seconds: float64 (M,), time of each rank, never decreasing.
        pts_exactness: of the times; see ``VideoIndex``.
    """

    rank: NDArray[np.int32]
    is_shown: NDArray[np.bool_]
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
        is_lost = _is_undecodable(raw, rank, path)
    else:
        came_out, _ = _decode(raw, path, whole=True)
        rank = _rank(_with_second_fields(_with_lost(came_out, len(second)), second))
        is_lost = _is_lost_for_good(raw, came_out)
    seconds, pts_exactness = _times(raw, rank)
    is_shown = ~is_lost & (raw.column("is_hidden") == 0)
    return Presentation(rank, is_shown, seconds, pts_exactness)


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
    pts, is_b = raw.column("pts")[is_first], raw.column("is_b")[is_first]
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
        return not (is_b[1:] & is_latest[1:]).any()
    runs = np.diff(np.concatenate([[0], np.flatnonzero(~is_latest), [len(pts)]]))
    return bool(runs.max() <= min(_MAX_INCREASING_PACKETS, len(pts) - 1))


def _is_undecodable(raw: ScannedPackets, rank: NDArray[np.int32], path: str) -> NDArray[np.bool_]:
    """Return bool (M,), packets that no decoder shows, because the stream begins after what they
    refer to. Where the headers do not tell, the beginning of the stream is decoded."""
    unit_type, is_key = raw.column("unit_type"), raw.column("is_key") == 1
    if raw.codec_name == "hevc" and unit_type[0] in HEVC_KEY:
        return skipped_leading(unit_type, raw.column("ends_sequence"))
    is_early = (rank < rank[0]) & (raw.column("is_hidden") == 0)
    is_clean = raw.codec_name != "h264" or unit_type[0] == H264_IDR
    if is_key[0] and is_clean and not is_early.any():
        return np.zeros(len(rank), np.bool_)
    came_out, regular = _decode(raw, path, whole=False)
    is_lost = np.arange(len(rank)) < regular
    is_lost[came_out] = False
    return is_lost


def _is_lost_for_good(raw: ScannedPackets, came_out: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return bool (M,), packets that gave no picture when all were decoded, for another reason
    than damage: they hold none, or the stream begins after what they refer to.

    Args:
        raw: the stream.
        came_out: rows that gave a picture.
    """
    unit_type = raw.column("unit_type")
    is_lost = np.ones(len(unit_type), np.bool_)
    is_lost[came_out] = False
    excuse = unit_type == NO_PICTURE
    if raw.codec_name == "hevc" and unit_type[0] in HEVC_KEY:
        excuse |= skipped_leading(unit_type, raw.column("ends_sequence"))
    elif raw.codec_name != "h264" or unit_type[0] != H264_IDR:
        groups = _Groups(raw)
        excuse |= np.arange(len(is_lost)) < groups.first_complete(~is_lost, len(is_lost))
    return is_lost & excuse


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

    def first_complete(self, has_come: NDArray[np.bool_], num_sent: int) -> int:
        """Return the first row of the first group of which every picture came out; M where there
        is none.

        Args:
            has_come: bool (M,), rows that gave a picture.
            num_sent: packets that the decoder has had, at most M.
        """
        for first, end in self._pairs:
            if num_sent < min(end + _HELD_BACK_PACKETS, self._num_packets):
                break
            if (has_come | self._is_excused)[first:end].all():
                return first
        return self._num_packets


def _decode(raw: ScannedPackets, path: str, *, whole: bool) -> tuple[NDArray[np.int64], int]:
    """Decode a stream for the order of its pictures alone.

    Args:
        raw: the stream.
        path: its file.
        whole: decode all of it, and not just up to the first complete group of pictures.

    Returns:
        Rows of the packets that gave a picture, int64, in the order in which the decoder shows
        them, and the first row of the first complete group.
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
            if not whole and row in groups.keys and groups.first_complete(has_come, row) < count:
                break
    # A damaged packet can be shown twice: its frame is the first.
    came_out = np.array(list(dict.fromkeys(order)), dtype=np.int64)
    return came_out, groups.first_complete(has_come, count)


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
    ticks = raw.column("pts" if raw.has_trusted_pts else "dts")
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


def _segments(raw: ScannedPackets, ticks: NDArray[np.int64]) -> list[int]:
    """Return the first row of each part of a stream that was joined from several: time stamps fall
    below all recent ones there, at a key picture or by more than reordering explains.

    Args:
        raw: the stream.
        ticks: int64 (M,), its time stamps.
    """
    starts, reach = [0], _MAX_REORDER * _frame_ticks(raw)
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
