"""At which slots a cell is kept: least distortion plus a price per kept cell, exactly.

What an encoder does, turned to tokens. Between kept slots a cell shows what was kept:

- ``hold``: the last one, as a live stream must: kept slot s in [s, e), where e is the next one.
- ``nearest``: the better of the last and the next one; an encoder that sees all times at once can
  look either way.

Until the first kept slot it shows what an earlier window of slots left there, or grey. Per cell
this is a shortest path over the slots, found by dynamic programming for all cells at once. Of
equally cheap paths the one with the earlier kept slots is taken, so that results are unique.

Axis letters: W slots, n cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HOLD, NEAREST = "hold", "nearest"

_MANY_SLOTS = 255
"""Slots whose numbers do not fit into 8 bit."""

Costs = NDArray[np.float32]
Numbers = NDArray[np.int32]


@dataclass(frozen=True)
class Spans:
    """Distortion between neighbouring kept slots.

    Attributes:
        start: float32 (W + 1, n), [e] of slots [0, e) where e is the first that is kept; [W] of all
            slots where none is.
        after: float32 (W, W + 1, n), [s, e] of slots [s, e) between kept slots s and e; [s, W] from
            the last one on.
        keeping: float32 (W,), what it costs to keep a cell at each slot in addition to the price.
    """

    start: Costs
    after: Costs
    keeping: Costs

    def forced(self, slot: int) -> "Spans":
        """Return segments of which every path keeps a slot."""
        start, after = self.start.copy(), self.after
        start[slot + 1 :] = np.inf
        if slot:
            after = after.copy()
            after[:slot, slot + 1 :] = np.inf
        return Spans(start, after, self.keeping)

    def of_units(self, which: NDArray[np.bool_]) -> "Spans":
        """Return the segments of some units: bool (n,), which."""
        return Spans(self.start[:, which], self.after[:, :, which], self.keeping)

    def without(self, repeats: NDArray[np.bool_]) -> "Spans":
        """Return segments of which no path keeps two slots in turn that show the same.

        Args:
            repeats: bool (n, W, W), [i, s, e] whether slot e shows nothing new after slot s.
        """
        after = self.after.copy()
        np.copyto(after[:, :-1], np.inf, where=repeats.transpose(1, 2, 0))
        return Spans(self.start, after, self.keeping)


def segments(
    distortion: Costs,
    before: Sequence[Costs],
    direction: str,
    *,
    is_shown: bool = False,
    keeping: Costs | None = None,
) -> list[Spans]:
    """Add up distortions between neighbouring kept slots.

    Args:
        distortion: float32 (n, W, W), [i, s, t] of showing slot s at slot t.
        before: float32 (n, W) each, of what is shown before anything is kept; one or more ways.
        direction: ``hold`` or ``nearest``.
        is_shown: that is a kept picture, so that ``nearest`` may show it as well as the first one.
        keeping: float32 (W,), cost of keeping each slot in addition to the price; None = none.

    Returns:
        One for each way, which share what is between kept slots.
    """
    num_cells, slots, _ = distortion.shape
    by_slot = np.ascontiguousarray(distortion.transpose(1, 2, 0))
    after = np.zeros((slots, slots + 1, num_cells), np.float32)
    better = np.empty((slots, num_cells), np.float32)
    for slot in range(slots):
        shown = by_slot[slot]
        np.cumsum(shown[slot:], axis=0, out=after[slot, slot + 1 :])
        for end in range(slot + 2, slots if direction == NEAREST else 0):
            some = better[: end - slot - 1]
            np.minimum(shown[slot + 1 : end], by_slot[end, slot + 1 : end], out=some)
            np.add.reduce(some, axis=0, out=after[slot, end])
    costs = np.zeros(len(by_slot), np.float32) if keeping is None else keeping
    found: list[Spans] = []
    for one in before:
        earlier = np.ascontiguousarray(one.T)
        start = np.zeros((slots + 1, num_cells), np.float32)
        np.cumsum(earlier, axis=0, out=start[1:])
        for slot in range(1, slots if direction == NEAREST else 0):
            ahead = by_slot[slot, :slot]
            np.sum(np.minimum(earlier[:slot], ahead) if is_shown else ahead, 0, out=start[slot])
        found.append(Spans(start, after, costs))
    return found


@dataclass(frozen=True)
class Choice:
    """The best kept slots of every cell for one price.

    Attributes:
        counts: int32 (n,), slots kept.
        distortion: float64 (n,), what they show, and ``keeping``; prices are left out.
        kept: bool (W, n), which; None where only the counts were asked for.
    """

    counts: Numbers
    distortion: NDArray[np.float64]
    kept: NDArray[np.bool_] | None


def best_choice(costs: Spans, price: float, *, with_slots: bool = True) -> Choice:
    """Find the cheapest slots to keep.

    Args:
        costs: costs of runs of slots.
        price: price of a kept slot, in units of distortion, >= 0.
        with_slots: also say which slots.
    """
    slots, _, cells = costs.after.shape
    cost, step = costs.start.copy(), np.float32(price)
    # The slot kept before, plus 1; 0 for none. Small numbers are compared many at a time.
    parents = np.zeros(cost.shape, np.uint8 if slots < _MANY_SLOTS else np.uint16)
    reached, is_better = np.empty_like(cost), np.empty(cost.shape, np.bool_)
    here = np.empty_like(parents)
    for slot in range(slots):
        # Every path to this slot has been tried: its cost is final.
        ways, better, rest = reached[slot + 1 :], is_better[slot + 1 :], cost[slot + 1 :]
        np.add(costs.after[slot, slot + 1 :], cost[slot] + (step + costs.keeping[slot]), out=ways)
        np.less(ways, rest, out=better)
        np.minimum(ways, rest, out=rest)
        # Slots ascend: the last one that was better is the greatest.
        np.multiply(better, parents.dtype.type(slot + 1), out=here[slot + 1 :])
        np.maximum(parents[slot + 1 :], here[slot + 1 :], out=parents[slot + 1 :])
    kept = np.zeros((slots, cells), np.bool_) if with_slots else None
    counts = np.zeros(cells, np.int32)
    ends = np.zeros(cells, np.intp) + slots
    active: NDArray[np.intp] = np.arange(cells, dtype=np.intp)
    while len(active):
        source = parents[ends[active], active].astype(np.intp) - 1
        active, source = active[source >= 0], source[source >= 0]
        counts[active] += 1
        ends[active] = source
        if kept is not None:
            kept[source, active] = True
    total = cost[slots].astype(np.float64) - counts * np.float64(step)
    return Choice(counts, total, kept)
