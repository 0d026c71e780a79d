"""Choosing cells as an encoder chooses what to code: keep what would be missed most.

A kept cell costs ``price``; a slot at which a cell shows something else than is there costs the
distortion of ``distances``. Per cell the least sum is found exactly (``shortest_path``); one price
for the whole clip makes the number of kept cells meet the budget or the quality asked for.

Up to 96 slots are solved at once. Longer clips are solved window by window, 64 slots each, what a
cell shows at the end of a window being carried into the next: memory does not grow with the number
of slots, and a live stream that works on windows makes the same choice.

With ``block_cells`` 2 a unit is a block of 2 x 2 cells, otherwise it is a cell. Axis letters: T
slots, W slots of a window, n units of the picture, u units along a side of the square.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.config import EXACT_SLOTS, AssetConfig
from cv_reader.select.rate_distortion.clip import CELL_WEIGHT, SmallClip
from cv_reader.select.rate_distortion.distances import MEASURES, Distances, distortions
from cv_reader.select.rate_distortion.prices import (
    LEAST_PRICE,
    bracketed,
    first_fit,
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
_MAX_DB = 100.0
_STEEP_RATIO = 1.5
_WINDOWS_RATIO, _WINDOWS_POWERS = 1.25, (-1.0, -1 / 3, 1 / 3, 1.0)
"""Prices of long clips that are solved together, around the one that is expected."""

_MAX_PASSES = 4
_FIRST_ROWS, _SAMPLED_ROWS = 16, 4
"""Every so many rows of units show what a price keeps of a long clip."""

_SAMPLED_MARGIN = 4.0
"""How far the price of more rows may be from where few rows suggest it."""


_Kept = tuple[Cells, Distances]


@dataclass(frozen=True, kw_only=True)
class UnitChoice:
    """What a clip keeps.

    Attributes:
        kept: bool (T, u, u).
        gains: float32 (T, u, u), distortion that one more kept unit would spare: below 0 where
            holding it would show less; 0 outside the picture.
        price: price of a cell, in units of distortion.
        num_images: mosaics that the kept units need, or all of the budget.
    """

    kept: Cells
    gains: Distances
    price: float
    num_images: int


def choose_units(clip: SmallClip, weights: NDArray[np.intp], config: AssetConfig) -> UnitChoice:
    """Choose the units of a clip that are kept, within the budget.

    Args:
        clip: one picture per distinct slot.
        weights: (T,), how many slots each picture represents.
        config: budget, measure, prediction, direction, forced slots.

    Returns:
        At most as many units as the budget allows; what is left of it is the caller's to fill.
    """
    units = Units.of(clip, config.block_cells)
    solver = _Solver(clip, units, weights.astype(np.float32), config)
    if not len(units.rows) or not len(units.columns):
        price, kept = config.token_price, np.zeros((clip.num_slots, 0), np.bool_)
        gains = np.zeros(kept.shape, np.float32)
    elif clip.num_slots > EXACT_SLOTS:
        price, kept, gains = solver.by_windows()
    else:
        price, kept, gains = solver.at_once()
    free = config.has_free_length
    return UnitChoice(
        kept=units.spread(kept),
        gains=units.spread(gains),
        price=price,
        num_images=solver.images_for(int(kept.sum())) if free else config.num_images,
    )


@dataclass(frozen=True, kw_only=True)
class WindowChoice:
    """What a window of a stream keeps.

    Attributes:
        kept: bool (W, u, u).
        shown: intp (n,), slots of the clip that the units show when the window ends; -1 for none.
        price: price of a cell, in units of distortion; above the one asked for where the budget
            forced it.
        num_wanted: units that the price asked for would keep.
    """

    kept: Cells
    shown: NDArray[np.intp]
    price: float
    num_wanted: int


def choose_window(
    clip: SmallClip,
    slots: slice,
    config: AssetConfig,
    *,
    carried: NDArray[np.intp] | None = None,
    most: int,
) -> WindowChoice:
    """Choose the units that a window keeps, by the step that ``choose_units`` takes for each window
    of a clip of many slots.

    Args:
        clip: the pictures of the window, and those that units still show.
        slots: the window.
        config: price, measure, prediction, direction, forced slots (numbers in ``clip``).
        carried: intp (n,), slots of the clip that the units show when it begins; None = grey.
        most: units that may be kept; the price is raised until no more are. At least those of the
            forced slots.
    """
    units = Units.of(clip, config.block_cells)
    solver = _Solver(clip, units, np.ones(clip.num_slots, np.float32), config)
    if not units.num_inside:
        nothing = np.zeros((slots.stop - slots.start, units.side, units.side), np.bool_)
        shown = np.zeros(0, np.intp)
        return WindowChoice(kept=nothing, shown=shown, price=config.token_price, num_wanted=0)
    before = None if carried is None else carried[None]
    costs = solver.segments(cell_window(clip, units, slots, config, carried=before), slots)[0]
    price = config.token_price
    kept = solver.kept_at(costs, price)
    wanted = int(kept.sum())
    if wanted > most:
        lower, price = bracketed(
            lambda at: int(solver.kept_at(costs, at).sum()) <= most, highest_price(costs), price
        )
        kept = with_rest(solver.kept_at(costs, price), solver.kept_at(costs, lower), most)
    shown = last_kept(kept, slots.start, carried)
    return WindowChoice(kept=units.spread(kept), shown=shown, price=price, num_wanted=wanted)


def mosaics_needed(
    clip: SmallClip,
    weights: NDArray[np.intp],
    config: AssetConfig,
    prices: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return how many mosaics a clip needs at each price, at most ``num_images``.

    Args:
        clip, weights, config: as for ``choose_units``.
        prices: float64 (p,), of a cell.

    Returns:
        float64 (p,); of clips of more than 96 slots an estimate from a quarter of the rows.
    """
    units = Units.of(clip, config.block_cells)
    solver = _Solver(clip, units, weights.astype(np.float32), config)
    if not units.num_inside:
        return np.full(len(prices), solver.images_for(0), np.float64)
    if clip.num_slots > EXACT_SLOTS:
        some = units.some_rows(_SAMPLED_ROWS)
        walked = solver.walk(prices.tolist(), some)
        counts = [int(kept.sum()) * units.num_inside // some.num_inside for kept, _ in walked]
    else:
        window = cell_window(clip, units, slice(0, clip.num_slots), config)
        costs = solver.segments(window)[0]
        found = (
            best_choice(costs, solver.unit_price(p), with_slots=False) for p in prices.tolist()
        )
        counts = [int(one.counts.sum()) for one in found]
    return np.array([solver.images_for(count) for count in counts], np.float64)


def decibels(mean_squared_error: float) -> float:
    """Return the peak signal-to-noise ratio of samples in 0..255; at most 100 dB."""
    if mean_squared_error <= 0:
        return _MAX_DB
    return min(_MAX_DB, 10 * math.log10(_PEAK**2 / mean_squared_error))


@dataclass(frozen=True)
class _Solver:
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
        """Return the slots whose units are all kept."""
        whole = [slot for slot in self.config.full_slots if slot < self.clip.num_slots]
        return sorted({*whole, *([0] if self.config.keep_uniform_first else [])})

    @property
    def outside(self) -> int:
        """Return how many units outside the picture are kept with whole slots."""
        return len(self.config.full_slots) * self.units.num_outside

    @property
    def budget(self) -> int:
        """Return how many units of the picture may be kept."""
        return self.config.num_images * self.units.side**2 - self.outside

    def images_for(self, count: int) -> int:
        """Return how many mosaics so many units of the picture need."""
        wanted = math.ceil((count + self.outside) / self.units.side**2)
        return max(1, len(self.config.full_slots), min(wanted, self.config.num_images))

    def unit_price(self, price: float) -> float:
        """Return the price of a unit where one cell costs ``price``."""
        return price * self.config.block_cells**2

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
        highest = highest_price(costs)

        def count(price: float) -> int:
            found = best_choice(costs, self.unit_price(price), with_slots=False)
            return int(found.counts.sum())

        def kept_at(price: float) -> Cells:
            return self.kept_at(costs, price)

        price, budget = config.token_price, self.budget
        if config.quality_db:
            plain = cell_window(self.clip, self.units, everything, config, measure=MEASURES["mean"])
            price = bracketed(lambda at: self._misses(plain, kept_at(at)), highest)[0]
        if config.has_free_length:
            # Mosaics come whole: the last one is filled as a lower price would fill it.
            budget = self.images_for(count(price)) * self.units.side**2 - self.outside
        lower, fitting = bracketed(lambda at: count(at) <= budget, highest)
        kept = with_rest(kept_at(fitting), kept_at(lower), budget)
        gains = self.gains(window, costs, kept)
        return (max(price, fitting) if config.has_free_length else fitting), kept, gains

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

    def _around(self, price: float) -> tuple[_Kept, _Kept, float]:
        """Return what two neighbouring prices keep, near a price, and the higher one of them: the
        lower keeps more than the budget and the higher does not, where few passes find such."""
        walked: list[_Kept] = []
        prices: list[float] = []
        fit = 0
        for attempt in range(_MAX_PASSES):
            prices = [rounded(price * _WINDOWS_RATIO**power) for power in _WINDOWS_POWERS]
            walked = self.walk(prices, self.units)
            fit = first_fit([int(kept.sum()) for kept, _ in walked], self.budget)
            if 0 < fit < len(prices) or (fit == 0 and price <= LEAST_PRICE):
                break
            step = _WINDOWS_RATIO ** (2 << attempt)
            price = price * step if fit else max(price / step, LEAST_PRICE)
        chosen = min(fit, len(prices) - 1)
        return walked[max(fit - 1, 0)], walked[chosen], prices[chosen]

    def _sampled_price(self) -> float:
        """Return the price that some rows of the picture suggest, by two passes over them."""
        low, high = LEAST_PRICE, self._highest_sum()
        price = high
        for every, margin in ((_FIRST_ROWS, 1.0), (_SAMPLED_ROWS, _SAMPLED_MARGIN)):
            units = self.units.some_rows(every)
            target = self.budget * units.num_inside / self.units.num_inside
            prices = spread_prices(low / margin, high * margin)
            counts = [int(kept.sum()) for kept, _ in self.walk(prices, units)]
            fit = min(first_fit(counts, target), len(prices) - 1)
            low, high = prices[max(fit - 1, 0)], prices[fit]
            price = price_between(prices, counts, target)
        return max(price, LEAST_PRICE)

    def _highest_sum(self) -> float:
        """Return the most that a cell can differ from something else in a window of slots."""
        measure = MEASURES[self.config.distortion]
        squares = np.full((measure.parts**2, 1, 1), _PEAK**2 * CELL_WEIGHT / measure.parts**2)
        most = distortions(squares.astype(np.float32), measure)
        return float(most[0, 0, 0]) * WINDOW_SLOTS * float(self.weights.max())

    def walk(self, prices: Sequence[float], units: Units) -> list[tuple[Cells, Distances]]:
        """Solve all windows in turn, at several prices: per price kept and gains, (T, n) each."""
        carried: NDArray[np.intp] | None = None
        found: list[list[tuple[Cells, Distances]]] = [[] for _ in prices]
        for slots in window_starts(self.clip.num_slots):
            window = cell_window(self.clip, units, slots, self.config, carried=carried)
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
        return [
            (np.concatenate([kept for kept, _ in parts]), np.concatenate([e for _, e in parts]))
            for parts in found
        ]

    def segments(self, window: Window, slots: slice | None = None) -> list[Spans]:
        """Return the costs of a window, for each of what was carried into it."""
        slots = slots or slice(0, window.between.shape[1])
        weights = self.weights[slots]
        between = window.between * weights
        forced = [slot - slots.start for slot in self.forced if slots.start <= slot < slots.stop]
        costs = segments(
            between,
            [before * weights for before in window.before],
            self.config.direction,
            is_shown=window.is_shown,
        )
        for slot in forced:
            costs = [one.forced(slot) for one in costs]
        return costs
