"""Distortions within a window of slots, per unit of the picture, and what is shown of them.

A unit is a cell, or a block of 2 x 2 cells of which any is in the picture.

Axis letters: T slots, W slots of a window, n units, c ways in which earlier slots were kept, u
units along a side of the square.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.config import AssetConfig
from cv_reader.select.rate_distortion.clip import SmallClip
from cv_reader.select.rate_distortion.distances import (
    MEASURES,
    Distances,
    Measure,
    distortions,
    grey_distances,
    quarters_and_cells,
    squared_distances,
)
from cv_reader.select.rate_distortion.followed import follow_vectors
from cv_reader.select.rate_distortion.places import FollowedClip
from cv_reader.select.rate_distortion.shortest_path import HOLD, Spans

WINDOW_SLOTS = 64
SEARCH_EIGHTHS = 3
"""How far a prediction follows motion, in eighths of a cell: 6 pixels of the published square."""

NO_SLOT = -1

Cells = NDArray[np.bool_]
Slots = NDArray[np.intp]


@dataclass(frozen=True)
class Units:
    """The units that touch the picture.

    Attributes:
        rows: rows of units, numbers in the square.
        columns: columns of units.
        block: cells along a side of a unit.
        side: u.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    block: int
    side: int

    @classmethod
    def of(cls, clip: SmallClip, block: int) -> "Units":
        """Return all units that hold content of a clip."""
        rows = range(clip.rows.start // block, -(-clip.rows.stop // block))
        columns = range(clip.columns.start // block, -(-clip.columns.stop // block))
        return cls(tuple(rows), tuple(columns), block, clip.grid // block)

    @property
    def num_inside(self) -> int:
        """Return n."""
        return len(self.rows) * len(self.columns)

    @property
    def num_outside(self) -> int:
        """Return how many units do not touch the picture."""
        return self.side**2 - self.num_inside

    def some_rows(self, every: int) -> "Units":
        """Return the units of every so many rows, the first one from the middle of its run."""
        return replace(self, rows=self.rows[min(every // 2, len(self.rows) - 1) :: every])

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values (T, n) at their places: (T, u, u), 0 or false elsewhere."""
        full = np.zeros((len(values), self.side, self.side), values.dtype)
        if self.num_inside:
            places = np.ix_(range(len(values)), self.rows, self.columns)
            full[places] = values.reshape(len(values), len(self.rows), len(self.columns))
        return full


class Window(NamedTuple):
    """Distortions between the slots of a window.

    Attributes:
        between: float32 (n, W, W), [i, s, t] of showing slot s at slot t.
        before: float32 (c, n, W), of showing what was carried in, or grey.
        is_shown: something was carried in.
    """

    between: Distances
    before: Distances
    is_shown: bool


def window_starts(num_slots: int) -> Iterator[slice]:
    """Yield the windows of a clip of many slots."""
    for first in range(0, num_slots, WINDOW_SLOTS):
        yield slice(first, min(first + WINDOW_SLOTS, num_slots))


def cell_window(
    clip: SmallClip,
    units: Units,
    slots: slice,
    config: AssetConfig,
    *,
    measure: Measure | None = None,
    carried: Slots | None = None,
) -> Window:
    """Compare the slots of a window with each other and with what was shown before.

    Args:
        clip: the pictures.
        units: those of interest.
        slots: the window.
        config: names the measure and the prediction.
        measure: another one than the configured.
        carried: intp (c, n), slots that each unit shows when the window begins, -1 for none; None =
            grey everywhere.
    """
    measure = measure or MEASURES[config.distortion]
    follow = 0 if config.predict == "still" else SEARCH_EIGHTHS
    ways, num_slots = 1 if carried is None else len(carried), slots.stop - slots.start
    between = np.empty((units.num_inside, num_slots, num_slots), np.float32)
    before = np.empty((ways, units.num_inside, num_slots), np.float32)
    for number, unit_row in enumerate(units.rows):
        inside = slice(number * len(units.columns), (number + 1) * len(units.columns))
        shown = None if carried is None else _cells_of(carried[:, inside], clip, units)
        total: list[Distances] = []
        for row in range(unit_row * units.block, (unit_row + 1) * units.block):
            if not clip.rows.start <= row < clip.rows.stop:
                continue
            line = row - clip.rows.start
            cells = _with_grey(clip, line, slots, measure, follow, shown)
            total = [a + b for a, b in zip(total, cells, strict=True)] if total else [*cells]
        earlier, among = (_columns_summed(one, clip, units) for one in total)
        before[:, inside], between[inside] = earlier.transpose(1, 0, 2), among
    return Window(between, before, carried is not None)


def _with_grey(
    clip: SmallClip, line: int, slots: slice, measure: Measure, follow: int, shown: Slots | None
) -> tuple[Distances, Distances]:
    """Return the distortions of a row of cells: of what was before, (w, c, W), and (w, W, W)."""
    kinds = (measure.parts, 1) if measure.adds_mean else (measure.parts,)
    squared = _squared(clip, line, slots, kinds, follow, shown)
    found = distortions(squared[0], measure, squared[-1])
    ways = 0 if shown is None else len(shown)
    if shown is not None and (shown != NO_SLOT).all():
        return found[:, :ways], found[:, ways:]
    plain = grey_distances(clip, line, slots, parts=measure.parts)
    cells = plain.reshape(-1, measure.parts**2, plain.shape[1]).sum(axis=1)
    grey = distortions(plain, measure, cells)[:, None]
    if shown is None:
        return grey, found
    is_grey = (shown == NO_SLOT).T[..., None]
    return np.where(is_grey, grey, found[:, :ways]), found[:, ways:]


def _squared(
    clip: SmallClip,
    line: int,
    slots: slice,
    kinds: Sequence[int],
    follow: int,
    shown: Slots | None,
) -> list[Distances]:
    """Return squared differences of a row, motion followed: of its quarters, cells, or both."""
    carried = None if shown is None else np.maximum(shown, 0)
    half = not isinstance(clip, FollowedClip)
    if len(kinds) > 1:
        squared = [
            *quarters_and_cells(clip, line, slots, follow=follow, half=half, carried=carried)
        ]
    else:
        squared = [
            squared_distances(
                clip, line, slots, parts=kinds[0], follow=follow, half=half, carried=carried
            )
        ]
    if isinstance(clip, FollowedClip):
        # What was carried in came from slots that no chain of the window leads to.
        among, *cells = (one[:, 0 if shown is None else len(shown) :] for one in squared)
        whole = cells[0] if cells else None
        follow_vectors(clip, line, slots, among, parts=kinds[0], whole=whole)
    return squared


def _cells_of(carried: Slots, clip: SmallClip, units: Units) -> Slots:
    """Return per content cell of a row what its unit shows: (c, w)."""
    columns = _unit_columns(clip, units)
    return carried[:, columns - units.columns[0]]


def _unit_columns(clip: SmallClip, units: Units) -> Slots:
    """Return the column of units of every content column: (w,)."""
    return np.arange(clip.columns.start, clip.columns.stop, dtype=np.intp) // units.block


def _columns_summed(cells: Distances, clip: SmallClip, units: Units) -> Distances:
    if units.block == 1:
        return cells
    starts = np.searchsorted(_unit_columns(clip, units), units.columns)
    return np.add.reduceat(cells, starts, axis=0)


def shown_errors(window: Window, kept: Cells, direction: str, way: int = 0) -> Distances:
    """Return the distortion of what each unit shows: float32 (W, n).

    Args:
        window: distortions.
        kept: bool (W, n).
        direction: ``hold``, or ``nearest``: the best of all that is kept in the window or was
            carried in.
        way: which of those that were carried in.
    """
    slots, cells = kept.shape
    before, between = window.before[way], window.between
    everyone: Slots = np.arange(cells, dtype=np.intp)
    if direction != HOLD:
        best = before.copy()
        if not window.is_shown:
            best[kept.any(axis=0)] = np.inf
        for slot in range(slots):
            some = np.flatnonzero(kept[slot])
            best[some] = np.minimum(best[some], between[some, slot])
        return np.ascontiguousarray(best.T)
    errors = np.empty((slots, cells), np.float32)
    shown = np.full(cells, NO_SLOT)
    for slot in range(slots):
        shown = np.where(kept[slot], slot, shown)
        held = between[everyone, np.maximum(shown, 0), slot]
        errors[slot] = np.where(shown >= 0, held, before[:, slot])
    return errors


def hold_gains(costs: Spans, errors: Distances, kept: Cells) -> Distances:
    """Return what holding one unit more from its slot on would spare: float32 (W, n).

    Args:
        costs: costs of the window.
        errors: float32 (W, n), weighted distortion of what is shown.
        kept: bool (W, n).
    """
    slots, cells = kept.shape
    sums = np.zeros((slots + 1, cells), np.float32)
    np.cumsum(errors, axis=0, out=sums[1:])
    gains = np.zeros((slots, cells), np.float32)
    everyone: Slots = np.arange(cells, dtype=np.intp)
    until = np.full(cells, slots)
    for slot in reversed(range(slots)):
        spared = sums[until, everyone] - sums[slot]
        gains[slot] = spared - costs.after[slot, until, everyone]
        until = np.where(kept[slot], slot, until)
    return gains


def last_kept(kept: Cells, first_slot: int, before: Slots | None) -> Slots:
    """Return the slot that each unit shows behind a window, -1 for none: intp (n,)."""
    slots = len(kept)
    found = slots - 1 - kept[::-1].argmax(axis=0) + first_slot
    earlier = np.full(kept.shape[1], NO_SLOT) if before is None else before
    return np.where(kept.any(axis=0), found, earlier)
