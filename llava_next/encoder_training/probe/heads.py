"""Many attentive heads over the same tokens: stacked parameters, one pass.

Each head is the published one: a learned query attends to the tokens of a clip (D / 64 heads of
attention), then a residual MLP behind an RMS norm, a layer norm and a linear classifier. The query
is the same for all clips, so its product with the key projection is one vector per head of
attention, u = W_k^T q: tokens are scored by u and averaged by their weights, and only the averages,
one per clip and head of attention, meet the value projection. Keys and values of the tokens are
never computed, which makes many heads cheaper than one computed plainly.

Axis letters: N heads (probes), B clips, T tokens of a clip, D width, A heads of attention, C
classes.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

HEAD_WIDTH = 64
"""Channels of one head of attention, where the width is a multiple of it."""


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """What a head looks like.

    Attributes:
        width: D, that of the tokens.
        num_classes: C.
        num_blocks: 1 pools the tokens as they are; B above 1 puts B - 1 blocks of self-attention
            before the pooling, as V-JEPA's probes do with 4.

    Raises:
        ValueError: if a number is below 1.
    """

    width: int
    num_classes: int
    num_blocks: int = 1

    def __post_init__(self) -> None:
        for name in ("width", "num_classes", "num_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def num_attention_heads(self) -> int:
        """Return A: D / 64, or 1 where 64 does not divide the width."""
        return self.width // HEAD_WIDTH if self.width % HEAD_WIDTH == 0 else 1


class GradientMemory:
    """Memory of the weights' gradients of one step, used again in the next.

    Twenty heads have a gigabyte of gradients, and the system takes longer to hand out fresh memory
    than the processor to fill it.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[int, torch.dtype, torch.device], list[Tensor]] = {}
        self._lent: Counter[tuple[int, torch.dtype, torch.device]] = Counter()

    def take(self, like: Tensor) -> Tensor:
        """Return a contiguous tensor of the shape of ``like``; it may hold anything."""
        key = like.numel(), like.dtype, like.device
        free = self._free.get(key)
        self._lent[key] += 1
        return (
            free.pop().view(like.shape)
            if free
            else torch.empty(like.shape, dtype=like.dtype, device=like.device)
        )

    def give(self, gradient: Tensor) -> None:
        """Keep a tensor that nothing uses any more, at most one for each that was taken."""
        key = gradient.numel(), gradient.dtype, gradient.device
        if self._lent[key] and gradient.is_contiguous():
            self._lent[key] -= 1
            self._free.setdefault(key, []).append(gradient)


