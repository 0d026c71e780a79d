"""Choosing cells as an encoder chooses what to code: keep what would be missed most.

A kept cell costs ``price``; a slot at which a cell shows something else than is there costs the
distortion of ``distances``. Per cell the least sum is found exactly (``shortest_path``); one price
for the whole clip makes the number of kept cells meet the budget or the quality asked for.

Up to 96 slots are solved at once. Longer clips are solved window by window, 64 slots each, what a
cell shows at the end of a window being carried into the next: memory does not grow with the number
of slots, and a live stream that works on windows makes the same choice.

Two encodings of the same pictures differ by their coding noise, and must be chosen alike. So a cell
must spare a little to be kept at all, some slots are preferred where a cell is shown about as well
(``Measure.noise``), and what is left of a budget then shows whole frames. ``mean`` does without: it
aims at PSNR, which counts every difference. Where clips need not have equally many mosaics, cells
that show nothing new fill none.

With ``block_cells`` 2 a unit is a block of 2 x 2 cells, otherwise it is a cell. Axis letters: T
slots, W slots of a window, n units of the picture, u units along a side of the square.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.config import EXACT_SLOTS, AssetConfig
from cv_reader.select.rate_distortion.clip import SmallClip
from cv_reader.select.rate_distortion.distances import Distances
from cv_reader.select.rate_distortion.prices import (
    LEAST_PRICE,
    bracketed,
    highest_price,
    with_rest,
)
from cv_reader.select.rate_distortion.shortest_path import best_choice
from cv_reader.select.rate_distortion.solver import SAMPLED_ROWS, Solver
from cv_reader.select.rate_distortion.windows import (
    Cells,
    Units,
    cell_window,
    last_kept,
)


@dataclass(frozen=True, kw_only=True)
class UnitChoice:
    """What a clip keeps.

    Attributes:
        kept: bool (T, u, u).
        gains: float32 (T, u, u), distortion that one more kept unit would spare: below 0 where
            holding it would show less; 0 outside the picture and where that is nothing new.
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
    solver = Solver(clip, units, weights.astype(np.float32), config)
    if not len(units.rows) or not len(units.columns):
        price, kept = config.token_price, np.zeros((clip.num_slots, 0), np.bool_)
        gains = np.zeros(kept.shape, np.float32)
    elif clip.num_slots > EXACT_SLOTS:
        price, kept, gains = solver.by_windows()
    else:
        price, kept, gains = solver.at_once()
    free = config.has_free_length
    if free or price <= solver.least_price > LEAST_PRICE:
        gains = np.zeros_like(gains)
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
    solver = Solver(clip, units, np.ones(clip.num_slots, np.float32), config)
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
        float64 (p,); of clips of more than 96 slots an estimate from a fifth of the rows.
    """
    units = Units.of(clip, config.block_cells)
    solver = Solver(clip, units, weights.astype(np.float32), config)
    if not units.num_inside:
        return np.full(len(prices), solver.images_for(0), np.float64)
    if clip.num_slots > EXACT_SLOTS:
        some = units.some_rows(SAMPLED_ROWS)
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
