"""The language-model head and the training loss; the cross entropy never holds all logits.

Only supervised positions get logits, a chunk of rows at a time, and their gradients are made with
them: memory is two chunks of logits for samples of every length.

Axis letters: B samples, T tokens, N supervised positions, H language-model width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from transformers.modeling_outputs import CausalLMOutputWithPast

CHUNK_ROWS = 512
"""Rows of logits at a time: 0.6 GB in float32 for a vocabulary of 152 k, twice for gradients."""


class LanguageHead(nn.Linear):
    """The head ``(..., H) -> (..., V)``; given targets, it returns their loss instead.

    The loss is computed within this module's call, so that ZeRO-3 gathers the weight once.

    Attributes:
        label_smoothing: share of each target, in [0, 1), that is spread evenly over the whole
            vocabulary; in training mode only.
    """

    label_smoothing: float = 0.0

    def forward(
        self, input: Tensor, targets: Tensor | None = None, divisor: Tensor | None = None
    ) -> Any:
        """Return logits, or the loss of targets.

        Args:
            input: (..., H); with targets (N, H).
            targets: int64 (N,).
            divisor: what the sum of losses is divided by.

        Returns:
            Logits (..., V), or the pair of loss, float32 scalar, and losses, float32 (N,) without
            gradient.
        """
        if targets is None:
            return super().forward(input)
        smoothing = self.label_smoothing if self.training else 0.0
        return _ChunkedCrossEntropy.apply(
            input, self.weight, targets, divisor, smoothing, CHUNK_ROWS
        )


@dataclass
class TrainingOutput(CausalLMOutputWithPast):
    """Hold what a training step returns: the loss, and no logits.

    Attributes:
        token_losses: float32 (B, T) without gradient: at each supervised token the loss of its
            prediction, elsewhere 0.
    """

    token_losses: Tensor | None = None


def training_loss(
    head: LanguageHead,
    hidden: Tensor,
    labels: Tensor,
    num_items: Tensor | int | None,
    supervised: Tensor,
) -> TrainingOutput:
    """Return the loss of hidden states, each predicting the label after it.

    Args:
        head: the language-model head.
        hidden: (B, T, H).
        labels: int64 (B, T).
        num_items: what the sum of losses is divided by; None means the supervised tokens here.
        supervised: int64 (N,), flat numbers of the supervised tokens in (B, T); see
            ``BatchLayout``. That their number is known keeps the host from waiting for the device.
    """
    targets = labels.flatten().index_select(0, supervised)
    before = hidden.flatten(0, 1).index_select(0, supervised - 1)
    if num_items is None:
        num_items = len(targets)
    if isinstance(num_items, Tensor):
        divisor = num_items.to(hidden.device, torch.float32, non_blocking=True)
    else:  # filled in on the device, where a copy would have to be waited for
        divisor = torch.full((), num_items, dtype=torch.float32, device=hidden.device)
    loss, losses = head(before, targets, divisor)
    token_losses = torch.zeros(labels.numel(), device=hidden.device)
    token_losses.index_copy_(0, supervised, losses)
    return TrainingOutput(loss=loss, token_losses=token_losses.view(labels.shape))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross entropy of ``hidden @ weight.T``; gradients are made during the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        divisor: Tensor,
        smoothing: float,
        rows: int,
    ) -> tuple[Tensor, Tensor]:
        """Map hidden (N, H), weight (V, H), targets (N,) to the loss and the losses (N,)."""
        tunes_hidden, tunes_weight = ctx.needs_input_grad[:2]
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if tunes_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if tunes_weight else None
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            logits = linear(hidden[part], weight).float()
            losses[part] = cross_entropy(
                logits, targets[part], reduction="none", label_smoothing=smoothing
            )
            if not (tunes_hidden or tunes_weight):
                continue
            slope = logits.softmax(dim=-1)
            slope[torch.arange(len(slope), device=slope.device), targets[part]] -= 1 - smoothing
            if smoothing:
                slope -= smoothing / slope.shape[1]
            slope = slope.div_(divisor).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = slope @ weight.to(slope.dtype)
            if grad_weight is not None:
                grad_weight += slope.T @ hidden[part]
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(losses)
        return losses.sum() / divisor, losses

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        """Scale the gradients that the forward pass made."""
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grad_outputs[0]
        if grad_hidden is not None:
            grad_hidden = grad_hidden * scale.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * scale).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None, None
