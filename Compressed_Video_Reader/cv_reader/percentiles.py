"""Percentiles of whole maps, equal to ``numpy.percentile`` (linear) and much cheaper."""

import numpy as np
from numpy.typing import NDArray


def float_percentile(values: NDArray[np.float32], percentile: float) -> float:
    """Linear percentile, as ``numpy.percentile``.

    Velocities take few distinct values; there a vectorised sort is faster than a partition.
    """
    below, share = _rank(values.size, percentile)
    ordered = np.sort(values, axis=None)
    low = float(ordered[below])
    return _interpolate(low, float(ordered[below + 1]), share) if share else low


def integer_percentile(
    values: NDArray[np.int16] | NDArray[np.uint8], percentile: float, guess: int = 0
) -> float:
    """``numpy.percentile`` (linear) of integers >= 0, without sorting.

    Counting how many values lie at or below a bound is much cheaper than ordering them, and
    a good ``guess`` (the last frame's percentile) leaves few bounds to try. It has no influence on
    the result.
    """
    below, share = _rank(values.size, percentile)
    low = _order_statistic(values, below, guess)
    high = low
    if share and np.count_nonzero(values <= low) == below + 1:
        high = int(values[values > low].min())
    return _interpolate(low, high, share)


def _rank(count: int, percentile: float) -> tuple[int, float]:
    """Index of the lower neighbour in sorted order, and the way to the upper one in [0, 1)."""
    rank = (count - 1) * (percentile / 100)
    return int(rank), rank - int(rank)


def _interpolate(low: float, high: float, share: float) -> float:
    # From the nearer side, as numpy does: equal results to the last bit.
    step = high - low
    return low + step * share if share < 0.5 else high - step * (1 - share)


def _order_statistic(values: NDArray[np.int16] | NDArray[np.uint8], rank: int, guess: int) -> int:
    """The ``rank``-th smallest value, from 0: smallest v with more than ``rank`` values <= v."""

    def reached(bound: int) -> bool:
        return bool(np.count_nonzero(values <= bound) > rank)

    low, high, step = -1, guess, 1
    while not reached(high):
        low, high, step = high, high + step, 2 * step
    if low < 0:  # the guess reached it: come down from there
        step = 1
        while high > 0 and reached(max(high - step, 0)):
            high, step = max(high - step, 0), 2 * step
        low = max(high - step, 0) if high > 0 else -1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
