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


def bootstrap_mean(scores: Sequence[float], seed: int = 0) -> Interval:
    """The mean and its percentile bootstrap interval: samples drawn anew, 10,000 times.

    Raises:
        ValueError: for no scores.
    """
    if not scores:
        raise ValueError("an interval needs at least one score, got none")
    values = np.asarray(scores, dtype=np.float64)
    generator = np.random.default_rng(seed)
    means: NDArray[np.float64] = np.concatenate(
        [
            values[generator.integers(0, len(values), (_CHUNK, len(values)))].mean(1)
            for _ in range(_DRAWS // _CHUNK)
        ]
    )
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def compare(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Comparison:
    """Compare two inputs sample by sample.

    The test changes the sign of every difference at random (10,000 times) and counts how often the
    mean is at least as far from zero as the one seen. For scores of 0 and 1 this is McNemar's test.

    Raises:
        ValueError: for lists of different lengths, or empty ones.
    """
    differences = np.subtract(first, second, dtype=np.float64)
    interval = bootstrap_mean(differences.tolist(), seed)
    changed = differences[differences != 0]
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
