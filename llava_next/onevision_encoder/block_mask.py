"""Segment boundaries for flex attention, as a table of blocks instead of a mask over tokens.

Axis letters: P tokens of a packed batch, S segments, N blocks of 128 tokens.
"""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

BLOCK_TOKENS = 128


def segment_block_mask(cu_seqlens: Tensor, total: int) -> BlockMask:
    """Let tokens see their own segment.

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
