"""Dynamic programming against trying all subsets of slots."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from cv_reader.select.rate_distortion.shortest_path import HOLD, NEAREST, best_choice, segments

SLOTS, CELLS = 7, 4
PRICES = (0.0, 0.5, 3.0, 40.0)


def _subsets() -> Iterator[tuple[int, ...]]:
    for count in range(SLOTS + 1):
        yield from combinations(range(SLOTS), count)


def _turns(kept: tuple[int, ...]) -> set[tuple[int, int]]:
    """Neighbouring kept slots."""
    return set(zip(kept, kept[1:], strict=False))


def _shown(
    distortion: np.ndarray, before: Any, kept: tuple[int, ...], direction: str, is_shown: Any
) -> float:
    """Distortion of one cell that keeps some slots."""
    total = 0.0
    for slot in range(SLOTS):
        past, future = [s for s in kept if s <= slot], [s for s in kept if s > slot]
        options = [distortion[past[-1], slot]] if past else []
        if not past and (is_shown or direction == HOLD or not kept):
            options.append(before[slot])
        if direction == NEAREST and future:
            options.append(distortion[future[0], slot])
        total += min(options)
    return total


@pytest.fixture(scope="module")
def clip() -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(3)
    distortion = generator.integers(0, 50, (CELLS, SLOTS, SLOTS)).astype(np.float32)
    distortion[:, np.arange(SLOTS), np.arange(SLOTS)] = 0
    return distortion, generator.integers(0, 90, (CELLS, SLOTS)).astype(np.float32)


@pytest.mark.parametrize("direction", [HOLD, NEAREST])
@pytest.mark.parametrize("is_shown", [False, True])
@pytest.mark.parametrize("forced", [(), (0,), (0, 3)])
@pytest.mark.parametrize(("preferred", "least"), [(1, 0), (3, 12)])
def test_no_subset_of_slots_costs_less(
    clip: tuple[np.ndarray, ...],
    direction: str,
    is_shown: bool,
    forced: tuple[int, ...],
    preferred: int,
    least: int,
) -> None:
    distortion, before = clip
    keeping = np.where(np.arange(SLOTS) % preferred, np.float32(2), np.float32(0))
    costs = segments(distortion, [before], direction, is_shown=is_shown, keeping=keeping)[0]
    repeats = distortion < least
    repeats[:, :, list(forced)] = False
    for slot in forced:
        costs = costs.forced(slot)
    costs = costs.without(repeats)
    for price in PRICES:
        found = best_choice(costs, price)
        for cell in range(CELLS):
            best = min(
                _shown(distortion[cell], before[cell], kept, direction, is_shown)
                + price * len(kept)
                + sum(keeping[list(kept)])
                for kept in _subsets()
                if set(forced) <= set(kept)
                and not any(repeats[cell, s, e] for s, e in _turns(kept))
            )
            kept = tuple(np.flatnonzero(found.kept[:, cell]).tolist())
            assert set(forced) <= set(kept)
            shown = _shown(distortion[cell], before[cell], kept, direction, is_shown)
            assert not any(repeats[cell, s, e] for s, e in _turns(kept))
            paid = sum(keeping[list(kept)])
            assert shown + paid == found.distortion[cell]
            assert shown + paid + price * len(kept) == best
            assert len(kept) == found.counts[cell]


def test_a_higher_price_keeps_no_more(clip: tuple[np.ndarray, ...]) -> None:
    distortion, before = clip
    costs = segments(distortion, [before], NEAREST)[0]
    counts = [best_choice(costs, price, with_slots=False).counts.sum() for price in range(60)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_ways_that_were_carried_in_do_not_mix(clip: tuple[np.ndarray, ...]) -> None:
    distortion, before = clip
    both = segments(distortion, [before, before / 2], HOLD, is_shown=True)
    alone = segments(distortion, [before / 2], HOLD, is_shown=True)[0]
    np.testing.assert_array_equal(both[1].start, alone.start)
