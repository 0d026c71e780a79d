"""Percentiles of whole maps, equal to ``numpy.percentile`` (linear) and much cheaper."""

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int16] | NDArray[np.uint8]


def float_percentile(values: NDArray[np.float32], percentile: float, times: int = 1) -> float:
    """Linear percentile, as ``numpy.percentile``, of values of which each counts ``times``.

    Velocities take few distinct values; there a vectorised sort is faster than a partition.
    """
    below, share = _rank(values.size * times, percentile)
    ordered = np.sort(values, axis=None)
    low = float(ordered[below // times])
    return _interpolate(low, float(ordered[(below + 1) // times]), share) if share else low


def integer_percentile(
    values: Integers, percentile: float, guess: int = 0, num_values: int = 0
) -> float:
    """``numpy.percentile`` (linear) of integers >= 0, without sorting.

    Counting how many values are at or below a bound is much cheaper than ordering them, and
    a good ``guess`` (the last frame's percentile) leaves few bounds to try. It has no influence on
    the result.

    Args:
        values: any shape; zeros may be left out, or be too many.
        percentile: in (0, 100].
        guess: a value it may be near.
        num_values: number of values with all zeros counted; 0 = the size of ``values``.
    """
    num_values = num_values or values.size
    below, share = _rank(num_values, percentile)
    # Ranks are counted from the largest value, so that zeros that were left out do not matter.
    below -= num_values - values.size
    low = _order_statistic(values, below, guess) if below >= 0 else 0
    # The upper neighbour differs only if no further value equals the lower one.
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


def _order_statistic(values: Integers, rank: int, guess: int) -> int:
    """Return the ``rank``-th smallest value, counted from 0.

    It is the smallest v with more than ``rank`` values <= v.
    """

    def reached(bound: int) -> bool:
        return bool(np.count_nonzero(values <= bound) > rank)

    # Enclose the value in (low, high] by steps that double, from the guess up or down ...
    low, high, step = -1, guess, 1
    while not reached(high):
        low, high, step = high, high + step, 2 * step
    if low < 0:  # the guess reached it: come down from there
        step = 1
        while high > 0 and reached(max(high - step, 0)):
            high, step = max(high - step, 0), 2 * step
        low = max(high - step, 0) if high > 0 else -1
    # ... and halve the interval until it holds one number.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
