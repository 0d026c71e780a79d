"""Showing a kept cell where the codec's vectors say that its content went.

What is kept of a place (see ``places``) is shown there in other slots, each of the 16 units of a
cell moved as the vectors say from slot to slot, but by at most ``REACH`` samples away from where it
was kept. A cell may show that or what the small search finds, whichever is closer.

Displacements are whole sixteenths of a sample and all samples are whole numbers, so that results do
not depend on threads or libraries.

Axis letters: W slots of a window, m pairs of slots, h and w rows and columns of content cells, k
places, n cells or quarters of them.
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
    """
    by_cell = least.reshape(-1, parts**2, *least.shape[1:])
    moving = np.flatnonzero(by_cell.max(axis=(1, 2, 3)) > _STILL * CELL_WEIGHT / parts**2)
    across: Whole = np.arange(clip.width, dtype=np.intp)[columns]
    inner = CELL_UNITS // parts
    for first in range(0, len(moving), _GROUP_CELLS):
        cells = moving[first : first + _GROUP_CELLS]
        places = _places(clip, slots, np.full(len(cells), row), across[cells])
        there = _targets(clip, row, slots, across[cells])
        found = by_cell[cells]
        for targets, sources, steps in _chains(clip, slots, places):
            shown = _shown(clip, slots.start + sources, _within(places, targets, sources, steps))
            step = there[:, targets]
            step -= shown
            np.square(step, out=step)
            errors = step[:4].sum(axis=0) + CHROMA_WEIGHT * (step[4] + step[5])
            errors = errors.reshape(-1, len(cells), parts, inner, parts, inner).sum(axis=(3, 5))
            errors = errors.reshape(len(targets), len(cells), parts**2).transpose(1, 2, 0)
            found[:, :, sources, targets] = np.minimum(found[:, :, sources, targets], errors)
        by_cell[cells] = found


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
    shown = np.zeros((6, clip.height * clip.width, CELL_UNITS, CELL_UNITS), np.uint8)
    none = np.zeros((1, *shown.shape[1:], 2), np.int32)
    steps = none
    for way, source in _around(slot, clip.num_slots):
        if abs(source - slot) <= 1:
            steps = none
        if source != slot:
            before = np.array([source - (1 if way else -1)])
            steps = _led_on(clip, way, before, _Places(*(p[here] for p in places)), steps)
        cells = wanted == source
        if cells.any():
            end = np.array([source])
            shown[:, cells] = _shown(clip, end, _within(places, here, end, steps))[:, 0, cells]
    planes = shown.reshape(6, clip.height, clip.width, CELL_UNITS, CELL_UNITS).swapaxes(2, 3)
    size = (CHROMA_PX * clip.height, CHROMA_PX * clip.width)
    quads = planes[:4].reshape(2, 2, *size).transpose(2, 0, 3, 1)
    return quads.reshape(2 * size[0], 2 * size[1]), planes[4:].reshape(2, *size)


class _Places(NamedTuple):
    """Where units of places are in each slot, before turning.

    Attributes:
        down: int32 (W, k, 4, 1), rows of units.
        right: int32 (W, k, 1, 4), columns.
    """

    down: Steps
    right: Steps


def _places(clip: FollowedClip, slots: slice, rows: Whole, columns: Whole) -> _Places:
    """Return where k places, at rows and columns of the turned content, are in W slots."""
    inner = np.arange(CELL_UNITS, dtype=np.int32)
    turns = clip.turns[slots]
    down = ((rows - turns[:, :1]) % clip.height * CELL_UNITS).astype(np.int32)
    right = ((columns - turns[:, 1:]) % clip.width * CELL_UNITS).astype(np.int32)
    return _Places(down[..., None, None] + inner[:, None], right[..., None, None] + inner[None, :])


