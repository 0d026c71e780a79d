"""What kept cells show of a video: every slot rebuilt from them, and how far that is from it.

A cell shows the last of its kept pictures (``hold``), or the best of all of them (``nearest``: an
encoder sees all times at once). With motion followed, a kept picture may shift by up to 3 of a
cell's 8 samples along each axis. Along the vectors, places stay with the scene while the camera
moves, and kept pictures may also move as the codec's vectors say; see
``cv_reader.select.rate_distortion.followed``. What was never kept is grey.

The pictures are those of ``SmallClip``: 8 x 8 luma samples and 4 x 4 of each colour difference per
cell, content cells only. PSNR is that of the mean error of the three planes over all slots; SSIM is
that of luma as FFmpeg's filter takes it, mean over slots.

Axis letters: T slots, n content cells, h and w their rows and columns, K rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.rate_distortion.clip import (
    CELL_WEIGHT,
    CHROMA_PX,
    CHROMA_WEIGHT,
    LUMA_PX,
    Samples,
    SmallClip,
)
from cv_reader.select.rate_distortion.distances import (
    NOTHING_NEW,
    grey_distances,
    shifts,
    squared_distances,
)
from cv_reader.select.rate_distortion.followed import follow_vectors, shown_along
from cv_reader.select.rate_distortion.places import FollowedClip
from cv_reader.select.rate_distortion.solver import decibels
from cv_reader.select.rate_distortion.windows import NO_SLOT, SEARCH_EIGHTHS

MOTION_SLOTS = 128
"""Clips of more slots are rebuilt without following motion: the search compares all pairs."""

_CHUNK_BYTES = 1 << 25
_GREY = 128

_BLOCK_PX = 4
_WINDOW_SAMPLES = 64
_PEAK = 255
_C1 = int(0.01**2 * _PEAK**2 * _WINDOW_SAMPLES + 0.5)
_C2 = int(0.03**2 * _PEAK**2 * _WINDOW_SAMPLES * (_WINDOW_SAMPLES - 1) + 0.5)

Sources = NDArray[np.int32]


class Way(NamedTuple):
    """One way to rebuild.

    Attributes:
        name: name in tables.
        is_causal: only pictures that were kept before are shown.
        follow: how far they may shift, in samples.
        along: they may also move along the codec's vectors, and cells are places of the scene.
    """

    name: str
    is_causal: bool
    follow: int
    along: bool = False


WAYS = (
    Way("hold", True, 0),
    Way("nearest", False, 0),
    Way("hold, motion followed", True, SEARCH_EIGHTHS),
    Way("nearest, motion followed", False, SEARCH_EIGHTHS),
)
VECTOR_WAYS = (
    Way("hold, along the vectors", True, SEARCH_EIGHTHS, along=True),
    Way("nearest, along the vectors", False, SEARCH_EIGHTHS, along=True),
)


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """A clip rebuilt in one way.

    Attributes:
        way: which.
        sources: int32 (T, n), the slot whose picture each cell (along the vectors: each place)
            shows; -1 = grey.
        psnr_db: over all slots.
        ssim: SSIM of luma, mean over slots, in (-1, 1]; NaN where motion is followed.
        errors: float64 (T,), mean squared error of each slot.
    """

    way: Way
    sources: Sources
    psnr_db: float
    ssim: float
    errors: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RebuiltScore:
    """What a selection shows.

    Attributes:
        rebuilt: figures of each way to rebuild, keyed by its name.
        num_tokens: K, padding and repeated rows included.
        per_slot: int64 (T,), cells kept in each slot, repeated rows counted once.
        nothing_new: share of the kept content cells, but the first of each place, that show what
            the place showed already; NaN where there are none.
        unseen_slots: longest run of slots in which a cell differs from what is held.
        unseen_seconds: the same in time.
    """

    rebuilt: dict[str, Rebuilt]
    num_tokens: int
    per_slot: NDArray[np.int64]
    nothing_new: float
    unseen_slots: int
    unseen_seconds: float


def score_all(
    clip: SmallClip,
    selections: Sequence[NDArray[np.int32]],
    slot_seconds: NDArray[np.float64],
    *,
    with_motion: bool = True,
    followed: FollowedClip | None = None,
) -> list[RebuiltScore]:
    """Rebuild a clip from kept cells and measure what is shown, for several selections.

    Args:
        clip: a picture for every slot.
        selections: int32 (K, 3) each, (t, h, w).
        slot_seconds: float64 (T,), when each slot is shown.
        with_motion: also rebuild with motion followed, where the clip is not too long for it.
        followed: the clip turned to places, to rebuild along the vectors too.
    """
    is_short = clip.num_slots <= MOTION_SLOTS
    ways = WAYS if with_motion and is_short else WAYS[:2]
    kept: list[NDArray[np.bool_]] = []
    for rows in selections:
        cells = np.zeros((clip.num_slots, clip.grid, clip.grid), np.bool_)
        cells[tuple(rows.T)] = True
        kept.append(cells)
    inside = [_inside(clip, one) for one in kept]
    found = _compared(clip, inside, ways)
    rebuilt = [
        [_rebuilt(clip, way, *one) for way, one in zip(ways, sources, strict=True)]
        for sources in found
    ]
    if followed is not None and is_short:
        places = [_inside(clip, followed.turned(one)) for one in kept]
        for done, sources in zip(rebuilt, _compared(followed, places, VECTOR_WAYS), strict=True):
            pairs = zip(VECTOR_WAYS, sources, strict=True)
            done += [_rebuilt(followed, way, *one) for way, one in pairs]
    scores: list[RebuiltScore] = []
    for rows, cells, content, done in zip(selections, kept, inside, rebuilt, strict=True):
        nothing_new, longest, seconds = _held(clip, content, done[0].sources, slot_seconds)
        scores.append(
            RebuiltScore(
                rebuilt={one.way.name: one for one in done},
                num_tokens=len(rows),
                per_slot=cells.sum(axis=(1, 2)),
                nothing_new=nothing_new,
                unseen_slots=longest,
                unseen_seconds=seconds,
            )
        )
    return scores


def score_rows(
    clip: SmallClip, rows: NDArray[np.int32], slot_seconds: NDArray[np.float64]
) -> RebuiltScore:
    """Return ``score_all`` of one selection."""
    return score_all(clip, [rows], slot_seconds)[0]


def _inside(clip: SmallClip, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the content of cells (T, g, g): (T, n)."""
    return cells[:, clip.rows, clip.columns].reshape(clip.num_slots, -1)


