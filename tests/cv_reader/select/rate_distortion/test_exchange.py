"""Exchanged slots: what comes again is kept once, and no exchange shows less."""

from itertools import combinations, permutations

import numpy as np
import pytest

from cv_reader.select.rate_distortion import exchange
from cv_reader.select.rate_distortion.exchange import exchanged

SLOTS = 8
NO_COST = np.zeros(SLOTS, np.float32)


def _alternating(values: list[int]) -> np.ndarray:
    """Return distances of a unit that shows so many kinds of pictures in turn: (1, W, W)."""
    kinds = np.array(values)
    return (10.0 * np.abs(kinds[:, None] - kinds))[None].astype(np.float32)


def _error(between: np.ndarray, before: np.ndarray, kept: np.ndarray) -> float:
    """Return what all slots show, by the definition: the best of all kept."""
    total = 0.0
    for unit in range(len(between)):
        slots = np.flatnonzero(kept[:, unit])
        shown = between[unit][slots].min(axis=0) if len(slots) else before[unit]
        total += float(shown.sum(dtype=np.float64))
    return total


def _random(seed: int, units: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distances, distances to grey and a choice at random, forced in slot 0."""
    generator = np.random.default_rng(seed)
    points = generator.integers(0, 9, (units, SLOTS, 2)).astype(np.float32)
    between = np.square(points[:, :, None] - points[:, None]).sum(axis=-1)
    kept = generator.random((SLOTS, units)) < 0.3
    kept[0] = True
    return between, np.full((units, SLOTS), 90, np.float32), kept


def _exchanged_alone(between: np.ndarray, kept: list[int]) -> list[int]:
    """Return the slots that a unit keeps in place of some, slot 0 forced."""
    start = np.isin(np.arange(SLOTS), kept)[:, None]
    before = np.full((1, SLOTS), 90, np.float32)
    found = exchanged(between, before, start, len(kept), keeping=NO_COST, forced=[0], least=1e-9)
    return np.flatnonzero(found[:, 0]).tolist()


def test_two_pictures_in_turn_are_kept_once_each() -> None:
    between = _alternating([0, 1, 0, 1, 0, 1, 0, 1])
    found = _exchanged_alone(between, list(range(7)))
    assert len(found) == 2
    assert found[0] == 0 and found[1] % 2 == 1


@pytest.mark.parametrize("seed", range(6))
def test_no_exchange_shows_less_or_more_than_the_budget(seed: int) -> None:
    between, before, kept = _random(seed)
    for budget in (int(kept.sum()), int(kept.sum()) + 7):
        found = exchanged(between, before, kept, budget, keeping=NO_COST, forced=[0], least=1e-9)
        assert found[0].all()
        assert found.sum() <= budget
        assert _error(between, before, found) < _error(between, before, kept)


def test_no_single_exchange_or_swap_is_left_that_spares_anything() -> None:
    between, before, kept = _random(7, units=4)
    found = exchanged(
        between, before, kept, int(kept.sum()), keeping=NO_COST, forced=[0], least=1e-9
    )
    reached = _error(between, before, found)
    places = [(slot, unit) for slot in range(1, SLOTS) for unit in range(4)]
    for first, second in combinations(places, 2):
        if found[first] == found[second]:
            continue
        other = found.copy()
        other[first], other[second] = ~other[first], ~other[second]
        assert _error(between, before, other) >= reached - 1e-4


def test_an_empty_unit_keeps_its_first_slot_only_if_that_spares_enough() -> None:
    between, before = _alternating([0, 0, 3, 3, 0, 0, 3, 3]), np.full((1, SLOTS), 20, np.float32)
    nothing = np.zeros((SLOTS, 1), bool)
    # Slot 0 spares 4 * 20 and costs 4 * 10 more than grey where the other picture shows.
    for least, expected in ((39.0, [0, 2]), (41.0, [])):
        found = exchanged(between, before, nothing, 8, keeping=NO_COST, forced=[], least=least)
        assert np.flatnonzero(found[:, 0]).tolist() == expected


def test_slots_that_cost_more_to_keep_are_left_for_others() -> None:
    between = _alternating([0, 0, 1, 1, 1, 1, 0, 0])
    keeping = np.array([0, 5, 5, 5, 0, 5, 5, 5], np.float32)
    found = exchanged(
        between,
        np.full((1, SLOTS), 90, np.float32),
        np.arange(SLOTS)[:, None] == 0,
        2,
        keeping=keeping,
        forced=[0],
        least=1.0,
    )
    assert np.flatnonzero(found[:, 0]).tolist() == [0, 4]


def _shown(between: np.ndarray, before: np.ndarray, unit: int, slots: np.ndarray) -> float:
    shown = between[unit][slots].min(axis=0) if slots.any() else before[unit]
    return float(shown.sum(dtype=np.float64))


def _slow(
    between: np.ndarray, before: np.ndarray, kept: np.ndarray, budget: int, keeping: np.ndarray
) -> np.ndarray:
    """Exchange and swap by the rule, until neither spares anything."""
    found, units = kept.copy(), range(len(between))
    while True:
        _exchange_by_rule(between, before, found, budget, keeping)
        rounds = 0
        while any([_swap_by_rule(between, before, found, keeping, unit) for unit in units]):
            rounds += 1
        if not rounds:
            return found


def _swap_by_rule(
    between: np.ndarray, before: np.ndarray, found: np.ndarray, keeping: np.ndarray, unit: int
) -> bool:
    """Make the best swap of a unit, slot 0 excepted, if it spares more than 0.5."""
    now, most, better = _shown(between, before, unit, found[:, unit]), 0.5, None
    for add, drop in permutations(range(SLOTS), 2):
        if drop and found[drop, unit] and not found[add, unit]:
            other = found[:, unit].copy()
            other[add], other[drop] = True, False
            spared = now - _shown(between, before, unit, other) - keeping[add] + keeping[drop]
            if spared > most:
                most, better = spared, other
    if better is not None:
        found[:, unit] = better
    return better is not None


def _exchange_by_rule(
    between: np.ndarray, before: np.ndarray, found: np.ndarray, budget: int, keeping: np.ndarray
) -> None:
    """Exchange slots; in each round everything is found out again from what is kept."""
    least = 0.5
    for _ in range(32):
        offers, losses = [], []
        for unit in range(len(between)):
            now = _shown(between, before, unit, found[:, unit])
            with_one = np.full(SLOTS, -np.inf)
            without = np.full(SLOTS, np.inf)
            for slot in range(SLOTS):
                other = found[:, unit].copy()
                other[slot] = not other[slot]
                after = _shown(between, before, unit, other)
                if not found[slot, unit]:
                    with_one[slot] = now - after - keeping[slot]
                elif slot and other.any():
                    without[slot] = after - now - keeping[slot]
            offers.append((-with_one.max(), unit, int(with_one.argmax())))
            losses.append((without.min(), unit, int(without.argmin())))
        offers, losses = sorted(offers), sorted(losses)
        useless = sum(loss < least for loss, *_ in losses)
        free = max(budget - int(found.sum()), 0)
        added = min(sum(-offer > least for offer, *_ in offers), free)
        pairs = sum(
            -offer[0] - loss[0] > least
            for offer, loss in zip(offers[added:], losses[useless:], strict=False)
        )
        if not added and not useless and not pairs:
            return
        for _, unit, slot in offers[: added + pairs]:
            found[slot, unit] = True
        for _, unit, slot in losses[: useless + pairs]:
            found[slot, unit] = False


def test_a_slot_that_is_missed_is_replaced_by_a_better_one() -> None:
    """Of the slot beside the first: dropped alone it is missed more than any other alone spares."""
    values = np.array([0, 6, 9, 9, 9, 10, 6, 0])
    between = np.square(values[:, None] - values)[None].astype(np.float32)
    best = min(range(1, SLOTS), key=lambda slot: np.minimum(between[0, 0], between[0, slot]).sum())
    assert _exchanged_alone(between, [0, 1]) == [0, best] != [0, 1]


@pytest.mark.parametrize("seed", range(4))
def test_what_changes_is_kept_up_to_date(seed: int) -> None:
    between, before, kept = _random(20 + seed, units=9)
    kept[:, :2] = False  # What was before is shown there.
    keeping = np.array([0, 2, 2, 2] * 2, np.float32)
    budget = int(kept.sum()) + seed
    found = exchanged(between, before, kept, budget, keeping=keeping, forced=[0], least=0.5)
    assert (found != kept).any()
    np.testing.assert_array_equal(found, _slow(between, before, kept, budget, keeping))


@pytest.mark.parametrize("slots", [3, 8, 61, 64, 96])
def test_the_kernel_sums_gains_as_numpy_does(slots: int) -> None:
    """To the bit, with values that no order of additions sums exactly."""
    kernel = pytest.importorskip("cv_reader_native.distances", reason="no native reader")
    if not hasattr(kernel, "sum_gains"):
        pytest.skip("a native reader of before")
    generator, count = np.random.default_rng(slots), 5
    between = generator.random((count, slots, slots), np.float32) ** 3
    best = generator.random((count, slots), np.float32)
    units, floors = np.array([4, 0, 2]), np.array([0, -np.inf, 0], np.float32)
    gains = np.full((count, slots), 7, np.float32)
    kernel.sum_gains(between, best, units.astype(np.int64), floors, gains, slots)
    expected = np.full_like(gains, 7)
    spared = np.maximum(best[units, None] - between[units], floors[:, None, None])
    expected[units] = spared.sum(axis=2)
    assert np.array_equal(gains, expected)
    for wrong in (np.array([5]), np.array([-1])):
        with pytest.raises(ValueError, match="fit together"):
            kernel.sum_gains(between, best, wrong, floors[:1], gains, slots)
    with pytest.raises(ValueError, match="fit together"):
        kernel.sum_gains(between, best[:4].copy(), units, floors, gains, slots)


@pytest.mark.parametrize("slots", [3, 8, 61, 96])
def test_the_kernel_finds_the_swaps_that_numpy_finds(
    slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, with values that no order of additions sums exactly."""
    kernel = pytest.importorskip("cv_reader_native.distances", reason="no native reader")
    if not hasattr(kernel, "best_swaps"):
        pytest.skip("a native reader of before")
    generator, count = np.random.default_rng(slots), 40
    between = generator.random((count, slots, slots), np.float32) ** 3
    kept = generator.random((count, slots)) < 0.4
    kept[3], kept[4] = False, True
    shown = exchange._Shown.of(between, np.full((count, slots), 9, np.float32), kept)
    units, keeping = np.arange(count)[::-2].copy(), generator.random(slots) / 8
    may_drop = np.arange(slots) != 1
    found = shown.best_swaps(units, keeping, may_drop)
    monkeypatch.setattr(exchange.distances, "native", None)
    for one, other in zip(found, shown.best_swaps(units, keeping, may_drop), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.isfinite(found[2]).any()
    tables = [between, shown.best, shown.second, shown.source, kept, units, keeping, may_drop]
    written = [np.zeros(len(units), np.int64), np.zeros(len(units), np.int64), found[2]]
    for place, wrong in ((3, shown.source + slots), (5, units + count), (6, keeping[1:].copy())):
        with pytest.raises(ValueError, match="fit together"):
            kernel.best_swaps(*tables[:place], wrong, *tables[place + 1 :], *written, slots)
