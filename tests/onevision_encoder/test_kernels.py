"""What compiled code and block-wise kernels are given, and that compilation finds no obstacle."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from onevision_encoder import image_segment, pack
from onevision_encoder.layers import BLOCK_TOKENS, segment_block_mask
from support.tolerances import FLOAT32


def _bounds(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


def _listed(counts: torch.Tensor, indices: torch.Tensor) -> set[tuple[int, int]]:
    return {
        (row, column)
        for row, count in enumerate(counts[0, 0].tolist())
        for column in indices[0, 0, row, :count].tolist()
    }


@pytest.mark.parametrize(
    "lengths", [[128, 128], [300], [5, 300, 1, 1, 129, 255, 40], [1] * 70 + [200]]
)
def test_block_table_against_every_pair_of_tokens(lengths: list[int]) -> None:
    total = sum(lengths)
    mask = segment_block_mask(_bounds(lengths), total)
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    allowed = segment[:, None] == segment
    partial, full = set(), set()
    for row, queries in enumerate(allowed.split(BLOCK_TOKENS)):
        for column, pairs in enumerate(queries.split(BLOCK_TOKENS, dim=1)):
            # A block that the sequence ends in is never full: its rest is not there.
            if pairs.all() and pairs.shape[1] == BLOCK_TOKENS:
                full.add((row, column))
            elif pairs.any():
                partial.add((row, column))
    assert _listed(mask.kv_num_blocks, mask.kv_indices) == partial
    assert _listed(mask.full_kv_num_blocks, mask.full_kv_indices) == full
    tokens = torch.arange(total)
    assert torch.equal(mask.mask_mod(0, 0, tokens[:, None], tokens), allowed)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_block_mask_attention_equals_segments() -> None:
    lengths = [5, 130, 1, 64]
    query, key, value = torch.randn(3, 1, 2, 200, 32)
    mask = segment_block_mask(_bounds(lengths), 200)
    together = flex_attention(query, key, value, block_mask=mask)
    parts = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    apart = [torch.nn.functional.scaled_dot_product_attention(*part) for part in parts]
    torch.testing.assert_close(together, torch.cat(apart, dim=2), **FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_compiles_without_graph_breaks(tiny_model: Callable, attn_implementation: str) -> None:
    """A graph break is an error under fullgraph; no kernels are generated here."""
    torch._dynamo.reset()
    model = tiny_model(attn_implementation=attn_implementation)
    pixels = torch.randn(2, 3, 8, 12)
    expected = model(pixels).last_hidden_state
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(pixels).last_hidden_state, expected)
    packed = pack([image_segment(pixels[0], 4), image_segment(pixels[1, :, :4], 4)])
    expected = model.forward_packed(*packed)
    for layer in model.encoder.layers:
        layer.compile(fullgraph=True, backend="eager")
    torch.testing.assert_close(model.forward_packed(*packed), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype", "tolerance"),
    [
        ((1, 3, 8, 12), torch.float32, 1e-5),
        ((2, 3, 16, 12), torch.float32, 1e-5),
        ((1, 3, 48, 48), torch.float32, 1e-5),
        ((2, 3, 16, 12), torch.float16, 0.01),
        ((2, 3, 16, 12), torch.bfloat16, 0.08),
    ],
)
def test_flex_attention_equals_sdpa(
    tiny_model: Callable, shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    """Forward only: flex attention has no backward on a CPU."""
    model, pixels = tiny_model().to(dtype), torch.randn(shape, dtype=dtype)
    segments = pack([image_segment(image, 4) for image in pixels])
    with torch.no_grad():
        expected = model(pixels).last_hidden_state, model.forward_packed(*segments)
        model.set_attn_implementation("flex_attention")
        actual = model(pixels).last_hidden_state, model.forward_packed(*segments)
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)
