"""A clip, its units and settings: costs at every price, and the units that meet a budget.

Axis letters: T slots, W slots of a window, n units of the picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.config import MAX_DB, AssetConfig
from cv_reader.select.rate_distortion.clip import SmallClip
from cv_reader.select.rate_distortion.distances import (
    MEASURES,
    NOTHING_NEW,
    Distances,
    Measure,
    level_distortion,
)
from cv_reader.select.rate_distortion.exchange import exchanged
from cv_reader.select.rate_distortion.places import FollowedClip
from cv_reader.select.rate_distortion.prices import (
    LEAST_PRICE,
    bracketed,
    first_fit,
    fitting_prices,
    highest_price,
    price_between,
    rounded,
    spread_prices,
    with_rest,
)
from cv_reader.select.rate_distortion.shortest_path import NEAREST, Spans, best_choice, segments
from cv_reader.select.rate_distortion.windows import (
    WINDOW_SLOTS,
    Cells,
    Units,
    Window,
    cell_window,
    hold_gains,
    last_kept,
    shown_errors,
    window_starts,
)

_PEAK = 255.0
_STEEP_RATIO = 1.5
_PREFERRED_STEPS = (8, 4, 2)
"""Every so many slots are preferred to those between them; see ``Measure.noise``."""

_WINDOWS_RATIO, _WINDOWS_POWERS = 1.25, (-1.0, -1 / 3, 1 / 3, 1.0)
"""Prices of long clips that are solved together, around the one that is expected."""

_MAX_PASSES = 4
_FIRST_ROWS, SAMPLED_ROWS = 16, 5
"""Every so many rows of units show what a price keeps of a long clip."""

_SAMPLED_MARGIN = 4.0
"""How far the price of more rows may be from where few rows suggest it."""


Kept = tuple[Cells, Distances]


def decibels(mean_squared_error: float) -> float:
    """Return the peak signal-to-noise ratio of samples in 0..255; at most 100 dB."""
    if mean_squared_error <= 0:
        return MAX_DB
    return min(MAX_DB, 10 * math.log10(_PEAK**2 / mean_squared_error))


@dataclass(frozen=True)
class Solver:
    """A clip, its units and settings.

    Attributes:
        weights: float32 (T,).
    """

    clip: SmallClip
    units: Units
    weights: NDArray[np.float32]
    config: AssetConfig

    @property
    def forced(self) -> list[int]:
        """Return the slots of the clip whose units are all kept."""
        # A slot that is kept whole may repeat the picture of one before it.
        ends = np.cumsum(self.weights)
        whole: list[int] = np.searchsorted(ends, self.config.full_slots, side="right").tolist()
        return sorted({*whole, *([0] if self.config.keep_uniform_first else [])})

    @property
    def _measure(self) -> Measure:
        return MEASURES[self.config.distortion]

    @property
    def outside(self) -> int:
        """Return how many units are kept with whole slots besides those of ``forced`` slots that
        touch the picture: units outside it, and whole slots that repeat a picture."""
        repeats = self.config.num_whole_slots - len(self.forced)
        return (
            len(self.config.full_slots) * self.units.num_outside + repeats * self.units.num_inside
        )

    @property
    def budget(self) -> int:
        """Return how many units of the clip may be kept."""
        return self.config.num_images * self.units.side**2 - self.outside

    def images_for(self, count: int) -> int:
        """Return how many mosaics so many units of the picture need."""
        wanted = math.ceil((count + self.outside) / self.units.side**2)
        return max(1, len(self.config.full_slots), min(wanted, self.config.num_images))

    def unit_price(self, price: float) -> float:
        """Return the price of a unit where one cell costs ``price``."""
        return price * self.config.block_cells**2

    @property
    def least_price(self) -> float:
        """Return the price below which differences are noise."""
        if not self._measure.least:
            return LEAST_PRICE
        return rounded(level_distortion(self._measure.least, self._measure))

    def kept_at(self, costs: Spans, price: float) -> Cells:
        """Return the units that are kept where a cell costs ``price``: bool (W, n)."""
        kept = best_choice(costs, self.unit_price(price)).kept
        assert kept is not None
        return kept

    def at_once(self) -> tuple[float, Cells, Distances]:
        """Solve a clip of few slots exactly: price, kept (T, n), gains (T, n)."""
        config = self.config
        everything = slice(0, self.clip.num_slots)
        window = cell_window(self.clip, self.units, everything, config)
        costs = self.segments(window)[0]
        price, kept = self._of_free_length(costs) if config.has_free_length else (0.0, None)
        # What a quality needs is kept as it is: exchanges aim at the distortion, not at the PSNR.
        is_exchanged = config.direction == NEAREST and not (kept is not None and config.quality_db)
        budget = self.budget if kept is None else int(kept.sum())
        if kept is None:
            lowest = price or self.least_price
            highest = highest_price(costs, self.forced)
            lower, price = self._fitting(costs, budget, highest, lowest)
            kept = with_rest(self.kept_at(costs, price), self.kept_at(costs, lower), budget)
        if is_exchanged:
            kept = self._exchanged(window, kept, budget, costs.keeping)
        return price, kept, self.gains(window, costs, kept)

    def _exchanged(self, window: Window, kept: Cells, budget: int, keeping: Distances) -> Cells:
        """Return a choice within a budget that shows no less by the best of all kept slots."""
        return exchanged(
            self._weighted(window.between),
            self._weighted(window.before[0]),
            kept,
            budget,
            keeping=keeping,
            forced=self.forced,
            least=self.unit_price(self.least_price),
        )

    def _weighted(self, distances: Distances, slots: slice = slice(None)) -> Distances:
        """Return distances, of which the last axis is slots, as often as slots are shown."""
        weights = self.weights[slots]
        return distances if (weights == 1).all() else distances * weights

    def _of_free_length(self, costs: Spans) -> tuple[float, Cells | None]:
        """Return the price of the quality, or as it is set, and what it keeps; None where that is
        more than the budget.

        Mosaics come whole: the last one is filled as a lower price would fill it, as long as there
        is anything new.
        """
        price, news = self.config.token_price, costs.without(self._repeats())
        if self.config.quality_db:
            price, costs = self._price_of_quality(news, costs)
        kept = self.kept_at(costs, price)
        count = int(kept.sum())
        if count > self.budget:
            return price, None
        room = self.images_for(count) * self.units.side**2 - self.outside
        lower, fitting = self._fitting(news, room, price, min(price, self.least_price))
        for less in (fitting, lower):
            kept = with_rest(kept, self.kept_at(news, less), room)
        return price, kept

    def _fitting(
        self, costs: Spans, budget: int, highest: float, lowest: float
    ) -> tuple[float, float]:
        """Return two neighbouring prices: the second is the least whose units fit a budget."""
        unit = self.unit_price(1.0)
        return fitting_prices(costs, budget, highest, lowest, unit=unit)

    def _price_of_quality(self, news: Spans, costs: Spans) -> tuple[float, Spans]:
        """Return the highest price that shows the quality asked for, and its costs: those that keep
        only what is new, where that is enough."""
        config = self.config
        everything = slice(0, self.clip.num_slots)
        plain = cell_window(self.clip, self.units, everything, config, measure=MEASURES["mean"])
        highest = highest_price(costs, self.forced)
        low, high = bracketed(lambda at: self._misses(plain, self.kept_at(news, at)), highest)
        if low < high:
            return low, news
        return bracketed(lambda at: self._misses(plain, self.kept_at(costs, at)), highest)[0], costs

    def _repeats(self) -> Cells:
        """Return which slots show nothing new after which: bool (n, T, T). Whole slots do."""
        config, everything = replace(self.config, predict="still"), slice(0, self.clip.num_slots)
        plain = cell_window(self.clip, self.units, everything, config, measure=MEASURES["mean"])
        found = plain.between < NOTHING_NEW * self.units.block**2
        found[:, :, self.forced] = False
        return found

    def gains(
        self, window: Window, costs: Spans, kept: Cells, slots: slice = slice(None), way: int = 0
    ) -> Distances:
        """Return what keeping one unit more would gain: float32 (W, n)."""
        errors = shown_errors(window, kept, self.config.direction, way)
        if self.config.direction == NEAREST:
            return errors
        return hold_gains(costs, errors * self.weights[slots, None], kept)

    def _misses(self, plain: Window, kept: Cells) -> bool:
        """Return whether what is kept shows less than the quality that is asked for."""
        errors = shown_errors(plain, kept, self.config.direction) * self.weights[:, None]
        samples = float(self.weights.sum()) * self.clip.height * self.clip.width
        return decibels(float(errors.sum(dtype=np.float64)) / samples) < self.config.quality_db

    def by_windows(self) -> tuple[float, Cells, Distances]:
        """Solve a clip of many slots window by window: price, kept (T, n), gains (T, n).

        Some rows of the picture suggest a price. Four prices around it are solved together; of the
        two between which the budget falls, some units take the lower and the others the higher
        one, so that the budget is spent.
        """
        budget, config = self.budget, self.config
        if config.token_price:
            kept, gains = self.walk([config.token_price], self.units)[0]
            if int(kept.sum()) <= budget:
                return config.token_price, kept, gains
        (more, more_gains), (kept, gains), high = self._around(self._sampled_price())
        while int(kept.sum()) > budget:
            high *= _STEEP_RATIO
            kept, gains = self.walk([high], self.units)[0]
        mixed = with_rest(kept.copy(), more, budget)
        return high, mixed, np.where((mixed == kept).all(axis=0), gains, more_gains)

    def _around(self, price: float) -> tuple[Kept, Kept, float]:
        """Return what two neighbouring prices keep, near a price, and the higher one of them: the
        lower keeps more than the budget and the higher does not, where few passes find such."""
        walked: list[Kept] = []
        prices: list[float] = []
        fit = 0
        for attempt in range(_MAX_PASSES):
            prices = [rounded(price * _WINDOWS_RATIO**power) for power in _WINDOWS_POWERS]
            walked = self.walk(prices, self.units)
            fit = first_fit([int(kept.sum()) for kept, _ in walked], self.budget)
            if 0 < fit < len(prices) or (fit == 0 and price <= self.least_price):
                break
            step = _WINDOWS_RATIO ** (2 << attempt)
            price = price * step if fit else max(price / step, self.least_price)
        chosen = min(fit, len(prices) - 1)
        return walked[max(fit - 1, 0)], walked[chosen], prices[chosen]

    def _sampled_price(self) -> float:
        """Return the price that some rows of the picture suggest, by two passes over them."""
        low, high = self.least_price, self._highest_sum()
        price = high
        for every, margin, steps in ((_FIRST_ROWS, 1.0, 8), (SAMPLED_ROWS, _SAMPLED_MARGIN, 6)):
            units = self.units.some_rows(every)
            target = self.budget * units.num_inside / self.units.num_inside
            prices = spread_prices(low / margin, high * margin, steps)
            counts = [int(kept.sum()) for kept, _ in self.walk(prices, units)]
            fit = min(first_fit(counts, target), len(prices) - 1)
            low, high = prices[max(fit - 1, 0)], prices[fit]
            price = price_between(prices, counts, target)
        return max(price, self.least_price)

    def _highest_sum(self) -> float:
        """Return the most that a cell can differ from something else in a window of slots."""
        most = level_distortion(_PEAK**2, self._measure)
        return most * WINDOW_SLOTS * float(self.weights.max())

    def walk(self, prices: Sequence[float], units: Units) -> list[tuple[Cells, Distances]]:
        """Solve all windows in turn, at several prices: per price kept and gains, (T, n) each."""
        carried: NDArray[np.intp] | None = None
        found: list[list[tuple[Cells, Distances]]] = [[] for _ in prices]
        for slots in window_starts(self.clip.num_slots):
            window = cell_window(self.clip, units, slots, self.config, carried=carried)
            if isinstance(self.clip, FollowedClip):
                # They take more memory than the distances that came of them.
                self.clip.forget()
            costs = self.segments(window, slots)
            shown: list[NDArray[np.intp]] = []
            for number, price in enumerate(prices):
                which = min(number, len(costs) - 1)
                kept = self.kept_at(costs[which], price)
                gains = self.gains(window, costs[which], kept, slots, which)
                found[number].append((kept, gains))
                before = None if carried is None else carried[which]
                shown.append(last_kept(kept, slots.start, before))
            carried = np.stack(shown)
            # The next window takes as much memory.
            del window, costs
        return [
            (np.concatenate([kept for kept, _ in parts]), np.concatenate([e for _, e in parts]))
            for parts in found
        ]

    def segments(self, window: Window, slots: slice | None = None) -> list[Spans]:
        """Return the costs of a window, for each of what was carried into it."""
        slots = slots or slice(0, window.between.shape[1])
        forced = [slot - slots.start for slot in self.forced if slots.start <= slot < slots.stop]
        keeping = np.zeros(window.between.shape[1], np.float32)
        for step, noise in zip(_PREFERRED_STEPS, self._measure.noise, strict=False):
            level = self.unit_price(level_distortion(noise, self._measure))
            keeping[np.arange(len(keeping)) % step > 0] = level
        costs = segments(
            self._weighted(window.between, slots),
            [self._weighted(before, slots) for before in window.before],
            self.config.direction,
            is_shown=window.is_shown,
            keeping=keeping,
        )
        for slot in forced:
            costs = [one.forced(slot) for one in costs]
        return costs
