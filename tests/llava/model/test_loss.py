"""The chunked loss equals the library's, in value and in gradients."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from llava.constants import IGNORE_INDEX
from llava.model import loss as loss_module
from llava.model.loss import LanguageHead
from llava.model.tiny import tiny_model, tiny_tokenizer


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("rows", [3, 7, 512])
def test_loss_and_gradients_do_not_depend_on_the_chunks(
    rows: int, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_ROWS", rows)
    head = LanguageHead(6, 11, bias=False)
    head.label_smoothing = smoothing
    hidden, targets = torch.randn(7, 6, requires_grad=True), torch.randint(0, 11, (7,))
    loss, losses = head(hidden, targets, torch.tensor(5.0))
    (2 * loss).backward()
    logits = hidden @ head.weight.T
    expected_losses = cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    wanted = torch.autograd.grad(2 * expected_losses.sum() / 5, (hidden, head.weight))
    torch.testing.assert_close(losses, expected_losses)
    torch.testing.assert_close(loss, expected_losses.sum() / 5)
    torch.testing.assert_close((hidden.grad, head.weight.grad), wanted)


def test_nothing_supervised_is_a_loss_of_zero_with_zero_gradients() -> None:
    head = LanguageHead(6, 11, bias=False)
    hidden = torch.randn(0, 6, requires_grad=True)
    loss, _ = head(hidden, torch.zeros(0, dtype=torch.int64), torch.tensor(4.0))
    loss.backward()
    assert loss == 0 and torch.equal(head.weight.grad, torch.zeros(11, 6))


def test_labels_are_smoothed_in_training_alone() -> None:
    head = LanguageHead(6, 11, bias=False).eval()
    head.label_smoothing = 0.2
    hidden, targets = torch.randn(3, 6), torch.randint(0, 11, (3,))
    expected = cross_entropy(hidden @ head.weight.T, targets)
    torch.testing.assert_close(head(hidden, targets, torch.tensor(3.0))[0], expected)


def test_a_frozen_head_makes_no_gradient_of_its_weight() -> None:
    head = LanguageHead(6, 11, bias=False).requires_grad_(False)
    hidden = torch.randn(3, 6, requires_grad=True)
    head(hidden, torch.randint(0, 11, (3,)), torch.tensor(3.0))[0].backward()
    assert head.weight.grad is None and hidden.grad is not None


@pytest.mark.parametrize("num_items", [None, 9])
def test_the_training_loss_is_the_librarys(num_items: int | None) -> None:
    model = tiny_model(tiny_tokenizer())
    input_ids = torch.randint(0, 200, (2, 12))
    labels = input_ids.clone()
    labels[0, :4] = labels[1, 9:] = IGNORE_INDEX
    inputs = {"input_ids": input_ids, "labels": labels, "num_items_in_batch": num_items}
    theirs = model.eval()(**inputs)
    ours = model.train()(**inputs)
    torch.testing.assert_close(ours.loss, theirs.loss, atol=1e-6, rtol=1e-6)
    assert ours.logits is None
    # Each token's loss is at the position of the predicted token.
    ids = theirs.logits[0, 4].log_softmax(-1)[input_ids[0, 5]]
    torch.testing.assert_close(ours.token_losses[0, 5], -ids)
    assert ours.token_losses[0, :4].eq(0).all() and ours.token_losses[1, 9:].eq(0).all()
