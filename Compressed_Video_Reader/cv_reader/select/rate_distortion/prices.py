"""Prices of kept units: between which two a budget or quality is met, and how the rest is spent."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.rate_distortion.shortest_path import Spans, best_choice

LEAST_PRICE = 1e-9
_PRICE_RATIO = 1.001


def rounded(price: float) -> float:
    """Return a price of six digits: powers differ in their last digit between processors."""
    return float(f"{price:.6g}")


def first_fit(counts: Sequence[int], budget: float) -> int:
    """Return which of rising prices is the first to keep no more than the budget, or how many."""
    return next((number for number, count in enumerate(counts) if count <= budget), len(counts))


def spread_prices(low: float, high: float, steps: int) -> list[float]:
    """Return rising prices from one to another, in equal ratios."""
    ratio = high / low
    return [rounded(low * ratio ** (step / steps)) for step in range(steps + 1)]


def price_between(prices: Sequence[float], counts: Sequence[int], target: float) -> float:
    """Return the price that should keep ``target`` units, between two that were tried.

    Args:
        prices: rising.
        counts: units that each of them keeps.
        target: units wanted.

    Returns:
        A price from powers of prices and counts; the nearest price tried where none keeps more.
    """
    fit = first_fit(counts, target)
    if fit in (0, len(counts)) or target < 1:
        return prices[min(fit, len(counts) - 1)]
    before, after = math.log(counts[fit - 1]), math.log(max(counts[fit], 1))
    share = (before - math.log(target)) / (before - after)
    return prices[fit - 1] * (prices[fit] / prices[fit - 1]) ** share


def highest_price(costs: Spans, forced: Sequence[int] = ()) -> float:
    """Return a price at which nothing is kept that need not be.

    Args:
        costs: of a window.
        forced: its slots that every path keeps: no other slot spares more than what one of these,
            or what was there before, shows up to the next one.
    """
    spans = [costs.start, *(costs.after[slot] for slot in sorted({0, *forced}))]
    return float(max(np.where(np.isfinite(one), one, 0).max() for one in spans)) + 1.0


def bracketed(
    is_enough: Callable[[float], bool], highest: float, lowest: float = LEAST_PRICE
) -> tuple[float, float]:
    """Find where a price becomes enough: the last that is not (or is the least) and the first."""
    low, high = lowest, max(lowest, highest)
    if is_enough(low):
        return low, low
    while high > low * _PRICE_RATIO:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return low, high


def fitting_prices(
    costs: Spans, budget: int, highest: float, lowest: float, *, unit: float
) -> tuple[float, float]:
    """Return two neighbouring prices: the second is the least whose kept units fit a budget.

    A unit of which two prices keep equally many slots keeps as many at all prices between: it need
    not be looked at again.

    Args:
        costs: of all units.
        budget: slots of units that may be kept.
        highest: a price at which few enough are kept.
        lowest: the least that may be asked for.
        unit: cells that a unit counts as.
    """
    low, high = lowest, max(lowest, highest)
    more = best_choice(costs, low * unit, with_slots=False).counts
    if int(more.sum()) <= budget:
        return low, low
    fewer, settled = None, 0
    while high > low * _PRICE_RATIO:
        middle = math.sqrt(low * high)
        counts = best_choice(costs, middle * unit, with_slots=False).counts
        if settled + int(counts.sum()) <= budget:
            high, fewer = middle, counts
        else:
            low, more = middle, counts
        if fewer is None:
            continue
        is_open = more != fewer
        if 2 * int(is_open.sum()) < len(is_open):
            settled += int(more[~is_open].sum())
            costs, more, fewer = costs.of_units(is_open), more[is_open], fewer[is_open]
    return low, high


def with_rest(kept: NDArray[np.bool_], more: NDArray[np.bool_], budget: int) -> NDArray[np.bool_]:
    """Spend what is left of a budget, in raster order, on units of which a slightly lower price
    keeps more: ``kept`` is written to, and returned."""
    extra = more.sum(axis=0) - kept.sum(axis=0)
    rest = budget - int(kept.sum())
    for unit in np.flatnonzero(extra > 0).tolist():
        if extra[unit] <= rest:
            kept[:, unit] = more[:, unit]
            rest -= int(extra[unit])
    return kept
