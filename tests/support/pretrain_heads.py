"""A small problem of cluster discrimination, and what ranks compute of it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from encoder_training.pretrain.objective import CentreHead, Objective

CENTRES, WIDTH, LABELS = 23, 6, 3


def tiny_problem(rows: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    centres = torch.randn(CENTRES, WIDTH, generator=generator, dtype=torch.float64)
    features = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64)
    labels = torch.stack(
        [torch.randperm(CENTRES, generator=generator)[:LABELS] for _ in range(rows)]
    )
    features[0] = centres[labels[0, 1]] + 0.1 * features[0]  # above the filter
    return features, labels, centres


def tiny_objective(**changes: Any) -> Objective:
    return Objective(**{"sample_rate": 1.0, "labels_per_step": LABELS, **changes})


def tiny_head(centres: Tensor, objective: Objective) -> CentreHead:
    head = CentreHead("image", len(centres), centres.shape[1], objective).to(centres.dtype)
    with torch.no_grad():
        head.centres.copy_(centres[head.first : head.end])
    return head


def sharded_gradients(rank: int, counts: list[int], objective: Objective) -> tuple[float, Any, Any]:
    features, labels, centres = tiny_problem()
    start = sum(counts[:rank])
    own = features[start : start + counts[rank]].clone().requires_grad_()
    head = tiny_head(centres, objective)
    loss = head(own, labels[start : start + counts[rank]], counts)
    loss.own_part.backward()
    assert own.grad is not None and head.centres.grad is not None
    return float(loss.value), own.grad.numpy(), head.centres.grad.numpy()


def sampled_centres(rank: int) -> tuple[float, int, list[int]]:
    features, labels, centres = tiny_problem(8)
    head = tiny_head(centres, tiny_objective(sample_rate=0.4))
    own = features[4 * rank : 4 * rank + 4].requires_grad_()
    loss = head(own, labels[4 * rank : 4 * rank + 4], [4, 4], step=3)
    loss.own_part.backward()
    assert head.centres.grad is not None
    used = head.centres.grad.abs().sum(dim=1).nonzero()[:, 0] + head.first
    return float(loss.value), head.end - head.first, used.tolist()


def full_softmax(
    features: Tensor,
    labels: Tensor,
    centres: Tensor,
    *,
    arcface: bool = False,
    margin: float = 0.3,
    scale: float = 64.0,
    filter_above: float = 0.75,
) -> Tensor:
    """Return the mean cross-entropy against all centres, over rows and labels entry by entry."""
    losses = []
    for feature, row in zip(features, labels, strict=True):
        cosines = centres @ feature / (centres.norm(dim=1) * feature.norm())
        for label in row.tolist():
            logits = torch.where(cosines > filter_above, 0.0, cosines) * scale
            if arcface:
                target = torch.cos(torch.arccos(cosines[label]) + margin) * scale
            else:
                target = (cosines[label] - margin) * scale
            logits = torch.cat((target[None], logits[:label], logits[label + 1 :]))
            losses.append(torch.logsumexp(logits, 0) - target)
    return torch.stack(losses).mean()


def assert_equal_to_the_full_softmax(answers: list[tuple[float, np.ndarray, np.ndarray]]) -> None:
    """Compare loss and gradients of all ranks with those of the full softmax."""
    features, labels, centres = tiny_problem()
    features.requires_grad_()
    centres.requires_grad_()
    expected = full_softmax(features, labels, centres)
    expected.backward()
    expected = expected.detach()
    assert features.grad is not None and centres.grad is not None

    assert [value for value, _, _ in answers] == pytest.approx(
        [float(expected)] * len(answers), abs=1e-10
    )
    gradient = np.concatenate([rows for _, rows, _ in answers])
    assert np.abs(gradient - features.grad.numpy()).max() < 1e-10
    gradient = np.concatenate([rows for _, _, rows in answers])
    assert np.abs(gradient - centres.grad.numpy()).max() < 1e-10
