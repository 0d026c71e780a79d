"""Layers of the encoder: patch embedding, attention within segments, blocks, pooling head.

Axis letters: B samples, C channels, L tokens of a sample, P tokens of a packed batch, S segments, D
width, N heads (of a mask: blocks), K width of a head, p side of a patch in pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_onevision_encoder import OneVisionEncoderConfig
from .rotary import rotate
from .varlen import VARLEN, attend_by_length

BLOCK_TOKENS = 128
"""Tokens of a block of flex attention."""


class Segments(NamedTuple):
    """Which tokens of a packed sequence attend to each other.

    Attributes:
        lengths: tokens of each segment, on the host.
        cu_seqlens: int32 (S + 1,) for kernels that take boundaries, None elsewhere.
        block_mask: the same for flex attention on an accelerator; bool (B, 1, L, L) for ``sdpa``
            in an exported graph; None elsewhere.
    """

    lengths: tuple[int, ...]
    cu_seqlens: Tensor | None = None
    block_mask: BlockMask | Tensor | None = None


def segment_block_mask(cu_seqlens: Tensor, total: int) -> BlockMask:
    """Return a mask for flex attention in which tokens see their own segment.

    Memory and time go with N x N block pairs, and nothing waits for the device.

    Args:
        cu_seqlens: int32 (S + 1,), strictly rising from 0 to P.
        total: P.
    """
    tokens = torch.arange(total, device=cu_seqlens.device)
    segment = torch.searchsorted(cu_seqlens, tokens, right=True) - 1
    first_token = tokens[::BLOCK_TOKENS]
    last_token = (first_token + BLOCK_TOKENS - 1).clamp(max=total - 1)
    # What the tokens of a block see together is one range: segments are concatenated.
    start, end = cu_seqlens[segment[first_token]], cu_seqlens[segment[last_token] + 1]
    sees = (last_token >= start[:, None]) & (first_token < end[:, None])
    one_segment = segment[first_token] == segment[last_token]
    inside = (first_token >= start[:, None]) & (first_token + BLOCK_TOKENS <= end[:, None])
    full = one_segment[:, None] & inside

    def same_segment(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return segment[query] == segment[key]

    return BlockMask.from_kv_blocks(
        *_listed(sees & ~full),
        *_listed(full),
        BLOCK_SIZE=BLOCK_TOKENS,
        mask_mod=same_segment,
        seq_lengths=(total, total),
    )


def _listed(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Block pairs (N, N) as counts (1, 1, N) and key blocks, the chosen ones first (1, 1, N, N)."""
    order = pairs.int().argsort(dim=-1, descending=True, stable=True)
    return pairs.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None]


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """Return attention in plain operations, the softmax in the working dtype as the weights expect.

    Returns:
        (B, L, N, K) and the probabilities (B, N, L, L).
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    probabilities = nn.functional.softmax(scores, dim=-1)
    probabilities = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities


class OneVisionEncoderAttention(nn.Module):
    """Bidirectional attention with rotary positions, within each segment."""

    is_causal = False

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        cosine: Tensor,
        signed_sine: Tensor,
        segments: Segments | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Mix tokens: (B, L, D) to (B, L, D), and the probabilities (eager, not packed)."""
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(heads)
        key = self.k_proj(hidden_states).view(heads)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        if self.config.rope_precision == "query":
            cosine, signed_sine = cosine.to(query.dtype), signed_sine.to(query.dtype)
        query = rotate(query, cosine, signed_sine).transpose(1, 2)
        key = rotate(key, cosine, signed_sine).transpose(1, 2)
        mixed, probabilities = self._attend(query, key, value, segments)
        return self.out_proj(mixed.reshape(hidden_states.shape)), probabilities

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments | None
    ) -> tuple[Tensor, Tensor | None]:
        name = self.config._attn_implementation
        attention = eager_attention_forward if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
        options = {
            "scaling": self.head_dim**-0.5,
            "dropout": self.config.attention_dropout if self.training else 0.0,
            "is_causal": False,
        }
        if segments is None or len(segments.lengths) == 1:
            return attention(self, query, key, value, None, **options)
        if segments.cu_seqlens is not None:
            longest = max(segments.lengths)
            options |= {"cu_seq_lens_q": segments.cu_seqlens, "cu_seq_lens_k": segments.cu_seqlens}
            options |= {"max_length_q": longest, "max_length_k": longest}
            if name == VARLEN:
                options["sample_lengths"] = segments.lengths
            return attention(self, query, key, value, None, **options)
        if segments.block_mask is not None:
            return attention(self, query, key, value, segments.block_mask, **options)
        return attend_by_length(attention, self, query, key, value, segments.lengths, **options)


