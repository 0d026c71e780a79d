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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.config import EXACT_SLOTS, AssetConfig
from cv_reader.select.rate_distortion.clip import SmallClip
from cv_reader.select.rate_distortion.distances import MEASURES, Distances
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
_PRICE_RATIO = 1.001
_LEAST_PRICE = 1e-9
_PRICE_STEPS = 12
_SAMPLED_RATIO = 1.01
_WINDOWS_RATIO, _STEEP_RATIO = 1.05, 1.5
_MAX_PASSES = 6
_SAMPLED_ROWS = 4
"""Every so many rows of units show what a price keeps of a long clip."""


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
        price: of a cell, in units of distortion; higher than asked for where the budget forced it.
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
        lower, price = _bracketed(
            lambda at: int(solver.kept_at(costs, at).sum()) <= most, _highest_price(costs), price
        )
        kept = _with_rest(solver.kept_at(costs, price), solver.kept_at(costs, lower), most)
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
        highest = _highest_price(costs)

        def count(price: float) -> int:
            found = best_choice(costs, self.unit_price(price), with_slots=False)
            return int(found.counts.sum())

        def kept_at(price: float) -> Cells:
            return self.kept_at(costs, price)

        price, budget = config.token_price, self.budget
        if config.quality_db:
            plain = cell_window(self.clip, self.units, everything, config, measure=MEASURES["mean"])
            price = _bracketed(lambda at: self._misses(plain, kept_at(at)), highest)[0]
        if config.has_free_length:
            # Mosaics come whole: the last one is filled as a lower price would fill it.
            budget = self.images_for(count(price)) * self.units.side**2 - self.outside
        lower, fitting = _bracketed(lambda at: count(at) <= budget, highest)
        kept = _with_rest(kept_at(fitting), kept_at(lower), budget)
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

        Two prices close to each other are solved together. Some units take the lower one, so that
        the budget is spent although one price for all would leave a part of it.
        """
        budget, config = self.budget, self.config
        if config.token_price:
            kept, gains = self.walk([config.token_price], self.units)[0]
            if int(kept.sum()) <= budget:
                return config.token_price, kept, gains
        high = self._sampled_price()
        low = high / _WINDOWS_RATIO
        (more, more_gains), (kept, gains) = self.walk([low, high], self.units)
        for _ in range(_MAX_PASSES):
            if int(kept.sum()) > budget:
                low, high = high, high * _WINDOWS_RATIO**2
            elif int(more.sum()) < budget:
                low, high = low / _WINDOWS_RATIO**2, low
            else:
                break
            (more, more_gains), (kept, gains) = self.walk([low, high], self.units)
        while int(kept.sum()) > budget:
            high *= _STEEP_RATIO
            kept, gains = self.walk([high], self.units)[0]
        mixed = _with_rest(kept.copy(), more, budget)
        return high, mixed, np.where((mixed == kept).all(axis=0), gains, more_gains)

    def _sampled_price(self) -> float:
        """Return the price that some rows of the picture suggest, by two passes over them."""
        units = self.units.some_rows(_SAMPLED_ROWS)
        share = units.num_inside / self.units.num_inside
        first = cell_window(self.clip, units, slice(0, 2), self.config)
        highest = _highest_price(self.segments(first)[0]) * WINDOW_SLOTS
        low, high = _LEAST_PRICE, highest
        for _ in range(3):
            prices = [
                low * (high / low) ** (step / _PRICE_STEPS) for step in range(_PRICE_STEPS + 1)
            ]
            counts = [int(kept.sum()) for kept, _ in self.walk(prices, units)]
            fits = [number for number, count in enumerate(counts) if count <= share * self.budget]
            first_fit = fits[0] if fits else _PRICE_STEPS
            low, high = prices[max(first_fit - 1, 0)], prices[first_fit]
            if high <= low * _SAMPLED_RATIO:
                break
        return high

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


def _highest_price(costs: Spans) -> float:
    """Return a price at which nothing is kept that need not be."""
    start = np.where(np.isfinite(costs.start), costs.start, 0).max()
    after = np.where(np.isfinite(costs.after[0]), costs.after[0], 0).max()
    return float(max(start, after)) + 1.0


def _bracketed(
    is_enough: Callable[[float], bool], highest: float, lowest: float = _LEAST_PRICE
) -> tuple[float, float]:
    """Find where a price becomes enough: the last that is not (or is the least) and the first."""
    low, high = lowest, max(lowest, highest)
    if is_enough(low):
        return low, low
    while high > low * _PRICE_RATIO:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return low, high


def _with_rest(kept: Cells, more: Cells, budget: int) -> Cells:
    """Spend what is left of a budget on units of which a slightly lower price keeps more."""
    extra = more.sum(axis=0) - kept.sum(axis=0)
    rest = budget - int(kept.sum())
    for unit in np.flatnonzero(extra > 0).tolist():
        if extra[unit] <= rest:
            kept[:, unit] = more[:, unit]
            rest -= int(extra[unit])
    return kept
