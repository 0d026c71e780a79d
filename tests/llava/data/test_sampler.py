"""Plans of batches: complete, decided by seed and epoch, balanced, and found by number."""

import numpy as np
import pytest

from llava.data.sampler import RankBatches, Rows, packed_rows, single_rows


def _ranks(rows: Rows, world_size: int, **options: object) -> list[list[list[int]]]:
    """Per rank its batches of the second epoch."""
    ranks = []
    for rank in range(world_size):
        batches = RankBatches(rows, world_size=world_size, rank=rank, **options)
        batches.set_epoch(1)
        ranks.append(list(batches))
    return ranks


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("samples", [16, 19, 23])
def test_an_epoch_holds_every_sample_once_in_batches_of_all_ranks(
    world_size: int, balanced: bool, samples: int
) -> None:
    costs = np.random.randint(1, 100, samples) if balanced else None
    ranks = _ranks(single_rows(np.arange(samples)), world_size, batch_rows=2, costs=costs)
    steps = list(zip(*ranks, strict=True))
    seen = [sample for step in steps for batch in step for sample in batch]
    full = samples // (2 * world_size) * 2 * world_size
    assert all(len(batch) == 2 for step in steps[: full // (2 * world_size)] for batch in step)
    assert all(batch for batch in steps[-1])
    # Only ranks that would have had none get a sample again.
    assert set(seen) == set(range(samples))
    again = len(seen) - samples
    assert again == (max(0, world_size - (samples - full)) if samples > full else 0)


def test_more_ranks_with_smaller_batches_take_the_same_steps() -> None:
    rows = single_rows(np.arange(24))
    (alone,) = _ranks(rows, 1, batch_rows=4)
    one, two = _ranks(rows, 2, batch_rows=2)
    assert alone == [a + b for a, b in zip(one, two, strict=True)]


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    rows = single_rows(np.arange(64))
    orders = {
        (seed, epoch): tuple(RankBatches(rows, batch_rows=64, seed=seed).batch(epoch, 0))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    again = RankBatches(rows, batch_rows=64, seed=1)
    assert tuple(again.batch(1, 0)) == orders[1, 1] and tuple(again.batch(0, 0)) == orders[1, 0]


@pytest.mark.parametrize("skipped", [0, 3, 8])
def test_batches_that_are_skipped_are_not_made(
    skipped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = RankBatches(single_rows(np.arange(16)), batch_rows=2)
    expected, batch, made = list(batches), batches.batch, []
    batches.set_epoch(0, skipped)
    monkeypatch.setattr(batches, "batch", lambda *place: made.append(place[1]) or batch(*place))
    assert list(batches)[skipped:] == expected[skipped:]
    assert made == list(range(skipped, 8))
    batches.set_epoch(0)
    assert list(batches) == expected


def test_an_incomplete_step_can_be_dropped_and_none_at_all_is_refused() -> None:
    rows = single_rows(np.arange(7))
    assert len(RankBatches(rows, batch_rows=4, drop_last=True)) == 1
    with pytest.raises(ValueError, match="7 rows of data do not fill one step of 8"):
        RankBatches(rows, batch_rows=4, world_size=2, drop_last=True)


def _spread(costs: np.ndarray, ranks: list[list[list[int]]]) -> tuple[float, float]:
    """(padding per token, idle share of the ranks) of an epoch."""
    batches = np.array([[costs[batch] for batch in rank] for rank in ranks])
    padded = batches.max(-1) * batches.shape[-1]
    work = batches.sum(-1)
    return float(padded.sum() / batches.sum() - 1), float(
        1 - work.mean(0).sum() / work.max(0).sum()
    )


def test_balanced_batches_waste_far_less_than_those_by_chance() -> None:
    costs = np.random.default_rng(0).lognormal(6, 1, 1024).astype(np.int64)
    rows = single_rows(np.arange(1024))
    by_chance = _spread(costs, _ranks(rows, 4, batch_rows=2))
    balanced = _spread(costs, _ranks(rows, 4, batch_rows=2, costs=costs))
    assert balanced[0] < by_chance[0] / 5 and balanced[1] < by_chance[1] / 5


def test_packs_hold_every_sample_once_and_overflow_never() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 1000)
    samples = np.flatnonzero(np.arange(1000) % 7)
    rows = packed_rows(samples, lengths, 512, seed=3)
    assert sorted(rows.samples.tolist()) == samples.tolist()
    assert rows.sums(lengths).max() <= 512
    assert rows.sums(lengths).mean() > 0.97 * 512
    assert np.array_equal(rows.samples, packed_rows(samples, lengths, 512, seed=3).samples)
    assert not np.array_equal(rows.samples, packed_rows(samples, lengths, 512, seed=4).samples)


def test_a_sample_above_the_limit_stays_alone() -> None:
    rows = packed_rows(np.arange(3), np.array([5, 900, 5]), 512, seed=0)
    assert sorted(rows.sums(np.array([5, 900, 5])).tolist()) == [10, 900]


def test_a_batch_of_packs_is_the_samples_of_its_rows() -> None:
    rows = Rows(np.array([5, 3, 8, 1]), np.array([0, 1, 3, 4]))
    assert rows.samples_of(np.array([1, 0])) == [3, 8, 5]
    assert sorted(RankBatches(rows, batch_rows=3).batch(0, 0)) == [1, 3, 5, 8]
