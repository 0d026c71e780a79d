"""Exchanging kept slots for better ones, where a cell may show the best of all that is kept of it.

The shortest path lets a slot show the kept slot before or after it. ``nearest`` shows the best of
all: of a dialogue, a camera that sways or a light that flickers the same pictures come again. Which
slots are best then has no exact solution that is quick (it is the k-median problem), so the choice
of the shortest path is improved step by step. In each round every cell offers the slot that would
spare most if it were kept too, and the kept slot that would be missed least. The budget takes the
best offers in return for the slots that are missed least, as long as that spares anything. Within
a cell, a slot that is added only makes others less missed: every round shows more, and none less.

Where no cell has anything to offer any more, each one looks for a kept slot that another slot can
replace: it may be missed a lot until its successor is there (Kaufman and Rousseeuw, Partitioning
around medoids, 1987). Exchanges between cells and swaps within them alternate until none is left.

Axis letters: W slots, n units, m units of which something changed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.rate_distortion import distances
from cv_reader.select.rate_distortion.distances import Distances

_MAX_ROUNDS = 32
_MAX_SWAP_ROUNDS = 32
"""Swaps of a cell in a row, and how often exchanges and swaps alternate."""

_GROUP_UNITS = 16
"""Units whose gains are summed together, so that their distances stay in a processor's cache."""

_SUMMED_SLOTS = 128
"""Slots that the kernel sums as numpy does."""

Cells = NDArray[np.bool_]
Units = NDArray[np.intp]
Sums = NDArray[np.float64]


def exchanged(
    between: Distances,
    before: Distances,
    kept: Cells,
    budget: int,
    *,
    keeping: Distances,
    forced: list[int],
    least: float,
) -> Cells:
    """Return a choice of at most ``budget`` slots of units that shows no less.

    Args:
        between: float32 (n, W, W), [i, s, t] distortion of showing slot s at slot t.
        before: float32 (n, W), of what a unit shows of which nothing is kept.
        kept: bool (W, n), the choice to start from.
        budget: slots of units that may be kept.
        keeping: float32 (W,), what it costs to keep a unit at each slot.
        forced: slots that stay kept.
        least: what an exchange, or a kept slot, must spare at least.

    Returns:
        bool (W, n).
    """
    shown = _Shown.of(between, before, kept.T.copy())
    costs = keeping.astype(np.float64)
    changed: Units = np.arange(len(shown.kept), dtype=np.intp)
    for _ in range(_MAX_SWAP_ROUNDS):
        traded = _exchange(shown, budget, costs, forced, least)
        changed = _swap(shown, np.union1d(changed, traded), costs, forced, least)
        if not len(changed):
            break
    return np.ascontiguousarray(shown.kept.T)


def _exchange(
    shown: "_Shown", budget: int, keeping: Sums, forced: list[int], least: float
) -> Units:
    """Exchange slots between units until nothing is spared, and return the units that changed."""
    found = shown.kept
    count = len(found)
    changed: Units = np.arange(count, dtype=np.intp)
    ever = np.zeros(count, bool)
    add, drop, best, worst = changed.copy(), changed.copy(), np.empty(count), np.empty(count)
    for _ in range(_MAX_ROUNDS):
        is_kept, places = found[changed], np.arange(len(changed))
        missed = shown.missed[changed] - keeping
        missed[~is_kept] = np.inf
        missed[:, forced] = np.inf
        spared = shown.gain[changed] - keeping
        spared[is_kept] = -np.inf
        add[changed], drop[changed] = spared.argmax(axis=1), missed.argmin(axis=1)
        best[changed], worst[changed] = spared[places, add[changed]], missed[places, drop[changed]]
        adding, dropping = _trade(best, worst, budget - int(found.sum()), least)
        if not len(adding) and not len(dropping):
            break
        shown.add(adding, add[adding])
        shown.drop(dropping, drop[dropping])
        changed = np.union1d(adding, dropping)
        shown.weigh(changed)
        ever[changed] = True
    return np.flatnonzero(ever)


