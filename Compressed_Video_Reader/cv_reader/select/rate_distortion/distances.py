"""How unlike a cell is at two slots, with or without following motion, and what counts as unlike.

``squared_distances`` gives sums of squared differences of luma and colour, of whole cells or of
their four quarters; ``follow`` lets the source shift by up to so many of a cell's 8 samples, and
the least over all shifts counts, where anything differs visibly at all. All numbers are whole and
below 2^24, where float32 is exact: the result does not depend on threads, on the order of additions
or on the library that multiplies.

``distortions`` turns them into what a selection minimises. The plain mean lets broad changes that
matter little (waves, grain) outbid small ones; ``worst_3`` judges a cell by its worst quarter and
lets large differences weigh more than in proportion. ``sharp`` is the sum of the two: the mean
decides about small differences, and the worst quarter about large ones. ``docs/selection.md`` has
the measurements.

Axis letters: n cells or quarters, S source slots, W target slots, f features of one of them.
"""

from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.rate_distortion.clip import (
    CELL_WEIGHT,
    CHROMA_PX,
    CHROMA_WEIGHT,
    LUMA_PX,
    SmallClip,
)

try:
    from cv_reader_native import distances as native
except ImportError:  # The native reader is optional, and older builds of it have no kernel.
    native = None

Distances = NDArray[np.float32]
Slots = NDArray[np.intp]


NOTHING_NEW = 9.0
"""Mean squared difference (3 grey levels) below which a cell shows what was shown already."""


_SHARP_GREY_LEVELS = 20.0
"""Difference of a cell that ``sharp`` counts as twice its mean squared difference; of larger ones
the worst quarter decides, by its third power."""


class Measure(NamedTuple):
    """A named way to judge the difference of two cells.

    Attributes:
        parts: parts along a side of a cell that are judged, and moved, alone; the worst one counts.
        power: power of the mean squared difference.
        unit: mean squared difference that its power leaves as it is.
        adds_mean: the mean squared difference of the whole cell, moved as one, is added.
        least: mean squared difference that a kept cell must spare in one slot; 0 = any.
        noise: mean squared differences that, in one slot, are no reason to keep a cell elsewhere
            than at every eighth slot: at the fourth ones between, at the second ones between these,
            at all others. Two encodings by x264 at CRF 23 differ by 1 to 8, parts of cells by more.
            Empty = every difference counts.
    """

    parts: int
    power: float
    unit: float = 100.0
    adds_mean: bool = False
    least: float = NOTHING_NEW
    noise: tuple[float, ...] = (0.0, 36.0, 36.0)


MEASURES = MappingProxyType(
    {
        "sharp": Measure(
            parts=2,
            power=3.0,
            unit=_SHARP_GREY_LEVELS**2,
            adds_mean=True,
            least=2.5**2,
            noise=(2.5**2, 5.0**2, 6.0**2),
        ),
        "mean": Measure(1, 1.0, least=0.0, noise=()),
        "power_1.5": Measure(1, 1.5),
        "power_2": Measure(1, 2.0),
        "power_3": Measure(1, 3.0),
        "worst": Measure(2, 1.0),
        "worst_2": Measure(2, 2.0),
        "worst_3": Measure(2, 3.0),
    }
)

_CENTRE = 128
_STILL = 4.0
"""Mean squared difference (2 grey levels) that a cell or quarter must reach between any two slots
before its motion is followed."""

_GROUP_CELLS = 8
"""Cells whose shifts are compared together."""

_CELL_SAMPLES = LUMA_PX**2 + 2 * CHROMA_PX**2
"""Samples that describe a cell."""


def squared_distances(
    clip: SmallClip,
    row: int,
    slots: slice,
    *,
    parts: int = 1,
    follow: int = 0,
    half: bool = False,
    carried: Slots | None = None,
    columns: slice = slice(None),
) -> Distances:
    """Return sums of squared differences between slots, for the cells of a row.

    Args:
        clip: the pictures.
        row: row of content cells.
        slots: the W slots that are sources and targets.
        parts: 1 for whole cells, 2 for their quarters.
        follow: largest shift of the source in samples, along each axis.
        half: try half of the shifts only, see ``shifts``.
        carried: intp (c, w), per cell c more slots, as the first sources; None = none.
        columns: columns of content cells; with ``carried`` all.

    Returns:
        float32 (n, S, W), [i, s, t] the difference of what source s shows to the content of slot t,
        whole numbers; n cells, or 4 quarters of each: upper left, upper right, lower left, right.
    """
    if native is not None and native.IS_FAST:
        tried = shifts(follow, half=half)
        return _least_by_kernel(clip, row, slots, parts, tried, carried, columns)
    samples = _sources(clip, row, slots, carried, follow, columns)
    right = _target(samples, parts, 0 if carried is None else len(carried))
    least = _compared(samples, right, parts)
    if not follow:
        return least
    moving = least.max(axis=(1, 2)) > _STILL * CELL_WEIGHT / parts**2
    by_cell = moving.reshape(-1, parts**2)
    for cells in _groups(np.flatnonzero(by_cell.any(axis=1))):
        units = (cells[:, None] * parts**2 + np.arange(parts**2)).ravel()
        some = [plane[:, :, cells] for plane in samples]
        nearest, there = least[units], right[units]
        found = np.empty_like(nearest)
        for shift in shifts(follow, half=half)[1:]:
            np.minimum(nearest, _compared(some, there, parts, shift, found), out=nearest)
        least[units[moving[units]]] = nearest[moving[units]]
    return least


