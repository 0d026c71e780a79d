"""Exchanging kept slots for better ones, where a cell may show the best of all that is kept of it.

The shortest path lets a slot show the kept slot before or after it. ``nearest`` shows the best of
all: of a dialogue, a camera that sways or a light that flickers the same pictures come again. Which
slots are best then has no exact solution that is quick (it is the k-median problem), so the choice
of the shortest path is improved step by step. In each round every cell offers the slot that would
spare most if it were kept too, and the kept slot that would be missed least. The budget takes the
best offers in return for the slots that are missed least, as long as that spares anything. Within
a cell, a slot that is added only makes others less missed: every round shows more, and none less.

Axis letters: W slots, n units, m units of which something changed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.rate_distortion.distances import Distances

_MAX_ROUNDS = 32
_GROUP_UNITS = 16
"""Units whose gains are summed together, so that their distances stay in a processor's cache."""

Cells = NDArray[np.bool_]
Units = NDArray[np.intp]
Sums = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Shown:
    """What every unit shows at every slot.

    Attributes:
        best: float32 (n, W), distortion of the best kept slot; of what was before where none is.
        second: float32 (n, W), of the best kept slot but one; infinite where only one is kept.
        source: intp (n, W), the best kept slot; of equal ones the first; 0 where none is kept.
        gain: float32 (n, W), what keeping each slot too would spare.
    """

    best: Distances
    second: Distances
    source: Units
    gain: Distances


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
    found = kept.T.copy()
    units: Units = np.arange(len(found), dtype=np.intp)
    shown = _Shown(
        best=np.empty(found.shape, np.float32),
        second=np.empty(found.shape, np.float32),
        source=np.empty(found.shape, np.intp),
        gain=np.empty(found.shape, np.float32),
    )
    changed: Units = units
    for _ in range(_MAX_ROUNDS):
        _look_again(shown, between, before, found, changed)
        missed = _missed(shown) - keeping
        missed[~found] = np.inf
        missed[:, forced] = np.inf
        spared = shown.gain - keeping.astype(np.float64)
        spared[found] = -np.inf
        add, drop = spared.argmax(axis=1), missed.argmin(axis=1)
        best, worst = spared[units, add], missed[units, drop]
        adding, dropping = _trade(best, worst, budget - int(found.sum()), least)
        if not len(adding) and not len(dropping):
            break
        found[adding, add[adding]] = True
        found[dropping, drop[dropping]] = False
        changed = np.union1d(adding, dropping)
    return np.ascontiguousarray(found.T)


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


def _missed(shown: _Shown) -> Sums:
    """Return what dropping each kept slot would add: float64 (n, W), infinite for the only one."""
    num_units, slots = shown.best.shape
    first: Units = np.arange(num_units, dtype=np.intp) * slots
    places = shown.source + first[:, None]
    added = shown.second.astype(np.float64) - shown.best
    sums = np.zeros(num_units * slots, np.float64)
    np.add.at(sums, places.ravel(), added.ravel())
    return sums.reshape(num_units, slots)


def _look_again(
    shown: _Shown, between: Distances, before: Distances, kept: Cells, changed: Units
) -> None:
    """Bring up to date what changed units show, and what they would gain."""
    best = np.full((len(changed), kept.shape[1]), np.inf, np.float32)
    second, source = best.copy(), np.zeros(best.shape, np.intp)
    for slot, has in enumerate(kept[changed].T):
        some = np.flatnonzero(has)
        new, old = between[changed[some], slot], best[some]
        is_better = new < old
        second[some] = np.minimum(second[some], np.where(is_better, old, new))
        best[some] = np.where(is_better, new, old)
        source[some] = np.where(is_better, slot, source[some])
    empty: Cells = np.logical_not(kept[changed].any(axis=1))
    best[empty] = before[changed[empty]]
    shown.best[changed], shown.second[changed], shown.source[changed] = best, second, source
    floor = np.where(empty, np.float32(-np.inf), np.float32(0))[:, None, None]
    spared = np.empty((_GROUP_UNITS, *between.shape[1:]), np.float32)
    for first in range(0, len(changed), _GROUP_UNITS):
        here = slice(first, first + _GROUP_UNITS)
        some = spared[: len(changed[here])]
        np.subtract(best[here, None], between[changed[here]], out=some)
        # The first kept slot of a unit is shown everywhere, better or not.
        np.maximum(some, floor[here], out=some)
        shown.gain[changed[here]] = some.sum(axis=2)