def _swap(shown: "_Shown", units: Units, keeping: Sums, forced: list[int], least: float) -> Units:
    """Replace kept slots of units by better ones, one a round, and return the units that changed.

    Args:
        shown: what is shown, brought up to date.
        units: intp (m,), units that may have changed since their slots were swapped.
        keeping: float64 (W,), see ``exchanged``.
        forced: see ``exchanged``.
        least: see ``exchanged``.
    """
    ever = np.zeros(len(shown.kept), bool)
    may_drop = np.ones(len(keeping), bool)
    may_drop[forced] = False
    for _ in range(_MAX_SWAP_ROUNDS):
        # The successor spares no more than it would if nothing were dropped.
        most = np.where(shown.kept[units], -np.inf, shown.gain[units] - keeping).max(axis=1)
        units = units[most + keeping.max() > least]
        add, drop, spared = shown.best_swaps(units, keeping, may_drop)
        is_better = spared > least
        units, add, drop = units[is_better], add[is_better], drop[is_better]
        if not len(units):
            break
        shown.add(units, add)
        shown.drop(units, drop)
        shown.weigh(units)
        ever[units] = True
    return np.flatnonzero(ever)


def _trade(best: Sums, worst: Sums, room: int, least: float) -> tuple[Units, Units]:
    """Return which units keep one slot more, and which one less.

    Args:
        best: float64 (n,), what each unit spares by one slot more.
        worst: float64 (n,), what each unit misses by one slot less.
        room: slots that may be kept in addition.
        least: see ``exchanged``.
    """
    adding, dropping = np.argsort(-best, kind="stable"), np.argsort(worst, kind="stable")
    useless = int((worst < least).sum())
    added = min(int((best > least).sum()), max(room, 0))
    pairs = min(len(adding) - added, len(dropping) - useless)
    with np.errstate(invalid="ignore"):  # Neither may be possible: that is no exchange.
        spared = best[adding[added:][:pairs]] - worst[dropping[useless:][:pairs]]
        pairs = int((spared > least).sum())
    return adding[: added + pairs], dropping[: useless + pairs]


