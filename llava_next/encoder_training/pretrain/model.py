"""The encoder as pretraining runs it: a packed batch in, one feature for each visual out.

Axis letters: P patches, S visuals of a packed batch, C channels, p side of a patch in pixels, D
width.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from encoder_training.pretrain.data.samples import PretrainBatch
from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel
from onevision_encoder.export import SIZES

TINY = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "initializer_range": 128**-0.5,
    "rope_theta": 20.0,
}
TINY_KEY_BIAS = 6.0
"""Deviation of the initial biases of the keys of a tiny encoder.

Positions act on nothing but products of queries and keys. With the published initial weights,
whose deviation is 0.02, those of so narrow an encoder are near zero, and with the published
frequencies, for 32 patches a side, neighbours differ little. So attention starts even, and within
the minutes that a CPU has, neither shapes nor directions of motion are found. With these values
each head starts with offsets in space and time that it prefers.
"""
ENCODER_SIZES: dict[str, dict[str, Any]] = {"tiny": TINY, **SIZES}
"""Sizes by name, as differences from the configuration's defaults; tiny trains on a CPU."""


class PooledEncoder(nn.Module):
    """An encoder with its pooling head, for visuals of any sizes in one packed batch."""

    def __init__(self, encoder: OneVisionEncoderModel) -> None:
        """Wrap an encoder that has a pooling head.

        Raises:
            ValueError: if it has none.
        """
        super().__init__()
        if encoder.head is None:
            raise ValueError(
                "pretraining needs an encoder with a pooling head, got use_head=False in its config"
            )
        self.encoder = encoder

    def forward(
        self,
        patches: Tensor,
        positions: Tensor,
        cu_seqlens: Tensor,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Encode and pool.

        Args:
            patches: floating (P, C * p * p), normalised.
            positions: (P, 3), rows (t, h, w).
            cu_seqlens: int32 (S + 1,), where visuals begin and end.
            lengths: tokens of each visual, on the host; see ``forward_packed``. With them the host
                does not wait for the device; None reads ``cu_seqlens``.

        Returns:
            float32 (S, D).
        """
        tokens = self.encoder.forward_packed(patches, positions, cu_seqlens, lengths=lengths)
        head = self.encoder.head
        assert head is not None
        pooled, start = [], 0
        for length, group in groupby(cu_seqlens.diff().tolist() if lengths is None else lengths):
            count = len(list(group))
            end = start + count * length
            pooled.append(head(tokens[start:end].unflatten(0, (count, length))))
            start = end
        return torch.cat(pooled).float()


def build_encoder(
    size: str,
    *,
    patch_size: int,
    image_px: int,
    clip_frames: int = 64,
    init: str = "",
    attn_implementation: str = "auto",
) -> OneVisionEncoderModel:
    """Return an encoder with random weights, or with those of a folder.

    Args:
        size: name in ``ENCODER_SIZES``; not used with ``init``.
        patch_size: p; with ``init``, that of the folder must be equal.
        image_px: side of images, which the configuration records.
        clip_frames: frame slots of clips, which the configuration records.
        init: folder of an encoder; empty for random weights.
        attn_implementation: backend of attention; ``auto`` leaves it to the encoder.

    Raises:
        ValueError: if the folder holds no encoder with a pooling head and this patch size.
    """
    attention = None if attn_implementation == "auto" else attn_implementation
    if not init:
        config = OneVisionEncoderConfig(
            **ENCODER_SIZES[size],
            patch_size=patch_size,
            image_size=image_px,
            rope_temporal_size=clip_frames,
            attn_implementation=attention,
        )
        encoder = OneVisionEncoderModel(config)
        if size == "tiny":
            for name, weight in encoder.named_parameters():
                if name.endswith("k_proj.bias"):
                    nn.init.normal_(weight, std=TINY_KEY_BIAS)
        return encoder
    try:
        encoder = OneVisionEncoderModel.from_pretrained(
            init, dtype=torch.float32, attn_implementation=attention
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"--init {init} must be a folder with an encoder: {error}") from error
    if encoder.config.patch_size != patch_size:
        raise ValueError(
            f"--patch_size must be that of --init {init}, {encoder.config.patch_size}, "
            f"got {patch_size}"
        )
    return encoder


def join(batches: Sequence[PretrainBatch]) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Lay the batches of several heads end to end, on the host.

    Returns:
        Patches, positions, ``cu_seqlens``, and the tokens of each visual.
    """
    ends = [batch.cu_seqlens[1:] for batch in batches]
    offset = 0
    for index, batch in enumerate(batches):
        ends[index] = ends[index] + offset
        offset += len(batch.patches)
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int32), *ends])
    return (
        torch.cat([batch.patches for batch in batches]),
        torch.cat([batch.positions for batch in batches]),
        cu_seqlens,
        cu_seqlens.diff().tolist(),
    )


def step_flops(
    encoder: OneVisionEncoderModel, lengths: Sequence[int], compared: Sequence[tuple[int, int]]
) -> float:
    """Return the operations of forward and backward pass of a step; a multiply-add counts two.

    Args:
        encoder: the model.
        lengths: tokens of each visual.
        compared: for each head, the rows of all ranks and the centres of this rank that they meet.
    """
    config = encoder.config
    width, mlp, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    block = 4 * width * width + 2 * width * mlp
    weights = layers * block + config.num_channels * config.patch_size**2 * width
    # The pooling head: keys and values of all tokens, then one token a visual.
    weights += 2 * width * width
    tokens = sum(lengths)
    forward = 2.0 * weights * tokens + 2.0 * len(lengths) * (2 * width * width + 2 * width * mlp)
    forward += 4.0 * layers * width * sum(length**2 for length in lengths)
    forward += sum(2.0 * rows * centres * width for rows, centres in compared)
    return 3.0 * forward