def quarters_and_cells(
    clip: SmallClip,
    row: int,
    slots: slice,
    *,
    follow: int = 0,
    half: bool = False,
    carried: Slots | None = None,
) -> tuple[Distances, Distances]:
    """Return ``squared_distances`` of the quarters of a row's cells, and of the cells."""
    if native is not None and native.IS_FAST and (both := getattr(native, "BOTH", 0)):
        tried = shifts(follow, half=half)
        found = _least_by_kernel(clip, row, slots, both, tried, carried, slice(None))
        return found[: 4 * clip.width], found[4 * clip.width :]
    quarters, cells = (
        squared_distances(clip, row, slots, parts=parts, follow=follow, half=half, carried=carried)
        for parts in (2, 1)
    )
    return quarters, cells


def _least_by_kernel(
    clip: SmallClip,
    row: int,
    slots: slice,
    parts: int,
    tried: list[tuple[int, int]],
    carried: Slots | None,
    columns: slice,
) -> Distances:
    """Return what ``squared_distances`` does, by the native reader's kernel.

    Args:
        clip, row, slots, carried, columns: as for ``squared_distances``.
        parts: 1, 2, or the kernel's ``BOTH``: all quarters, then all cells.
        tried: shifts, none first.
    """
    assert native is not None
    is_both = parts > 2
    units, smallest = (5, 1) if is_both else (parts**2, parts**2)
    first, last, _ = columns.indices(clip.width)
    targets = np.arange(clip.num_slots, dtype=np.int32)[slots]
    sources = np.broadcast_to(targets, (last - first, len(targets)))
    if carried is not None:
        sources = np.concatenate([carried.T, sources], axis=1)
    least = np.empty((len(sources) * units, sources.shape[1], len(targets)), np.float32)
    if least.size:
        native.least_distances(
            np.ascontiguousarray(clip.luma).data,
            np.ascontiguousarray(clip.chroma).data,
            np.ascontiguousarray(sources, np.int32).data,
            np.array(tried, np.int8).data,
            least.data,
            clip.luma.shape,
            (row, first, last - first),
            len(targets),
            parts,
            _STILL * CELL_WEIGHT / smallest,
        )
    return least


def grey_distances(clip: SmallClip, row: int, slots: slice, *, parts: int = 1) -> Distances:
    """Return the same to mid grey, which is shown where nothing was kept yet: float32 (n, W)."""
    total = np.zeros((len(clip.luma[slots]), parts, clip.width * parts), np.float32)
    for samples, side, weight in (
        (clip.luma[slots, None], LUMA_PX, 1),
        (clip.chroma[slots], CHROMA_PX, CHROMA_WEIGHT),
    ):
        values = samples[:, :, row * side : (row + 1) * side].astype(np.float32) - _CENTRE
        size = side // parts
        by_part = values.reshape(len(values), -1, parts, size, values.shape[-1])
        rows = np.square(by_part, out=by_part).sum(axis=(1, 3))
        for column in range(size):
            total += weight * rows[..., column::size]
    by_cell = total.reshape(-1, parts, clip.width, parts).transpose(2, 1, 3, 0)
    return by_cell.reshape(-1, len(total))


def shifts(follow: int, *, half: bool = False) -> list[tuple[int, int]]:
    """Return the shifts (down, right) that a source may take, none first.

    Args:
        follow: largest one along each axis.
        half: only those of one colour of a chess board: every other one is next to four of them.
    """
    span = range(-follow, follow + 1)
    found = [(y, x) for y in span for x in span if not half or (y + x) % 2 == 0]
    return sorted(found, key=lambda shift: (shift != (0, 0), shift))


def _groups(cells: Slots) -> list[Slots]:
    """Split cells into groups whose distances stay in a processor's cache."""
    return [cells[first : first + _GROUP_CELLS] for first in range(0, len(cells), _GROUP_CELLS)]


