"""Scores of clips, from the predictions of all of them: each clip counts exactly once.

Axis letters: B clips, C classes, N probes.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Scores(NamedTuple):
    """What a probe reached, in percent.

    Attributes:
        top1: clips whose likeliest class is one of theirs.
        top5: clips with one of theirs among the five likeliest.
        mean_average_precision: mean over the classes that have a clip of the average precision;
            None where clips have one label.
        num_clips: clips counted.
    """

    top1: float
    top5: float
    mean_average_precision: float | None
    num_clips: int


def score_clips(predictions: Tensor, labels: Tensor, *, has_several_labels: bool) -> Scores:
    """Return the scores of predictions (B, C) against labels, bool (B, C)."""
    count = len(labels)
    ranked = predictions.argsort(dim=1, descending=True, stable=True)[:, :5]
    hits = labels.gather(1, ranked)
    precision = None
    if has_several_labels:
        precision = 100 * mean_average_precision(predictions.numpy(), labels.numpy())
    return Scores(
        100 * int(hits[:, 0].sum()) / count, 100 * int(hits.any(dim=1).sum()) / count,
        precision, count,
    )  # fmt: skip


def mean_average_precision(predictions: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the mean over classes of the average precision; classes without a clip do not count.

    A class's average precision is the mean, over its clips, of the share of its clips among all
    that are predicted at least as strongly.
    """
    found: list[float] = []
    for values, truth in zip(predictions.T, labels.T, strict=True):
        if not truth.any():
            continue
        order = np.argsort(-values, kind="stable")
        values, truth = values[order], truth[order]
        # Clips with equal predictions come together: all of them count as predicted so strongly.
        last = np.r_[np.nonzero(np.diff(values))[0], len(values) - 1]
        after = last[np.searchsorted(last, np.arange(len(values)))]
        precision = np.cumsum(truth)[after] / (after + 1)
        found.append(float(precision[truth].mean()))
    return float(np.mean(found)) if found else 0.0


def confusion(predictions: Tensor, labels: Tensor) -> NDArray[np.int64]:
    """Return how often each class is taken for each other, (C, C): row truth, column prediction.

    A clip of several labels counts for its first one that is not predicted, or as correct.
    """
    classes = labels.shape[1]
    best = predictions.argmax(dim=1)
    own = labels.to(torch.int8).argmax(dim=1)
    truth = torch.where(labels.gather(1, best[:, None])[:, 0], best, own)
    table = torch.bincount(truth * classes + best, minlength=classes**2)
    return table.view(classes, classes).numpy()


def per_class(predictions: Tensor, labels: Tensor) -> list[tuple[int, int]]:
    """Return for each class its correct clips and all of them, by the likeliest class."""
    best = predictions.argmax(dim=1)
    correct = labels.gather(1, best[:, None])[:, 0]
    return [
        (int((correct & labels[:, label]).sum()), int(labels[:, label].sum()))
        for label in range(labels.shape[1])
    ]
