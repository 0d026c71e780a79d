"""What no selection can exceed: a bound on the quality of any choice of so many cells.

Choosing k slots per cell so that every slot shows the best kept one is the k-median problem. Its
dual bounds it from above for any price: a budget v[t] per slot, such that what all slots would pay
for slot s beyond their distance to it is at most the price, is paid in all by every choice. Budgets
are raised slot by slot (dual ascent, Erlenkotter 1978). The bound is certain, not always reached.

Axis letters: n units, W slots.
"""

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.config import AssetConfig
from cv_reader.select.rate_distortion.clip import SmallClip
from cv_reader.select.rate_distortion.places import FollowedClip
from cv_reader.select.rate_distortion.solver import decibels
from cv_reader.select.rate_distortion.windows import Units, cell_window

Sums = NDArray[np.float64]

_PRICE_STEPS, _LEAST_PRICE = 7, 1e-3
_PRICE_RATIO = 1.5


def most_decibels(clip: SmallClip, tokens: int, price: float) -> float:
    """Return the PSNR (nearest) that no choice of so many cells exceeds, at most 100 dB.

    Args:
        clip: the pictures; turned to places if they are rebuilt along the codec's vectors.
        tokens: cells that may be kept.
        price: of a cell, by which such a choice was made: the bound is searched for near it.
    """
    between, before = _distances(clip)
    slots = clip.num_slots * len(between)
    least, ratio = -np.inf, _PRICE_RATIO
    at = price = max(price, _LEAST_PRICE)
    for _ in range(_PRICE_STEPS):
        # The bound is concave in the price: walk while it rises, else turn once.
        found = float(_per_unit(between, before, at).sum()) - at * tokens
        if found <= least:
            if ratio < 1:
                break
            ratio, at = 1 / ratio, price
        else:
            least = found
        at *= ratio
    return decibels(max(least, 0.0) / slots)


def _distances(clip: SmallClip) -> tuple[Sums, Sums]:
    """Return the mean squared differences of all pairs of slots, (n, W, W), and to grey, (n, W)."""
    predict = "vectors" if isinstance(clip, FollowedClip) else "still"
    config = AssetConfig(select="rate_distortion", distortion="mean", predict=predict)
    window = cell_window(clip, Units.of(clip, 1), slice(0, clip.num_slots), config)
    return window.between.astype(np.float64), window.before[0].astype(np.float64)


def _per_unit(between: Sums, before: Sums, price: float) -> Sums:
    """Return what every choice of a unit's slots costs at least, the price of each included: (n,).

    ``room`` is what may still be paid for each slot; a budget rises to the next distance, or until
    no room is left for a slot that it has reached.
    """
    units, slots, _ = between.shape
    levels = np.sort(between, axis=1)
    budgets = levels[:, 0].copy()
    reached = np.zeros((units, slots), np.intp)
    room = np.full((units, slots), price)
    everyone = np.arange(units)
    is_rising = True
    while is_rising:
        is_rising = False
        for slot in range(slots):
            own = budgets[:, slot]
            is_paying = between[:, :, slot] <= own[:, None]
            most = np.where(is_paying, room, np.inf).min(axis=1)
            following = np.minimum(reached[:, slot] + 1, slots - 1)
            step = levels[everyone, following, slot] - own
            is_last = reached[:, slot] + 1 >= slots
            step = np.where(is_last, most, np.minimum(step, most))
            room -= np.where(is_paying, step[:, None], 0)
            budgets[:, slot] = own + step
            is_past = (step < most) & ~is_last
            reached[:, slot] += is_past
            is_rising = is_rising or bool(((step > 0) | is_past).any())
    return np.minimum(budgets.sum(axis=1), before.sum(axis=1))