@dataclass(frozen=True, eq=False)
class _Shown:
    """What every unit shows at every slot.

    Attributes:
        between: see ``exchanged``.
        before: see ``exchanged``.
        kept: bool (n, W).
        best: float32 (n, W), distortion of the best kept slot; of what was before where none is.
        second: float32 (n, W), of the best kept slot but one; infinite where only one is kept.
        source: intp (n, W), the best kept slot; of equal ones the first; 0 where none is kept.
        gain: float32 (n, W), what keeping each slot too would spare.
        missed: float64 (n, W), what dropping each kept slot would add; infinite for the only one.
    """

    between: Distances
    before: Distances
    kept: Cells
    best: Distances
    second: Distances
    source: Units
    gain: Distances
    missed: Sums

    @classmethod
    def of(cls, between: Distances, before: Distances, kept: Cells) -> "_Shown":
        """Return what a choice shows; ``kept`` is kept up to date."""
        nothing = np.full(kept.shape, np.inf, np.float32)
        shown = cls(
            between=between,
            before=before,
            kept=np.zeros_like(kept),
            best=before.copy(),
            second=nothing,
            source=np.zeros(kept.shape, np.intp),
            gain=np.empty_like(nothing),
            missed=np.empty(kept.shape, np.float64),
        )
        for slot, has in enumerate(kept.T):
            units = np.flatnonzero(has)
            shown.add(units, np.full(len(units), slot))
        shown.weigh(np.arange(len(kept), dtype=np.intp))
        return shown

    def add(self, units: Units, slots: Units) -> None:
        """Keep one more slot of each of some units."""
        new = self.between[units, slots]
        # The first kept slot of a unit is shown everywhere, better or not.
        is_first: Cells = np.logical_not(self.kept[units].any(axis=1))[:, None]
        old, source = np.where(is_first, np.float32(np.inf), self.best[units]), self.source[units]
        is_better = (new < old) | ((new == old) & (slots[:, None] < source))
        self.second[units] = np.where(is_better, old, np.minimum(self.second[units], new))
        self.best[units] = np.minimum(old, new)
        self.source[units] = np.where(is_better, slots[:, None], source)
        self.kept[units, slots] = True

    def drop(self, units: Units, slots: Units) -> None:
        """Keep one slot less of each of some units."""
        self.kept[units, slots] = False
        old = self.between[units, slots]
        is_shown = (self.source[units] == slots[:, None]) | (old == self.second[units])
        numbers, times = np.nonzero(is_shown)
        units = units[numbers]
        ways = np.where(self.kept[units], self.between[units, :, times], np.float32(np.inf))
        places: Units = np.arange(len(ways), dtype=np.intp)
        source = ways.argmin(axis=1)
        best = ways[places, source]
        ways[places, source] = np.inf
        is_none: Cells = np.logical_not(self.kept[units].any(axis=1))
        self.best[units, times] = np.where(is_none, self.before[units, times], best)
        self.second[units, times] = ways.min(axis=1)
        self.source[units, times] = source

    def weigh(self, units: Units) -> None:
        """Bring up to date what slots of some units would gain, and how they would be missed."""
        is_empty: Cells = np.logical_not(self.kept[units].any(axis=1))
        floors = np.where(is_empty, np.float32(-np.inf), np.float32(0))
        _sum_gains(self.between, self.best, units, floors, self.gain)
        best = self.best[units]
        slots = best.shape[1]
        places = self.source[units] + np.arange(len(units))[:, None] * slots
        added = self.second[units].astype(np.float64) - best
        sums = np.bincount(places.ravel(), added.ravel(), minlength=best.size)
        self.missed[units] = sums.reshape(best.shape)

    def best_swaps(self, units: Units, keeping: Sums, may_drop: Cells) -> tuple[Units, Units, Sums]:
        """Return which slot each of some units best keeps instead of which kept one, by the native
        reader's kernel where it can.

        Args:
            units: intp (m,).
            keeping: float64 (W,), what it costs to keep a unit at each slot.
            may_drop: bool (W,), slots that need not stay kept.

        Returns:
            intp (m,) slot to keep, intp (m,) slot to drop, and float64 (m,), what that spares: of
            equal swaps the first; minus infinity where no slot can be dropped.
        """
        count, slots = len(units), len(keeping)
        add, drop = np.zeros(count, np.int64), np.zeros(count, np.int64)
        spared = np.empty(count, np.float64)
        native = distances.native
        if slots <= _SUMMED_SLOTS and hasattr(native, "best_swaps"):
            assert native is not None
            source = self.source.astype(np.int64)
            shown = (self.between.data, self.best.data, self.second.data, source.data)
            asked = (self.kept.data, units.astype(np.int64).data, keeping.data, may_drop.data)
            native.best_swaps(*shown, *asked, add.data, drop.data, spared.data, slots)
            return add, drop, spared
        for first in range(0, count, _GROUP_UNITS):
            here = slice(first, first + _GROUP_UNITS)
            swaps = self._swaps(units[here]) - keeping[:, None] + keeping
            swaps[:, :, ~may_drop] = -np.inf
            flat = swaps.reshape(len(swaps), -1)
            best = flat.argmax(axis=1)
            add[here], drop[here] = np.divmod(best, slots)
            spared[here] = np.take_along_axis(flat, best[:, None], axis=1)[:, 0]
        return add, drop, spared

    def _swaps(self, units: Units) -> Sums:
        """Return what units spare by keeping one slot instead of another: float64 (m, W, W).

        [i, s, k] keeps slot s instead of slot k; minus infinity where s is kept or k is not. Slots
        are added up in their order, as the kernel does.
        """
        here, best, kept = self.between[units], self.best[units], self.kept[units]
        slots = best.shape[1]
        with_new = np.minimum(best[:, None], here)
        # Where slot k is what is shown, the next best or the new slot is shown instead.
        missed = np.minimum(self.second[units][:, None], here) - with_new
        rows: Units = np.arange(len(units) * slots, dtype=np.intp).reshape(-1, slots, 1)
        places = rows * slots + self.source[units][:, None]
        sums = np.bincount(places.ravel(), missed.ravel(), minlength=missed.size)
        spared = (best[:, None] - with_new).cumsum(axis=2, dtype=np.float64)[:, :, -1]
        found: Sums = np.subtract(spared[:, :, None], sums.reshape(missed.shape))
        found[kept] = -np.inf
        found.transpose(0, 2, 1)[~kept] = -np.inf
        return found


def _sum_gains(
    between: Distances, best: Distances, units: Units, floors: Distances, gains: Distances
) -> None:
    """Write what slots of some units would spare, by the native reader's kernel where it can.

    Args:
        between, best: see ``_Shown``.
        units: intp (m,).
        floors: float32 (m,), the least that counts in one slot.
        gains: float32 (n, W), of which the rows of the units are written.
    """
    native, slots = distances.native, best.shape[1]
    if slots <= _SUMMED_SLOTS and hasattr(native, "sum_gains"):
        assert native is not None
        native.sum_gains(between, best, units.astype(np.int64), floors, gains, slots)
        return
    spared = np.empty((_GROUP_UNITS, slots, slots), np.float32)
    for first in range(0, len(units), _GROUP_UNITS):
        here = units[first : first + _GROUP_UNITS]
        some = spared[: len(here)]
        np.take(between, here, axis=0, out=some, mode="clip")
        np.subtract(best[here, None], some, out=some)
        np.maximum(some, floors[first : first + _GROUP_UNITS, None, None], out=some)
        gains[here] = some.sum(axis=2)
