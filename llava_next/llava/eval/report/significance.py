"""Confidence intervals and paired tests of per-sample scores; deterministic."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_DRAWS = 10_000
_CHUNK = 500


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Two inputs on the same samples.

    Attributes:
        samples: how many both answered.
        difference: mean of first minus second, with its interval.
        wins, losses: samples where the first scores higher, lower; the rest are ties.
        p_value: of no difference, two-sided, by random changes of sign.
    """

    samples: int
    difference: Interval
    wins: int
    losses: int
    p_value: float


def bootstrap_mean(
    scores: Sequence[float], groups: Sequence[str] | None = None, seed: int = 0
) -> Interval:
    """The mean and its percentile bootstrap interval, from 10,000 draws.

    Args:
        scores: one per sample.
        groups: what each sample belongs to (questions on one video are no independent samples):
            groups are drawn as wholes. None: every sample is one.
        seed: of the draws.

    Raises:
        ValueError: for no scores.
    """
    if not scores:
        raise ValueError("an interval needs at least one score, got none")
    totals, sizes = _by_group(np.asarray(scores, dtype=np.float64), groups)
    generator = np.random.default_rng(seed)
    draws = (
        generator.integers(0, len(totals), (_CHUNK, len(totals))) for _ in range(_DRAWS // _CHUNK)
    )
    means = np.concatenate([totals[draw].sum(1) / sizes[draw].sum(1) for draw in draws])
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(totals.sum() / sizes.sum()), float(low), float(high))


def compare(
    first: Sequence[float],
    second: Sequence[float],
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare two inputs sample by sample.

    The test changes the sign of every group's difference at random (10,000 times) and counts how
    often the mean is at least as far from zero as the one seen. For single samples with scores of
    0 and 1 this is McNemar's test.

    Args:
        first, second: scores of the same samples.
        groups: as in ``bootstrap_mean``.
        seed: of the draws.

    Raises:
        ValueError: for lists of different lengths, or empty ones.
    """
    differences = np.subtract(first, second, dtype=np.float64)
    interval = bootstrap_mean(differences.tolist(), groups, seed)
    totals, _ = _by_group(differences, groups)
    changed = totals[totals != 0]
    generator = np.random.default_rng(seed)
    seen, extreme = abs(changed.sum()), 0
    for _ in range(_DRAWS // _CHUNK):
        signs = generator.integers(0, 2, (_CHUNK, len(changed))) * 2 - 1
        extreme += int((abs(signs @ changed) >= seen - 1e-9).sum())
    return Comparison(
        samples=len(differences),
        difference=interval,
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        p_value=(extreme + 1) / (_DRAWS + 1),
    )


def _by_group(
    values: NDArray[np.float64], groups: Sequence[str] | None
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Sum and size of every group."""
    if groups is None:
        return values, np.ones(len(values), dtype=np.intp)
    if len(groups) != len(values):
        raise ValueError(f"every sample needs a group, got {len(groups)} for {len(values)}")
    _, numbers = np.unique(np.asarray(groups), return_inverse=True)
    totals = np.bincount(numbers, weights=values).astype(np.float64)
    return totals, np.bincount(numbers)