def _sources(
    clip: SmallClip, row: int, slots: slice, carried: Slots | None, follow: int, columns: slice
) -> list[Distances]:
    """Return the samples of a row's cells with as much around them as a shift reaches.

    Borders of the picture are repeated. Samples are less 128, colour differences doubled so that
    their squares count four times.

    Returns:
        Of luma and of colours float32 (planes, rows, w, columns, S), slots carried in first.
    """
    found: list[Distances] = []
    cells: Slots = np.arange(clip.width, dtype=np.intp)[columns]
    for samples, side, factor in ((clip.luma[:, None], LUMA_PX, 1), (clip.chroma, CHROMA_PX, 2)):
        border = follow * side // LUMA_PX
        rows = np.arange(row * side - border, (row + 1) * side + border)
        rows = rows.clip(0, samples.shape[2] - 1)
        across = cells[:, None] * side + np.arange(-border, side + border)
        across = across.clip(0, samples.shape[3] - 1)
        cut = samples[slots][:, :, rows][..., across].transpose(1, 2, 3, 4, 0)
        if carried is not None:
            earlier = samples[carried[..., None, None], :, rows[:, None], across[:, None, :]]
            cut = np.concatenate([earlier.transpose(4, 2, 1, 3, 0), cut], axis=-1)
        values = cut.astype(np.float32, order="C")
        values -= _CENTRE
        values *= factor
        found.append(values)
    return found


def _target(samples: list[Distances], parts: int, num_carried: int) -> Distances:
    """Return the right factor of ``_compared``: float32 (n, f + 2, W): samples times -2, 1, and
    the sum of their squares."""
    features = _features(samples, parts, (0, 0))[..., num_carried:]
    right = np.empty_like(features)
    np.multiply(features[:, :-2], -2, out=right[:, :-2])
    right[:, -2], right[:, -1] = 1, features[:, -2]
    return right


def _compared(
    samples: list[Distances],
    right: Distances,
    parts: int,
    shift: tuple[int, int] = (0, 0),
    out: Distances | None = None,
) -> Distances:
    """Return the squared distances of shifted sources: float32 (n, S, W)."""
    return np.matmul(_features(samples, parts, shift).transpose(0, 2, 1), right, out=out)


def _features(samples: list[Distances], parts: int, shift: tuple[int, int]) -> Distances:
    """Return a row's units, moved by a shift: float32 (n, f + 2, S), their samples, the sum of
    their squares, and 1. Colours move by half as many of their samples, rounded towards 0."""
    width, slots = samples[0].shape[2], samples[0].shape[4]
    count = _CELL_SAMPLES // parts**2
    features = np.empty((width, parts, parts, count + 2, slots), np.float32)
    first = 0
    for plane, side in zip(samples, (LUMA_PX, CHROMA_PX), strict=True):
        border, size = (plane.shape[1] - side) // 2, side // parts
        down, right = (border + int(step * side / LUMA_PX) for step in shift)
        cut = plane[:, down : down + side, :, right : right + side]
        cut = cut.reshape(-1, parts, size, width, parts, size, slots)
        # (plane, part row, y, cell, part column, x, S) to (cell, part row, column, samples, S).
        cut = cut.transpose(3, 1, 4, 0, 2, 5, 6)
        last = first + cut.shape[3] * size**2
        features[..., first:last, :].reshape(cut.shape)[...] = cut
        first = last
    joined = features.reshape(-1, count + 2, slots)
    np.einsum("nfs,nfs->ns", joined[:, :-2], joined[:, :-2], out=joined[:, -2])
    joined[:, -1] = 1
    return joined


def level_distortion(mean_square: float, measure: Measure) -> float:
    """Return the distortion of a cell that differs by the same amount everywhere."""
    parts = measure.parts**2
    squared = np.full((parts, 1, 1), mean_square * CELL_WEIGHT / parts, np.float32)
    whole = np.full((1, 1, 1), mean_square * CELL_WEIGHT, np.float32)
    return float(distortions(squared, measure, whole)[0, 0, 0])


def distortions(squared: Distances, measure: Measure, whole: Distances | None = None) -> Distances:
    """Return what a selection minimises: float32 (cells, ...), from ``squared_distances``.

    The unit is a mean squared difference.

    Args:
        squared: of the parts of cells that the measure judges.
        measure: which.
        whole: of whole cells, where the measure adds their mean.
    """
    weight = np.float32(CELL_WEIGHT // measure.parts**2)
    if measure.parts > 1:
        squared = squared.reshape(-1, measure.parts**2, *squared.shape[1:]).max(axis=1)
    means = squared / weight
    if measure.power != 1:
        relative = means / np.float32(measure.unit)
        if measure.power == 1.5:
            means *= np.sqrt(relative)
        for _ in range(int(measure.power) - 1):
            means *= relative
    if measure.adds_mean:
        assert whole is not None
        means += whole / np.float32(CELL_WEIGHT)
    return means
