"""Showing a kept cell where the codec's vectors say that its content went.

What is kept of a place (see ``places``) is shown there in other slots, each quarter of a cell moved
as the vectors say from slot to slot, but by at most ``REACH`` samples away from where it was kept.
A cell may show that or what the small search finds, whichever is closer.

Displacements are whole sixteenths of a sample and all samples are whole numbers, so that results do
not depend on threads or libraries.

Axis letters: W slots of a window, m pairs of slots, h and w rows and columns of content cells, k
places, n cells or quarters of them, U units along a side of a cell.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.rate_distortion.chains import CELL_UNITS, STEPS, UNIT_STEPS
from cv_reader.select.rate_distortion.clip import (
    CELL_WEIGHT,
    CHROMA_PX,
    CHROMA_WEIGHT,
    LUMA_PX,
    Samples,
)
from cv_reader.select.rate_distortion.places import (
    BORDER,
    CHROMA_PHASES,
    LUMA_PHASES,
    FinePictures,
    FollowedClip,
    Steps,
    Whole,
)

REACH = 6
"""Samples by which a unit may be shown away from where it was kept; a cell has 8 along a side."""

_STILL = 4.0
"""Mean squared difference (2 grey levels) that a cell or quarter must reach between any two slots
before its vectors are followed."""

_GROUP_CELLS = 16
_UNIT_LUMA, _UNIT_CHROMA = ((side // CELL_UNITS) ** 2 for side in (LUMA_PX, CHROMA_PX))
"""Samples of a unit."""

_UNIT_SHIFT = UNIT_STEPS.bit_length() - 1

Distances = NDArray[np.float32]


def follow_vectors(
    clip: FollowedClip,
    row: int,
    slots: slice,
    least: Distances,
    *,
    parts: int = 1,
    columns: slice = slice(None),
    whole: Distances | None = None,
) -> None:
    """Lower distances to those of what vectors lead to, where these are closer.

    Args:
        clip: the pictures.
        row: row of places.
        slots: the W slots that are sources and targets.
        least: float32 (n, W, W), sums of squared differences as of ``squared_distances``; written
            to.
        parts: 1 for whole cells, 2 for their quarters.
        columns: columns of places that ``least`` has.
        whole: float32 (c, W, W), those of whole cells, to lower as well; None = those alone.
    """
    by_cell = least.reshape(-1, parts**2, *least.shape[1:])
    is_moving = by_cell.max(axis=(1, 2, 3)) > _STILL * CELL_WEIGHT / parts**2
    is_whole_moving = np.zeros_like(is_moving)
    if whole is not None:
        is_whole_moving = whole.max(axis=(1, 2)) > _STILL * CELL_WEIGHT
    moving = np.flatnonzero(is_moving | is_whole_moving)
    across: Whole = np.arange(clip.width, dtype=np.intp)[columns]
    inner, planes = CELL_UNITS // parts, clip.planes(slots)
    for first in range(0, len(moving), _GROUP_CELLS):
        cells = moving[first : first + _GROUP_CELLS]
        places = _places(clip, slots, np.full(len(cells), row), across[cells])
        there = _targets(clip, row, slots, across[cells])
        found = by_cell[cells].transpose(2, 3, 1, 0).copy()
        found_whole = None if whole is None else whole[cells].transpose(1, 2, 0).copy()
        for targets, sources, steps in _chains(clip, slots, places):
            shown = _shown(planes, sources, _within(places, targets, sources, steps))
            step = there[..., targets[0] : targets[-1] + 1, :] - shown
            np.square(step, out=step)
            errors = step[:_UNIT_LUMA].sum(axis=0) + CHROMA_WEIGHT * step[_UNIT_LUMA:].sum(axis=0)
            errors = errors.reshape(parts, inner, parts, inner, *errors.shape[2:]).sum(axis=(1, 3))
            errors = errors.reshape(parts**2, *errors.shape[2:]).swapaxes(0, 1)
            found[sources, targets] = np.minimum(found[sources, targets], errors)
            if found_whole is not None:
                total = np.minimum(found_whole[sources, targets], errors.sum(axis=1))
                found_whole[sources, targets] = total
        by_cell[cells[is_moving[cells]]] = found.transpose(3, 2, 0, 1)[is_moving[cells]]
        if whole is not None and found_whole is not None:
            some = is_whole_moving[cells]
            whole[cells[some]] = found_whole.transpose(2, 0, 1)[some]


def shown_along(
    clip: FollowedClip, slot: int, sources: NDArray[np.int32]
) -> tuple[Samples, Samples]:
    """Return a slot, every place shown along the vectors: luma (8 h, 8 w), chroma (2, 4 h, 4 w).

    Args:
        clip: the pictures.
        slot: which.
        sources: int32 (h, w), the slot that each place shows; -1 for none, which gives 0.
    """
    rows, columns = np.indices((clip.height, clip.width)).reshape(2, -1)
    places = _places(clip, slice(0, clip.num_slots), rows, columns)
    wanted, here = sources.ravel(), np.array([slot])
    shape = (CELL_UNITS, CELL_UNITS, 1, len(wanted))
    none = np.zeros((2, *shape), np.int32)
    shown = np.zeros((_UNIT_LUMA + 2 * _UNIT_CHROMA, *shape), np.uint8)
    steps, planes = none, clip.planes(slice(0, clip.num_slots))
    for way, source in _around(slot, clip.num_slots):
        if abs(source - slot) <= 1:
            steps = none
        if source != slot:
            before = np.array([source - (1 if way else -1)])
            own = _Places(places.down[:, :, here], places.right[:, :, here])
            steps = _led_on(clip, way, before, own, steps)
        cells = wanted == source
        if cells.any():
            end = np.array([source])
            shown[..., cells] = _shown(planes, end, _within(places, here, end, steps))[..., cells]
    sides = (LUMA_PX // CELL_UNITS, CHROMA_PX // CELL_UNITS)
    luma, chroma = (
        # (planes, y, x, unit rows, unit columns, h, w) to (planes, h, unit rows, y, w, ...).
        part.reshape(-1, side, side, CELL_UNITS, CELL_UNITS, clip.height, clip.width)
        .transpose(0, 5, 3, 1, 6, 4, 2)
        .reshape(-1, clip.height * CELL_UNITS * side, clip.width * CELL_UNITS * side)
        for part, side in zip((shown[:_UNIT_LUMA], shown[_UNIT_LUMA:]), sides, strict=True)
    )
    return luma[0], chroma


class _Places(NamedTuple):
    """Where units of places are in each slot, before turning.

    Attributes:
        down: int32 (U, 1, W, k), rows of units.
        right: int32 (1, U, W, k), columns.
    """

    down: Steps
    right: Steps


def _places(clip: FollowedClip, slots: slice, rows: Whole, columns: Whole) -> _Places:
    """Return where k places, at rows and columns of the turned content, are in W slots."""
    inner = np.arange(CELL_UNITS, dtype=np.int32)[:, None, None, None]
    turns = clip.turns[slots]
    down = ((rows - turns[:, :1]) % clip.height * CELL_UNITS).astype(np.int32)
    right = ((columns - turns[:, 1:]) % clip.width * CELL_UNITS).astype(np.int32)
    return _Places(down + inner, right + inner.swapaxes(0, 1))


def _targets(clip: FollowedClip, row: int, slots: slice, columns: Whole) -> Distances:
    """Return what places of a row hold, by units: float32 (samples of a unit, U, U, W, k), those of
    luma first, then of each colour difference."""
    found: list[NDArray[np.uint8]] = []
    for planes, side in ((clip.luma[slots, None], LUMA_PX), (clip.chroma[slots], CHROMA_PX)):
        cut = planes[:, :, side * row : side * (row + 1)]
        inner = side // CELL_UNITS
        shape = (len(cut), cut.shape[1], CELL_UNITS, inner, clip.width, CELL_UNITS, inner)
        cut = cut.reshape(shape)[:, :, :, :, columns]
        # (W, planes, unit rows, y, k, unit columns, x) to (planes, y, x, unit rows, columns, W, k).
        cut = cut.transpose(1, 3, 6, 2, 5, 0, 4)
        found.append(cut.reshape(-1, *cut.shape[3:]))
    return np.concatenate(found).astype(np.float32)


def _around(slot: int, num_slots: int) -> Iterator[tuple[int, int]]:
    """Yield (way, slot): a slot itself, those before it from the last, those after it."""
    yield 0, slot
    yield from ((0, other) for other in range(slot - 1, -1, -1))
    yield from ((1, other) for other in range(slot + 1, num_slots))


def _chains(
    clip: FollowedClip, slots: slice, places: _Places
) -> Iterator[tuple[Whole, Whole, Steps]]:
    """Yield pairs of slots and the displacement between them, for all pairs that are as far apart.

    Yields:
        Targets and sources, numbers in the window (m,); steps int32 (2, U, U, m, k), (down, right)
        in sixteenths of a sample from the target to the source.
    """
    count = slots.stop - slots.start
    shape = (2, CELL_UNITS, CELL_UNITS, count, places.down.shape[-1])
    for way in (0, 1):
        steps = np.zeros(shape, np.int32)
        for distance in range(1, count):
            targets: Whole = np.arange(count - distance, dtype=np.intp)
            targets = targets if way else targets + distance
            part = slice(targets[0], targets[-1] + 1)
            steps = steps[..., :-1, :] if way else steps[..., 1:, :]
            ahead = 1 if way else -1
            before = slots.start + targets + ahead * (distance - 1)
            own = _Places(places.down[:, :, part], places.right[:, :, part])
            steps = _led_on(clip, way, before, own, steps)
            yield targets, targets + ahead * distance, steps


def _led_on(clip: FollowedClip, way: int, slots: Whole, places: _Places, steps: Steps) -> Steps:
    """Return displacements from targets to the slots next to those that they lead to so far.

    Args:
        clip: the motion.
        way: 0 to the slot before, 1 to the slot after.
        slots: (m,), slots that the displacements lead to.
        places: places of the targets.
        steps: int32 (2, U, U, m, k).
    """
    height, width = clip.links.shape[2:4]
    down, right = (
        np.clip(side + ((away + UNIT_STEPS // 2) >> _UNIT_SHIFT), 0, count - 1)
        for side, away, count in zip(places, steps, (height, width), strict=True)
    )
    flat = (slots.astype(np.int32)[:, None] * height + down) * width + right
    # Both components as one number: one look instead of two.
    pairs = clip.links[way].view(np.uint32).reshape(-1)
    both = pairs.take(flat)[..., None].view(np.int16)
    return np.stack([steps[0] + both[..., 0], steps[1] + both[..., 1]])


def _within(places: _Places, targets: Whole, sources: Whole, steps: Steps) -> tuple[Steps, Steps]:
    """Return where units are shown from, in sixteenths of a sample from the picture's corner: where
    steps lead to, but not farther than the reach from where the place was kept."""
    found: list[Steps] = []
    for side, step in zip(places, steps, strict=True):
        kept = side[:, :, sources] * UNIT_STEPS
        away = side[:, :, targets] * UNIT_STEPS - kept + step
        found.append(kept + np.clip(away, -REACH * STEPS, REACH * STEPS, out=away))
    return found[0], found[1]


def _shown(pictures: FinePictures, sources: Whole, corners: tuple[Steps, Steps]) -> Samples:
    """Return the samples of units at corners (U, U, m, k) in pictures of source slots (m,): uint8
    (samples of a unit, U, U, m, k), those of luma first, then of each colour difference."""
    found = np.empty((_UNIT_LUMA + 2 * _UNIT_CHROMA, *corners[0].shape), np.uint8)
    number = 0
    for planes, side, steps in (
        (pictures.luma[None], LUMA_PX, STEPS // LUMA_PHASES),
        # A sample of colour is twice as wide.
        (pictures.chroma, CHROMA_PX, 2 * STEPS // CHROMA_PHASES),
    ):
        inner = range(side // CELL_UNITS)
        first, width = _flat(planes.shape[1:], sources[:, None], corners, steps, len(inner))
        offsets = [width * y + x for y in inner for x in inner]
        for plane in planes:
            for offset in offsets:
                # Numbers are inside; another mode would copy the result.
                plane.reshape(-1).take(first + offset, out=found[number], mode="clip")
                number += 1
    return found


def _flat(
    shape: tuple[int, ...],
    slots: Whole,
    corners: tuple[Steps, Steps],
    phase_steps: int,
    unit: int,
) -> tuple[Whole, int]:
    """Return the numbers of the first samples of units in planes, and how many samples a row has.

    Args:
        shape: (T, phases, rows, columns).
        slots: (m, 1).
        corners: (U, U, m, k) each, in sixteenths of a luma sample.
        phase_steps: sixteenths of a luma sample between two phases.
        unit: samples along a side of a unit.
    """
    _, phases, rows, columns = shape
    side = int(phases**0.5)
    # All of these are powers of two, and shifts take a fifth of the time of divisions.
    down_by, side_by = phase_steps.bit_length() - 1, side.bit_length() - 1
    places: list[Steps] = []
    for corner, count in zip(corners, (rows, columns), strict=True):
        place = (corner + (BORDER * side * phase_steps + phase_steps // 2)) >> down_by
        places.append(np.clip(place, 0, (count - unit) * side, out=place))
    down, right = places
    phase = ((down & (side - 1)) << side_by) + (right & (side - 1))
    plane = slots.astype(np.int32) * phases + phase
    first = (plane * rows + (down >> side_by)) * columns + (right >> side_by)
    return first.astype(np.intp), columns
