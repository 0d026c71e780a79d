"""Confidence intervals and paired tests of per-sample scores; deterministic."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
FEWEST_GROUPS = 20
"""Videos (or samples) from which on a bootstrap over them covers about as often as it says."""
_DRAWS = 10_000
_CHUNK = 500


class Interval(NamedTuple):
    """A mean with its confidence interval.

    Attributes:
        mean: mean of all scores.
        low, high: ends of the interval; both None where there is none.
        method: how it was computed, or why there is none.
    """

    mean: float
    low: float | None
    high: float | None
    method: str


class Comparison(NamedTuple):
    """Two inputs compared on the same samples.

    Attributes:
        samples: number of samples that both answered.
        difference: mean of first minus second, with its interval.
        wins: samples where the first scores higher.
        losses: samples where the first scores lower; the rest are ties.
        p_value: two-sided, of no difference, by random changes of sign.
    """

    samples: int
    difference: Interval
    wins: int
    losses: int
    p_value: float


def confidence_interval(
    scores: Sequence[float], groups: Sequence[str] | None = None, seed: int = 0
) -> Interval:
    """Return the mean of scores and its 95 % interval: the one rule of all pages.

    Questions on one video are no independent samples, so what counts is the number of videos.

    1. From 20 videos on: a bootstrap that draws whole videos (percentiles of 10,000 draws).
    2. With fewer videos, or where all videos score the same so that a bootstrap would have no
       width, and scores of 0 and 1: the Wilson interval of as many samples as there are videos.
       It is too wide rather than too narrow where a video's questions are not all alike.
    3. Otherwise none, and ``method`` says why.

    Args:
        scores: one per sample.
        groups: what each sample belongs to, its video for example; None: every sample is its own.
        seed: seed of the draws.

    Raises:
        ValueError: There are no scores, or their number differs from that of the groups.
    """
    if not scores:
        raise ValueError("an interval needs at least one score, got none")
    values = np.asarray(scores, dtype=np.float64)
    interval = _resampled(values, groups, seed)
    count = len(values) if groups is None else len(set(groups))
    if interval.low is not None or count == 1 or not np.isin(values, (0.0, 1.0)).all():
        return interval
    low, high = _wilson(interval.mean, count)
    return Interval(interval.mean, low, high, f"Wilson, {count} {_noun(count, len(values))}")


def _resampled(values: NDArray[np.float64], groups: Sequence[str] | None, seed: int) -> Interval:
    """Return the bootstrap interval of a mean, or none where it would mislead."""
    totals, sizes = _by_group(values, groups)
    mean, count = float(values.mean()), len(totals)
    what = _noun(count, len(values))
    if count == 1:
        reason = "one sample" if len(values) == 1 else f"all {len(values)} samples share one video"
    elif np.ptp(totals / sizes) == 0:
        reason = f"the same on all {count} {what}"
    elif count < FEWEST_GROUPS:
        reason = f"only {count} {what}"
    else:
        low, high = _bootstrap(totals, sizes, seed)
        return Interval(mean, low, high, f"bootstrap, {count} {what}")
    return Interval(mean, None, None, f"none: {reason}")


def _noun(count: int, num_samples: int) -> str:
    """Return what the independent units are: samples, or videos with several samples each."""
    return "samples" if count == num_samples else "videos"


def _bootstrap(
    totals: NDArray[np.float64], sizes: NDArray[np.intp], seed: int
) -> tuple[float, float]:
    """Return the percentile interval of the mean over groups drawn with replacement."""
    generator = np.random.default_rng(seed)
    draws = (
        generator.integers(0, len(totals), (_CHUNK, len(totals))) for _ in range(_DRAWS // _CHUNK)
    )
    means = np.concatenate([totals[draw].sum(1) / sizes[draw].sum(1) for draw in draws])
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's score interval of a share of ``count`` independent samples."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # At shares of 0 and 1 one end is exact, which rounding would miss.
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def compare_paired(
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
        groups: groups of the samples; see ``confidence_interval``.
        seed: seed of the draws.

    Raises:
        ValueError: The lists have different lengths, or are empty.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"two lists of scores of the same samples are needed, got {len(first)} and "
            f"{len(second)}"
        )
    differences = np.subtract(first, second, dtype=np.float64)
    interval = _resampled(differences, groups, seed)
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
    """Return the sum and the size of every group."""
    if groups is None:
        return values, np.ones(len(values), dtype=np.intp)
    if len(groups) != len(values):
        raise ValueError(f"every sample needs a group, got {len(groups)} for {len(values)}")
    _, numbers = np.unique(np.asarray(groups), return_inverse=True)
    totals = np.bincount(numbers, weights=values).astype(np.float64)
    return totals, np.bincount(numbers)