class OneVisionEncoderMLP(nn.Module):
    """Two layers with an activation between: (..., D) to (..., D)."""

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Transform each token on its own."""
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


def norm_layer(config: OneVisionEncoderConfig) -> nn.Module:
    """Return the norm that the configuration names."""
    norm_class = nn.RMSNorm if config.layer_norm_type == "rms_norm" else nn.LayerNorm
    return norm_class(config.hidden_size, eps=config.layer_norm_eps)


class OneVisionEncoderLayer(GradientCheckpointingLayer):
    """One pre-norm block."""

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        super().__init__()
        self.self_attn = OneVisionEncoderAttention(config)
        self.layer_norm1 = norm_layer(config)
        self.mlp = OneVisionEncoderMLP(config)
        self.layer_norm2 = norm_layer(config)

    def forward(
        self,
        hidden_states: Tensor,
        cosine: Tensor,
        signed_sine: Tensor,
        segments: Segments | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Transform tokens (B, L, D); also the attention probabilities where there are any."""
        mixed, probabilities = self.self_attn(
            self.layer_norm1(hidden_states), cosine, signed_sine, segments
        )
        hidden_states = hidden_states + mixed
        return hidden_states + self.mlp(self.layer_norm2(hidden_states)), probabilities


class OneVisionEncoderPatchEmbedding(nn.Conv2d):
    """The patch convolution, applied to patches that are already cut out.

    Its weight has the published convolution's name and shape (D, C, p, p).
    """

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        side = config.patch_size
        super().__init__(
            config.num_channels, config.hidden_size, kernel_size=side, stride=side, bias=False
        )

    def forward(self, input: Tensor) -> Tensor:
        """Embed patches (..., C * p * p), element order (channel, row, column): (..., D)."""
        return nn.functional.linear(input.to(self.weight.dtype), self.weight.flatten(1))


class OneVisionEncoderEmbeddings(nn.Module):
    """Holds the patch embedding under its published name."""

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        super().__init__()
        self.patch_embedding = OneVisionEncoderPatchEmbedding(config)

    def forward(self, patches: Tensor) -> Tensor:
        """Embed patches (..., C * p * p): (..., D)."""
        return self.patch_embedding(patches)


class OneVisionEncoderStack(nn.Module):
    """Holds the blocks under their published names; the model runs them."""

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            OneVisionEncoderLayer(config) for _ in range(config.num_hidden_layers)
        )


class OneVisionEncoderPoolingHead(nn.Module):
    """One learned query attends to all tokens. Its norm is always an RMS norm."""

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.randn(1, 1, config.hidden_size))
        self.attention = nn.MultiheadAttention(
            config.hidden_size, config.num_attention_heads, batch_first=True
        )
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = OneVisionEncoderMLP(config)

    def forward(self, hidden_states: Tensor, is_ignored: Tensor | None = None) -> Tensor:
        """Pool tokens: (B, L, D) to (B, D); tokens of ``is_ignored``, bool (B, L), are left out."""
        probe = self.probe.expand(hidden_states.shape[0], -1, -1)
        pooled = self.attention(
            probe, hidden_states, hidden_states, key_padding_mask=is_ignored, need_weights=False
        )[0]
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]