def _chunks(clip: SmallClip) -> Iterator[tuple[int, slice]]:
    """Yield (row, columns) of runs of cells whose distances fit into 32 MiB."""
    step = max(1, min(clip.width, _CHUNK_BYTES // (4 * clip.num_slots**2)))
    for row in range(clip.height):
        for first in range(0, clip.width, step):
            yield row, slice(first, min(first + step, clip.width))


def _compared(
    clip: SmallClip, kept: Sequence[NDArray[np.bool_]], ways: tuple[Way, ...]
) -> list[list[tuple[Sources, NDArray[np.float64]]]]:
    """Return for each selection and way which slot's picture each cell shows, (T, n), and the
    summed squared error of each slot, (T,)."""
    slots = clip.num_slots
    numbers = np.arange(slots)
    shape = (slots, clip.height * clip.width)
    last = [
        np.maximum.accumulate(np.where(one, numbers[:, None], NO_SLOT), axis=0).astype(np.int32)
        for one in kept
    ]
    found = [
        [
            (held if way.is_causal else np.full(shape, NO_SLOT, np.int32), np.zeros(slots))
            for way in ways
        ]
        for held in last
    ]
    everything = slice(0, slots)
    for row, columns in _chunks(clip):
        own = slice(row * clip.width + columns.start, row * clip.width + columns.stop)
        grey = grey_distances(clip, row, everything)[columns].T
        cells: NDArray[np.intp] = np.arange(own.stop - own.start, dtype=np.intp)
        for follow in dict.fromkeys(way.follow for way in ways):
            between = squared_distances(clip, row, everything, follow=follow, columns=columns)
            if isinstance(clip, FollowedClip):
                follow_vectors(clip, row, everything, between, columns=columns)
            for one, results in zip(kept, found, strict=True):
                is_kept = one[:, own].T[..., None]
                some = is_kept.any(axis=(1, 2))
                for way, (sources, errors) in zip(ways, results, strict=True):
                    if way.follow != follow:
                        continue
                    if not way.is_causal:
                        best = np.where(is_kept, between, np.inf).argmin(axis=1).T
                        sources[:, own] = np.where(some, best, NO_SLOT)
                    source = sources[:, own]
                    shown = between[cells, np.maximum(source, 0), numbers[:, None]]
                    errors += np.where(source == NO_SLOT, grey, shown).sum(axis=1, dtype=np.float64)
    return found


def _rebuilt(clip: SmallClip, way: Way, sources: Sources, squares: NDArray[np.float64]) -> Rebuilt:
    errors = squares / (CELL_WEIGHT * max(clip.height * clip.width, 1))
    ssim = float("nan")
    if not way.follow:
        pairs = zip(clip.luma, rebuilt_slots(clip, way, sources), strict=True)
        ssim = float(np.mean([similarity(there, luma) for there, (luma, _) in pairs]))
    return Rebuilt(
        way=way, sources=sources, psnr_db=decibels(float(errors.mean())), ssim=ssim, errors=errors
    )


def rebuilt_slots(clip: SmallClip, way: Way, sources: Sources) -> Iterator[tuple[Samples, Samples]]:
    """Yield every slot rebuilt: luma uint8 (8 h, 8 w) and chroma uint8 (2, 4 h, 4 w).

    Args:
        clip: the pictures; turned to places where ``way`` goes along the vectors.
        way: how far kept pictures may shift.
        sources: int32 (T, n).
    """
    for slot in range(clip.num_slots):
        source = sources[slot].reshape(clip.height, clip.width)
        least: NDArray[np.int64] | None = None
        shown: tuple[Samples, Samples] | None = None
        for luma, chroma in _candidates(clip, slot, source, way):
            errors = _cell_errors(clip, slot, luma, chroma)
            if least is None or shown is None:
                least, shown = errors, (luma, chroma)
                continue
            better = errors < least
            least = np.where(better, errors, least)
            for plane, other, side in ((shown[0], luma, LUMA_PX), (shown[1], chroma, CHROMA_PX)):
                np.copyto(plane, other, where=better.repeat(side, 0).repeat(side, 1))
        assert shown is not None
        if isinstance(clip, FollowedClip):
            down, right = (-clip.turns[slot]).tolist()
            luma, chroma = shown
            shown = (
                np.roll(luma, (LUMA_PX * down, LUMA_PX * right), (0, 1)),
                np.roll(chroma, (CHROMA_PX * down, CHROMA_PX * right), (1, 2)),
            )
        yield shown


def _candidates(
    clip: SmallClip, slot: int, source: Sources, way: Way
) -> Iterator[tuple[Samples, Samples]]:
    """Yield all that a slot may show where cells show the sources (h, w): luma and chroma."""
    for shift in shifts(way.follow):
        yield _shifted(clip, source, shift)
    if isinstance(clip, FollowedClip):
        yield _greyed(source, *shown_along(clip, slot, source))


def _shifted(clip: SmallClip, source: Sources, shift: tuple[int, int]) -> tuple[Samples, Samples]:
    """Return a picture whose cells come from slots of their own, all shifted alike."""
    down, right = shift
    luma = _gathered(clip.luma[:, None], source, LUMA_PX, down, right)[0]
    chroma = _gathered(clip.chroma, source, CHROMA_PX, int(down / 2), int(right / 2))
    return _greyed(source, luma, chroma)


def _greyed(source: Sources, luma: Samples, chroma: Samples) -> tuple[Samples, Samples]:
    """Return a picture with cells that show no slot made grey, in place."""
    is_grey = source == NO_SLOT
    luma[is_grey.repeat(LUMA_PX, 0).repeat(LUMA_PX, 1)] = _GREY
    chroma[:, is_grey.repeat(CHROMA_PX, 0).repeat(CHROMA_PX, 1)] = _GREY
    return luma, chroma


def _gathered(planes: Samples, source: Sources, side: int, down: int, right: int) -> Samples:
    """Return (planes, rows, columns) of (T, planes, rows, columns), clamped at the borders."""
    height, width = planes.shape[2:]
    rows = _clamped(down, height)[:, None]
    columns = _clamped(right, width)
    slots = np.maximum(source, 0).repeat(side, 0).repeat(side, 1)
    return np.ascontiguousarray(np.moveaxis(planes[slots, :, rows, columns], 2, 0))


def _clamped(shift: int, count: int) -> NDArray[np.intp]:
    """Return indices 0..count-1 moved by a shift, those outside at the border."""
    places: list[int] = [min(max(place + shift, 0), count - 1) for place in range(count)]
    return np.array(places, np.intp)


def _cell_errors(clip: SmallClip, slot: int, luma: Samples, chroma: Samples) -> NDArray[np.int64]:
    """Return the summed squared error of each cell: int64 (h, w)."""
    total = np.zeros((clip.height, clip.width), np.int64)
    for planes, there, side, weight in (
        (luma[None], clip.luma[slot][None], LUMA_PX, 1),
        (chroma, clip.chroma[slot], CHROMA_PX, CHROMA_WEIGHT),
    ):
        step = planes.astype(np.int32) - there
        cells = np.square(step).reshape(len(step), clip.height, side, clip.width, side)
        total += weight * cells.sum(axis=(0, 2, 4))
    return total


def _held(
    clip: SmallClip, kept: NDArray[np.bool_], last: Sources, seconds: NDArray[np.float64]
) -> tuple[float, int, float]:
    """Return the share of kept cells that show nothing new, and the longest time that a cell
    differs from what is held, in slots and in seconds."""
    slots, cells = kept.shape
    shape = (clip.height, clip.width)
    repeats = later = longest = 0
    longest_seconds = 0.0
    since = np.full(cells, NO_SLOT)
    before = np.full(cells, NO_SLOT, np.int32)
    for slot in range(slots):
        step = _difference(clip, slot, before.reshape(shape))
        again = kept[slot] & (before != NO_SLOT)
        later += int(again.sum())
        repeats += int((again & (step < NOTHING_NEW)).sum())
        is_unseen = ~kept[slot] & (step >= NOTHING_NEW)
        since = np.where(is_unseen, np.where(since == NO_SLOT, slot, since), NO_SLOT)
        if is_unseen.any():
            first = int(since[is_unseen].min())
            longest = max(longest, slot - first + 1)
            end = seconds[min(slot + 1, slots - 1)]
            longest_seconds = max(longest_seconds, float(end - seconds[first]))
        before = last[slot]
    return (repeats / later if later else float("nan")), longest, longest_seconds


def _difference(clip: SmallClip, slot: int, source: Sources) -> NDArray[np.float64]:
    """Return the mean squared difference of each cell to what a slot of its own showed: (n,)."""
    errors = _cell_errors(clip, slot, *_shifted(clip, source, (0, 0)))
    return errors.ravel() / CELL_WEIGHT


def similarity(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the structural similarity of two pictures of at least 8 x 8 samples, 1 for equals.

    Windows of 8 x 8 samples every 4 samples, all samples of a window weighted alike; the mean over
    windows, as FFmpeg's ``ssim`` filter takes it.
    """
    height, width = (side // _BLOCK_PX for side in one.shape)
    if height < 2 or width < 2:
        return 1.0
    a, b = (
        picture[: height * _BLOCK_PX, : width * _BLOCK_PX].astype(np.int64)
        for picture in (one, other)
    )
    sum_a, sum_b = _window_sums(a), _window_sums(b)
    squares, products = _window_sums(a * a + b * b), _window_sums(a * b)
    variances = squares * _WINDOW_SAMPLES - sum_a * sum_a - sum_b * sum_b
    covariance = products * _WINDOW_SAMPLES - sum_a * sum_b
    above = (2 * sum_a * sum_b + _C1) * (2 * covariance + _C2).astype(np.float64)
    below = (sum_a * sum_a + sum_b * sum_b + _C1) * (variances + _C2).astype(np.float64)
    return float((above / below).mean())


def _window_sums(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return sums over windows of 2 x 2 blocks."""
    height, width = (side // _BLOCK_PX for side in values.shape)
    blocks: NDArray[np.int64] = values.reshape(height, _BLOCK_PX, width, _BLOCK_PX).sum((1, 3))
    pairs = blocks[:-1] + blocks[1:]
    return pairs[:, :-1] + pairs[:, 1:]