class ProbeHeads(nn.Module):
    """N heads of one shape, each with its own parameters: row n of every parameter.

    All start from the same values, so that they differ only by how they are trained.

    Args:
        shape: shape of each head.
        num_probes: N.
        seed: of the values at the start.
    """

    def __init__(self, shape: HeadShape, num_probes: int = 1, *, seed: int = 1) -> None:
        super().__init__()
        if num_probes < 1:
            raise ValueError(f"num_probes must be at least 1, got {num_probes}")
        self.shape, self.num_probes = shape, num_probes
        self.memory = GradientMemory()
        width, mlp = shape.width, 4 * shape.width
        random = torch.Generator().manual_seed(seed)

        def stacked(value: Tensor) -> nn.Parameter:
            return nn.Parameter(value.expand(num_probes, *value.shape).clone())

        def linear(rows: int, columns: int) -> Tensor:
            value = torch.empty(rows, columns)
            return nn.init.trunc_normal_(value, std=0.02, generator=random)

        self.query = stacked(torch.randn(width, generator=random))
        in_weight = torch.empty(3 * width, width)
        nn.init.xavier_uniform_(in_weight, generator=random)
        # A bias of the keys would add the same to all scores of a clip: without effect, left out.
        self.query_weight, self.key_weight, self.value_weight = map(stacked, in_weight.chunk(3))
        self.query_bias, self.value_bias = stacked(torch.zeros(width)), stacked(torch.zeros(width))
        self.out_weight, self.out_bias = stacked(linear(width, width)), stacked(torch.zeros(width))
        self.norm_weight = stacked(torch.ones(width))
        self.fc1_weight, self.fc1_bias = stacked(linear(mlp, width)), stacked(torch.zeros(mlp))
        self.fc2_weight, self.fc2_bias = stacked(linear(width, mlp)), stacked(torch.zeros(width))
        self.last_norm_weight = stacked(torch.ones(width))
        self.last_norm_bias = stacked(torch.zeros(width))
        self.class_weight = stacked(linear(shape.num_classes, width) * 1e-3)
        self.class_bias = stacked(torch.zeros(shape.num_classes))
        self.blocks = nn.ModuleList(
            _StackedBlock(shape, num_probes, random) for _ in range(shape.num_blocks - 1)
        )

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the logits of all heads.

        Args:
            tokens: floating (B, T, D); no gradient reaches them.
            mask: bool (B, T), False for tokens that fill a shorter clip up; None: all count.

        Returns:
            float32 or float64 (N, B, C).
        """
        tokens = tokens.detach()
        if not self.blocks:
            return self._classify(self._pooled(tokens, self._scorers(), mask))
        pooled: list[Tensor] = []
        scorers = self._scorers().unflatten(0, (self.num_probes, -1))
        for number in range(self.num_probes):
            own = tokens.to(self.query.dtype) if not torch.is_autocast_enabled() else tokens
            for block in self.blocks:
                own = block(own, mask, number)
            pooled.append(self._pooled(own, scorers[number], mask))
        return self._classify(torch.cat(pooled, dim=1))

    @torch.no_grad()
    def copy_to(self, number: int, other: "ProbeHeads") -> None:
        """Copy head ``number`` into the only head of another module."""
        for own, theirs in zip(self.parameters(), other.parameters(), strict=True):
            theirs[0].copy_(own[number])

    def _scorers(self) -> Tensor:
        """Return u of every head and head of attention, (N * A, D)."""
        width, heads = self.shape.width, self.shape.num_attention_heads
        query = self._map(self.query[:, None], self.query_weight) + self.query_bias[:, None]
        query = query.view(self.num_probes, heads, 1, -1) * (width // heads) ** -0.5
        keys = self.key_weight.unflatten(1, (heads, -1))
        return (query @ keys).flatten(0, 2)

    def _pooled(self, tokens: Tensor, scorers: Tensor, mask: Tensor | None) -> Tensor:
        """Return the average of the tokens by each scorer's weights, (B, scorers, D)."""
        if tokens.dtype != scorers.dtype and not _autocast(tokens):
            tokens = tokens.to(scorers.dtype)
        # Scores are in the order of the tokens, so that the softmax reads them in a row.
        scores = scorers.expand(len(tokens), -1, -1) @ tokens.transpose(1, 2)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -math.inf)
        weights = scores.softmax(dim=2, dtype=torch.promote_types(scores.dtype, torch.float32))
        return weights.to(scores.dtype) @ tokens

    def _classify(self, pooled: Tensor) -> Tensor:
        """Turn averages (B, N * A, D) into logits (N, B, C)."""
        width, heads = self.shape.width, self.shape.num_attention_heads
        pooled = pooled.unflatten(1, (self.num_probes, heads)).permute(1, 2, 0, 3)
        values = self.value_weight.view(self.num_probes * heads, -1, width)
        mixed = self._map(pooled.flatten(0, 1), values).unflatten(0, (-1, heads))
        mixed = mixed.transpose(1, 2).flatten(2) + self.value_bias[:, None]
        state = self._linear(mixed, self.out_weight, self.out_bias)
        inner = _rms_norm(state, self.norm_weight)
        inner = F.gelu(self._linear(inner, self.fc1_weight, self.fc1_bias))
        state = state + self._linear(inner, self.fc2_weight, self.fc2_bias)
        state = F.layer_norm(state.to(self.query.dtype), (width,))
        state = state * self.last_norm_weight[:, None] + self.last_norm_bias[:, None]
        return self._linear(state, self.class_weight, self.class_bias).to(self.query.dtype)

    def _linear(self, values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Apply the linear map of each head: (N, B, in), (N, out, in) and (N, out)."""
        return self._map(values, weight) + bias[:, None]

    def _map(self, values: Tensor, weight: Tensor) -> Tensor:
        """Multiply (G, B, in) by (G, out, in), to (G, B, out)."""
        if _autocast(values):
            # The weight comes first, so that its gradient has its layout and is not copied into it.
            return (weight @ values.transpose(1, 2)).transpose(1, 2)
        return _StackedMap.apply(values, weight, self.memory)  # pyright: ignore

    def extra_repr(self) -> str:
        """Return the shape, for ``print``."""
        return f"{self.shape}, num_probes={self.num_probes}"


class _StackedBlock(nn.Module):
    """A block of self-attention with its own parameters for each of N heads."""

    def __init__(self, shape: HeadShape, num_probes: int, random: torch.Generator) -> None:
        super().__init__()
        self.num_attention_heads = shape.num_attention_heads
        width, mlp = shape.width, 4 * shape.width
        sizes = {"qkv": (3 * width, width), "out": (width, width)}
        sizes |= {"fc1": (mlp, width), "fc2": (width, mlp)}
        for name, (rows, columns) in sizes.items():
            weight = nn.init.trunc_normal_(torch.empty(rows, columns), std=0.02, generator=random)
            weight = weight.expand(num_probes, rows, columns).clone()
            self.register_parameter(f"{name}_weight", nn.Parameter(weight))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(num_probes, rows)))
        for name in ("norm1", "norm2"):
            ones = torch.ones(num_probes, width)
            self.register_parameter(f"{name}_weight", nn.Parameter(ones))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(num_probes, width)))

    def forward(self, tokens: Tensor, mask: Tensor | None, number: int) -> Tensor:
        """Return the tokens (B, T, D) of head ``number`` after this block."""
        of = {name: value[number] for name, value in self.named_parameters()}
        width = (tokens.shape[-1],)
        inner = F.layer_norm(tokens, width, of["norm1_weight"], of["norm1_bias"], 1e-6)
        qkv = F.linear(inner, of["qkv_weight"], of["qkv_bias"])
        parts = qkv.unflatten(2, (3, self.num_attention_heads, -1)).permute(2, 0, 3, 1, 4)
        seen = None if mask is None else mask[:, None, None]
        inner = F.scaled_dot_product_attention(*parts.unbind(0), attn_mask=seen)
        inner = inner.transpose(1, 2).flatten(2)
        tokens = tokens + F.linear(inner, of["out_weight"], of["out_bias"])
        inner = F.layer_norm(tokens, width, of["norm2_weight"], of["norm2_bias"], 1e-6)
        inner = F.gelu(F.linear(inner, of["fc1_weight"], of["fc1_bias"]))
        return tokens + F.linear(inner, of["fc2_weight"], of["fc2_bias"])


class _StackedMap(torch.autograd.Function):
    """``values @ weight.mT`` of groups, with products that stay fast for a few rows of values."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, values: Tensor, weight: Tensor, memory: GradientMemory
    ) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.memory = memory
        return values @ weight.mT

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        # As written here; with the weight's transpose first a processor takes fifteen times longer.
        values, weight = ctx.saved_tensors
        product = torch.bmm if values.shape[1] > 1 else torch.mul
        of_weight = product(gradient.mT, values, out=ctx.memory.take(weight))
        return gradient @ weight, of_weight, None


def _rms_norm(values: Tensor, weight: Tensor) -> Tensor:
    """Normalise as ``torch.nn.RMSNorm`` does without a given epsilon."""
    values = values.to(weight.dtype)
    return F.rms_norm(values, values.shape[-1:]) * weight[:, None]


def _autocast(tensor: Tensor) -> bool:
    return torch.is_autocast_enabled(tensor.device.type)
