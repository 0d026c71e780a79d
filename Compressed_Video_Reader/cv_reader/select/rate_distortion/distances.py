"""How unlike a cell is at two slots, with or without following motion, and what counts as unlike.

``squared_distances`` gives sums of squared differences of luma and colour, of whole cells or of
their four quarters; ``follow`` lets the source shift by up to so many of a cell's 8 samples, and
the least over all shifts counts, where anything differs visibly at all. All numbers are whole and
below 2^24, where float32 is exact: the result does not depend on threads, on the order of additions
or on the library that multiplies.

``distortions`` turns them into what a selection minimises. The plain mean lets broad changes that
matter little (waves, grain) outbid small ones; ``sharp`` judges a cell by its worst quarter and
lets large differences weigh more than in proportion. ``docs/selection.md`` has the measurements.

Axis letters: n cells or quarters, S source slots, W target slots, f features of one of them.
"""

from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.rate_distortion.clip import (
    CELL_WEIGHT,
    CHROMA_PX,
    LUMA_PX,
    Samples,
    SmallClip,
)

Distances = NDArray[np.float32]
Slots = NDArray[np.intp]


class Measure(NamedTuple):
    """A named way to judge the difference of two cells.

    Attributes:
        parts: parts along a side of a cell that are judged, and moved, alone; the worst one counts.
        power: power of the mean squared difference.
    """

    parts: int
    power: float


MEASURES = MappingProxyType(
    {
        "mean": Measure(1, 1.0),
        "power_1.5": Measure(1, 1.5),
        "power_2": Measure(1, 2.0),
        "power_3": Measure(1, 3.0),
        "worst": Measure(2, 1.0),
        "worst_2": Measure(2, 2.0),
        "sharp": Measure(2, 3.0),
    }
)

_CENTRE = 128
_STILL = 4.0
"""Mean squared difference (2 grey levels) that a cell or quarter must reach between any two slots
before its motion is followed."""

_MEAN_UNIT = 100.0
"""Mean squared difference (10 grey levels) at which all powers agree."""


