"""The sharded loss against a full softmax written out in float64."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from encoder_training.pretrain.objective import (
    Objective,
    draw_labels,
    generator_for,
    initial_centres,
    shard_bounds,
)
from support.pretrain_heads import (
    CENTRES,
    LABELS,
    assert_equal_to_the_full_softmax,
    full_softmax,
    sharded_gradients,
    tiny_head,
    tiny_objective,
    tiny_problem,
)


def test_loss_and_gradients_equal_the_full_softmax() -> None:
    assert_equal_to_the_full_softmax([sharded_gradients(0, [7], tiny_objective())])


def test_the_margin_table() -> None:
    row = torch.tensor([0.9, 0.8, 0.5, -0.2], dtype=torch.float64)
    objective = Objective()
    assert objective.target_logits(row)[0].item() == pytest.approx(38.4)
    assert objective.other_logits(row)[1:].tolist() == pytest.approx([0, 32, -12.8])


def test_arcface_equals_its_definition() -> None:
    features, labels, centres = tiny_problem()
    value, _, _ = sharded_gradients(0, [7], tiny_objective(margin_kind="arcface"))
    expected = full_softmax(features, labels, centres, arcface=True)
    assert value == pytest.approx(float(expected), abs=1e-10)


def test_the_gradient_is_that_of_the_loss_unless_the_reference_scale_is_asked_for() -> None:
    plain = sharded_gradients(0, [7], tiny_objective())
    scaled = sharded_gradients(0, [7], tiny_objective(reference_gradient_scale=True))
    assert scaled[0] == plain[0]
    assert np.abs(scaled[1] - LABELS * plain[1]).max() < 1e-12
    assert np.abs(scaled[2] - LABELS * plain[2]).max() < 1e-12


def test_the_order_of_labels_and_of_centres_does_not_matter() -> None:
    features, labels, centres = tiny_problem()
    order = torch.randperm(CENTRES)
    place = order.argsort()
    first = tiny_head(centres, tiny_objective())(features, labels, [7]).value
    columns = tiny_head(centres, tiny_objective())(features, labels.flip(1), [7]).value
    renamed = tiny_head(centres[order], tiny_objective())(features, place[labels], [7]).value
    assert float(columns) == pytest.approx(float(first), abs=1e-12)
    assert float(renamed) == pytest.approx(float(first), abs=1e-12)


def test_a_label_that_is_given_twice_counts_once_among_the_others() -> None:
    features, labels, centres = tiny_problem()
    labels[:, 2] = labels[:, 0]
    value = tiny_head(centres, tiny_objective())(features, labels, [7]).value
    expected = full_softmax(features, labels, centres)
    assert float(value) == pytest.approx(float(expected), abs=1e-10)


def _expected_sampled_loss(features: Tensor, labels: Tensor, centres: Tensor, quota: int) -> float:
    """Mean over every equally likely column of labels, and sample of its centres."""
    means = []
    for column in map(torch.tensor, itertools.product(*labels.tolist())):
        positives = sorted(set(column.tolist()))
        free = [number for number in range(len(centres)) if number not in positives]
        losses = []
        for chosen in itertools.combinations(free, max(quota - len(positives), 0)):
            kept = torch.tensor(sorted([*positives, *chosen]))
            renamed = torch.searchsorted(kept, column)[:, None]
            losses.append(float(full_softmax(features, renamed, centres[kept])))
        means.append(sum(losses) / len(losses))
    return sum(means) / len(means)


def test_sampling_has_the_expectation_of_uniform_samples() -> None:
    features, _, centres = tiny_problem()
    features, centres = features[:2], centres[:9]
    labels = torch.tensor([[0, 4, 8], [2, 4, 1]])
    head = tiny_head(centres, tiny_objective(sample_rate=0.56))  # 5 of 9 centres
    values = [float(head(features, labels, [2], step=step).value) for step in range(400)]
    expected = _expected_sampled_loss(features, labels, centres, 5)
    error = float(np.std(values)) / len(values) ** 0.5
    assert abs(float(np.mean(values)) - expected) < 4 * error
    assert error < 0.1 * expected


def test_a_column_with_more_positives_than_its_quota_has_these_alone() -> None:
    features, labels, centres = tiny_problem()
    head = tiny_head(centres, tiny_objective(sample_rate=0.05, labels_per_step=1))
    value = float(head(features, labels[:, :1], [7]).value)
    kept, renamed = labels[:, 0].unique(return_inverse=True)
    expected = full_softmax(features, renamed[:, None], centres[kept])
    assert value == pytest.approx(float(expected), abs=1e-10)


def test_large_and_small_logits_stay_finite_in_float32() -> None:
    features = torch.eye(2, 4).requires_grad_()
    centres = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0.7, 0.7, 0, 0]])
    head = tiny_head(centres, tiny_objective(labels_per_step=2))
    loss = head(features, torch.tensor([[1, 2], [3, 0]]), [2])
    loss.own_part.backward()
    assert features.grad is not None and features.grad.isfinite().all()
    expected = full_softmax(
        features.detach().double(), torch.tensor([[1, 2], [3, 0]]), centres.double()
    )
    assert float(loss.value) == pytest.approx(float(expected), rel=1e-5)


def test_labels_outside_the_bank_are_named() -> None:
    features, labels, centres = tiny_problem()
    labels[3, 1] = CENTRES
    with pytest.raises(ValueError, match=r"head image must be in \[0, 23\), .* to 23"):
        tiny_head(centres, tiny_objective())(features, labels, [7])
    with pytest.raises(ValueError, match="at least --labels_per_step 8 labels, got 3"):
        draw_labels(labels, 8, generator_for(torch.device("cpu"), 0))


def test_drawn_labels_are_different_ones_of_the_sample() -> None:
    labels = torch.arange(40).view(4, 10)
    drawn = draw_labels(labels, 8, generator_for(torch.device("cpu"), 1, "labels"))
    for row, all_labels in zip(drawn.tolist(), labels.tolist(), strict=True):
        assert len(set(row)) == 8 and set(row) <= set(all_labels)


def test_shards_cover_the_bank_and_start_alike_on_any_number_of_ranks() -> None:
    whole = initial_centres("video", 0, 9000, 2, 3)
    for size in (1, 2, 4):
        bounds = [shard_bounds(9000, rank, size) for rank in range(size)]
        parts = [initial_centres("video", *pair, 2, 3) for pair in bounds]
        assert torch.equal(torch.cat(parts), whole)
    assert shard_bounds(7, 2, 4) == (4, 6) and shard_bounds(7, 3, 4) == (6, 7)
    assert whole.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("changes", [{"sample_rate": 0.0}, {"labels_per_step": 0}])
def test_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        Objective(**changes)


def _accuracy(sample_rate: float) -> float:
    """Train a linear map against the centres of 200 concepts; judge it on other rows of them."""
    generator = torch.Generator().manual_seed(1)
    middles = torch.randn(200, 24, generator=generator)
    head = tiny_head(
        torch.randn(200, 16, generator=generator) * 0.01,
        Objective(sample_rate=sample_rate, labels_per_step=1, scale=16.0, margin=0.0),
    )
    weight = torch.nn.Parameter(torch.randn(24, 16, generator=generator) * 0.1)
    optimizer = torch.optim.Adam([weight, head.centres], lr=0.02)

    def draw() -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 200, (256,), generator=generator)
        return middles[labels] + 0.3 * torch.randn(256, 24, generator=generator), labels

    for step in range(120):
        rows, labels = draw()
        head(rows @ weight, labels[:, None], [256], step=step).own_part.backward()
        optimizer.step()
        optimizer.zero_grad()
    rows, labels = draw()
    cosines = (rows @ weight) @ torch.nn.functional.normalize(head.centres).T
    return float((cosines.argmax(dim=1) == labels).float().mean())


@pytest.mark.slow
def test_sampled_centres_teach_as_much_as_all() -> None:
    assert _accuracy(0.1) > _accuracy(1.0) - 0.03 > 0.85