def _targets(clip: FollowedClip, row: int, slots: slice, columns: Whole) -> Distances:
    """Return what places of a row hold, by units: float32 (6, W, k, 4, 4), four luma samples of a
    unit and one of each colour difference."""
    luma = clip.luma[slots, LUMA_PX * row : LUMA_PX * (row + 1)]
    luma = luma.reshape(len(luma), CELL_UNITS, 2, clip.width, CELL_UNITS, 2)[:, :, :, columns]
    chroma = clip.chroma[slots, :, CHROMA_PX * row : CHROMA_PX * (row + 1)]
    chroma = chroma.reshape(len(luma), 2, CHROMA_PX, clip.width, CHROMA_PX)[:, :, :, columns]
    found = np.empty((6, len(luma), len(columns), CELL_UNITS, CELL_UNITS), np.float32)
    found[:4] = luma.transpose(2, 5, 0, 3, 1, 4).reshape(found[:4].shape)
    found[4:] = chroma.transpose(1, 0, 3, 2, 4)
    return found


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
        Targets and sources, numbers in the window (m,); steps int32 (m, k, 4, 4, 2), sixteenths of
        a sample from the target to the source.
    """
    count = slots.stop - slots.start
    shape = (count, places.down.shape[1], CELL_UNITS, CELL_UNITS, 2)
    for way in (0, 1):
        steps = np.zeros(shape, np.int32)
        for distance in range(1, count):
            targets: Whole = np.arange(count - distance, dtype=np.intp)
            targets = targets if way else targets + distance
            steps = steps[:-1] if way else steps[1:]
            ahead = 1 if way else -1
            before = slots.start + targets + ahead * (distance - 1)
            own = _Places(places.down[targets], places.right[targets])
            steps = _led_on(clip, way, before, own, steps)
            yield targets, targets + ahead * distance, steps


def _led_on(clip: FollowedClip, way: int, slots: Whole, places: _Places, steps: Steps) -> Steps:
    """Return displacements from targets to the slots next to those that they lead to so far.

    Args:
        clip: the motion.
        way: 0 to the slot before, 1 to the slot after.
        slots: (m,), slots that the displacements lead to.
        places: of the targets, (m, k, ...).
        steps: int32 (m, k, 4, 4, 2).
    """
    height, width = clip.links.shape[2:4]
    down, right = (
        (side + ((steps[..., axis] + UNIT_STEPS // 2) >> _UNIT_SHIFT)).clip(0, count - 1)
        for axis, (side, count) in enumerate(zip(places, (height, width), strict=True))
    )
    flat = (slots.astype(np.int32)[:, None, None, None] * height + down) * width + right
    # Both components as one number: one look instead of two.
    pairs = clip.links[way].view(np.uint32).reshape(-1)
    return steps + pairs.take(flat)[..., None].view(np.int16)


def _within(places: _Places, targets: Whole, sources: Whole, steps: Steps) -> tuple[Steps, Steps]:
    """Return where units are shown from, in sixteenths of a sample from the picture's corner: where
    steps lead to, but not farther than the reach from where the place was kept."""
    found: list[Steps] = []
    for axis, side in enumerate(places):
        kept = side[sources] * UNIT_STEPS
        away = side[targets] * UNIT_STEPS - kept + steps[..., axis]
        found.append(kept + away.clip(-REACH * STEPS, REACH * STEPS))
    return found[0], found[1]


def _shown(clip: FollowedClip, sources: Whole, corners: tuple[Steps, Steps]) -> Samples:
    """Return the samples of units at corners (m, k, 4, 4) in pictures of source slots (m,): uint8
    (6, m, k, 4, 4), four of luma (upper left, right, lower left, right), then the colours."""
    shape = corners[0].shape
    found = np.empty((6, *shape), np.uint8)
    slots = sources.reshape(-1, 1, 1, 1)
    planes = clip.luma_planes
    first, width = _flat(planes.shape, slots, corners, STEPS // LUMA_PHASES)
    for number, step in enumerate((0, 1, width, width + 1)):
        planes.reshape(-1).take(first + step, out=found[number], mode="clip")
    # A sample of colour is as wide as a unit.
    first, _ = _flat(clip.chroma_planes.shape[1:], slots, corners, UNIT_STEPS // CHROMA_PHASES)
    for number, plane in enumerate(clip.chroma_planes):
        plane.reshape(-1).take(first, out=found[4 + number], mode="clip")
    return found


def _flat(
    shape: tuple[int, ...], slots: Whole, corners: tuple[Steps, Steps], phase_steps: int
) -> tuple[Whole, int]:
    """Return the numbers of samples at corners in planes (T, phases, rows, columns), and how many
    samples a row has."""
    _, phases, rows, columns = shape
    side = int(phases**0.5)
    # All of these are powers of two, and shifts take a fifth of the time of divisions.
    down_by, side_by = phase_steps.bit_length() - 1, side.bit_length() - 1
    places: list[Steps] = []
    for corner, count in zip(corners, (rows, columns), strict=True):
        place = (corner + (BORDER * side * phase_steps + phase_steps // 2)) >> down_by
        places.append(np.clip(place, 0, (count - 2) * side, out=place))
    down, right = places
    phase = ((down & (side - 1)) << side_by) + (right & (side - 1))
    plane = slots.astype(np.int32) * phases + phase
    first = (plane * rows + (down >> side_by)) * columns + (right >> side_by)
    return first.astype(np.intp), columns