def squared_distances(
    clip: SmallClip,
    row: int,
    slots: slice,
    *,
    parts: int = 1,
    follow: int = 0,
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
        carried: intp (c, w), per cell c more slots, as the first sources; None = none.
        columns: columns of content cells; with ``carried`` all.

    Returns:
        float32 (n, S, W), [i, s, t] the difference of what source s shows to the content of slot t,
        whole numbers; n cells, or 4 quarters of each: upper left, upper right, lower left, right.
    """
    target = _features(clip, row, slots, parts, (0, 0), columns)
    norms, ones = _norms(target), np.ones((*target.shape[:2], 1), np.float32)
    right = np.concatenate([target, ones, norms], axis=2).transpose(0, 2, 1).copy()

    def compared(some: Slots | None, shift: tuple[int, int]) -> Distances:
        source = _features(clip, row, slots, parts, shift, columns, some)
        if carried is not None:
            earlier = _carried(clip, row, carried, parts, shift)
            source = np.concatenate([earlier if some is None else earlier[some], source], axis=1)
        left = np.empty((*source.shape[:2], source.shape[2] + 2), np.float32)
        np.multiply(source, -2, out=left[..., :-2])
        left[..., -2:-1] = _norms(source)
        left[..., -1] = 1
        return np.matmul(left, right if some is None else right[some])

    least = compared(None, (0, 0))
    if not follow:
        return least
    moving = np.flatnonzero(least.max(axis=(1, 2)) > _STILL * CELL_WEIGHT / parts**2)
    nearest = least[moving]
    for shift in shifts(follow)[1:]:
        np.minimum(nearest, compared(moving, shift), out=nearest)
    least[moving] = nearest
    return least


def grey_distances(clip: SmallClip, row: int, slots: slice, *, parts: int = 1) -> Distances:
    """Return the same to mid grey, which is shown where nothing was kept yet: float32 (n, W)."""
    return _norms(_features(clip, row, slots, parts, (0, 0)))[..., 0]


def _norms(features: Distances) -> Distances:
    return np.einsum("nwf,nwf->nw", features, features)[..., None]


def shifts(follow: int) -> list[tuple[int, int]]:
    """Return the shifts (down, right) that a source may take, none first."""
    span = range(-follow, follow + 1)
    return sorted(((y, x) for y in span for x in span), key=lambda shift: (shift != (0, 0), shift))


def _planes(clip: SmallClip, shift: tuple[int, int]) -> list[tuple[Samples, int, int, int, int]]:
    """Return per kind of plane its samples (T, planes, rows, columns), their number along a side
    of a cell, factor, and shift in its own samples, rounded towards 0."""
    down, right = shift
    return [
        (clip.luma[:, None], LUMA_PX, 1, down, right),
        (clip.chroma, CHROMA_PX, 2, int(down / 2), int(right / 2)),
    ]


def _features(
    clip: SmallClip,
    row: int,
    slots: slice,
    parts: int,
    shift: tuple[int, int],
    columns: slice = slice(None),
    some: Slots | None = None,
) -> Distances:
    """Return the samples around 0, colour differences doubled so that their squares count four
    times: float32 (n, W, f), windows moved by a shift and clamped at the borders; of some alone
    where they are named."""
    found: list[Samples] = []
    cells = range(clip.width)[columns]
    for samples, side, _, down, right in _planes(clip, shift):
        rows = np.arange(row * side + down, (row + 1) * side + down).clip(0, samples.shape[2] - 1)
        across = np.arange(cells.start * side + right, cells.stop * side + right)
        across = across.clip(0, samples.shape[3] - 1)
        cut = samples[slots][:, :, rows][:, :, :, across]
        size = side // parts
        cut = cut.reshape(*cut.shape[:2], parts, size, len(cells), parts, size)
        # (W, plane, part row, y, cell, part column, x) to (cell, part row, column, W, samples).
        cut = cut.transpose(4, 2, 5, 0, 1, 3, 6)
        found.append(cut.reshape(len(cells) * parts**2, cut.shape[3], -1))
    joined = np.concatenate(found, axis=2)
    features = (joined if some is None else joined[some]).astype(np.float32)
    features -= _CENTRE
    features[..., found[0].shape[2] :] *= 2
    return features


def _carried(
    clip: SmallClip, row: int, carried: Slots, parts: int, shift: tuple[int, int]
) -> Distances:
    """Return ``_features`` of c slots that each cell has of its own: float32 (n, c, f)."""
    found: list[Distances] = []
    cells = np.arange(clip.width)
    for samples, side, factor, down, right in _planes(clip, shift):
        rows = np.arange(row * side + down, (row + 1) * side + down).clip(0, samples.shape[2] - 1)
        across = cells[:, None] * side + np.arange(right, side + right)
        across = across.clip(0, samples.shape[3] - 1)
        cut = samples[carried[..., None, None], :, rows[:, None], across[:, None, :]]
        cut = (cut.astype(np.float32) - _CENTRE) * factor
        size, count = side // parts, len(carried)
        cut = cut.reshape(count, clip.width, parts, size, parts, size, -1)
        # (c, cell, part row, y, part column, x, plane) to (cell, part row, column, c, samples).
        cut = cut.transpose(1, 2, 4, 0, 6, 3, 5)
        found.append(cut.reshape(clip.width * parts**2, count, -1))
    return np.concatenate(found, axis=2)


def distortions(squared: Distances, measure: Measure) -> Distances:
    """Return what a selection minimises: float32 (cells, ...), from ``squared_distances``.

    The unit is a mean squared difference; powers are scaled so that 10 grey levels count alike.
    """
    weight = np.float32(CELL_WEIGHT // measure.parts**2)
    if measure.parts > 1:
        squared = squared.reshape(-1, measure.parts**2, *squared.shape[1:]).max(axis=1)
    means = squared / weight
    if measure.power == 1:
        return means
    relative = means / np.float32(_MEAN_UNIT)
    if measure.power == 1.5:
        return means * np.sqrt(relative)
    for _ in range(int(measure.power) - 1):
        means *= relative
    return means
