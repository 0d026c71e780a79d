"""Backends, precisions and compilation on a CUDA device."""

from collections.abc import Callable

import pytest
import torch
from transformers.utils.import_utils import is_flash_attn_2_available

from onevision_encoder import OneVisionEncoderModel, PackedInput, image_segment, pack
from onevision_encoder.varlen import is_varlen_available

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

FLASH = pytest.param(
    "flash_attention_2",
    marks=pytest.mark.skipif(not is_flash_attn_2_available(), reason="needs flash-attn"),
)
VARLEN = pytest.param(
    "varlen",
    marks=pytest.mark.skipif(not is_varlen_available(), reason="needs torch's varlen_attn"),
)
HALF_TOLERANCE = {torch.float16: 0.01, torch.bfloat16: 0.08}
"""As on a CPU: largest difference of features that are of the order of one."""


def _mixed_batch(dtype: torch.dtype = torch.float32) -> PackedInput:
    """Segments of 36, 480, 1 and 12 tokens: shorter and longer than a block of 128."""
    grids = [(3, 12), (40, 12), (1, 1), (1, 12)]
    segments = [image_segment(torch.randn(3, h * 4, w * 4), 4) for h, w in grids]
    patches, positions, cu_seqlens = pack(segments)
    return PackedInput(patches.to(dtype), positions, cu_seqlens)


def _on_gpu(packed: PackedInput) -> PackedInput:
    return PackedInput(*(tensor.cuda() for tensor in packed))


def _run(model: OneVisionEncoderModel, packed: PackedInput) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and the gradient of the first weights, through every block, both on the host."""
    model.zero_grad()
    features = model.forward_packed(*packed)
    weights = torch.linspace(-1, 1, features.shape[0], device=features.device)[:, None]
    (features.float() * weights).square().sum().backward()
    gradient = model.embeddings.patch_embedding.weight.grad
    return features.detach().float().cpu(), gradient.float().cpu()


def _assert_near(
    actual: tuple[torch.Tensor, torch.Tensor],
    expected: tuple[torch.Tensor, torch.Tensor],
    tolerance: float,
) -> None:
    """Features within the tolerance, gradients within that share of the largest one."""
    torch.testing.assert_close(actual[0], expected[0], atol=tolerance, rtol=0)
    largest = float(expected[1].abs().max())
    assert largest > 0
    torch.testing.assert_close(actual[1], expected[1], atol=tolerance * largest, rtol=0)


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa", "flex_attention"])
def test_float32_equals_cpu(tiny_model: Callable, attn_implementation: str) -> None:
    model, packed = tiny_model(), _mixed_batch()
    expected = _run(model, packed)
    model.cuda().set_attn_implementation(attn_implementation)
    _assert_near(_run(model, _on_gpu(packed)), expected, 3.5e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa", "flex_attention", VARLEN, FLASH])
def test_half_precision_is_near_float32(
    tiny_model: Callable, dtype: torch.dtype, attn_implementation: str
) -> None:
    model, packed = tiny_model(rope_precision="float32"), _mixed_batch()
    expected, _ = _run(model, packed)
    model.cuda().to(dtype).set_attn_implementation(attn_implementation)
    half = packed._replace(patches=packed.patches.to(dtype))
    features, gradient = _run(model, _on_gpu(half))
    assert (features - expected).abs().mean() < HALF_TOLERANCE[dtype]
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attn_implementation", ["eager", "flex_attention", VARLEN, FLASH])
def test_backends_agree_in_half_precision(
    tiny_model: Callable, dtype: torch.dtype, attn_implementation: str
) -> None:
    """Forward and backward, packed, and a rectangular batch."""
    model = tiny_model(rope_precision="float32").cuda().to(dtype)
    packed, pixels = _on_gpu(_mixed_batch(dtype)), torch.randn(2, 3, 16, 12).cuda().to(dtype)
    expected, expected_batch = _run(model, packed), model(pixels).last_hidden_state
    model.set_attn_implementation(attn_implementation)
    tolerance = 2 * HALF_TOLERANCE[dtype]  # each backend rounds on its own
    _assert_near(_run(model, packed), expected, tolerance)
    actual_batch = model(pixels).last_hidden_state
    torch.testing.assert_close(actual_batch, expected_batch, atol=tolerance, rtol=0)


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa", "flex_attention", VARLEN, FLASH])
def test_segments_do_not_see_each_other(tiny_model: Callable, attn_implementation: str) -> None:
    model = tiny_model().cuda().bfloat16()
    model.set_attn_implementation(attn_implementation)
    packed = _on_gpu(_mixed_batch(torch.bfloat16))
    start, end = packed.cu_seqlens[1:3].tolist()
    with torch.no_grad():
        before = model.forward_packed(*packed)
        packed.patches[start:end] += 1.0
        after = model.forward_packed(*packed)
    assert not torch.equal(after[start:end], before[start:end])
    assert torch.equal(after[:start], before[:start])
    assert torch.equal(after[end:], before[end:])


@pytest.mark.parametrize("attn_implementation", ["sdpa", "flex_attention"])
def test_compiled_blocks_equal_plain_ones(tiny_model: Callable, attn_implementation: str) -> None:
    """Forward and backward, for batches of other lengths too."""
    torch._dynamo.reset()
    model = tiny_model().cuda()
    model.set_attn_implementation(attn_implementation)
    batches = [_on_gpu(_mixed_batch()) for _ in range(2)]
    batches.append(_on_gpu(pack([image_segment(torch.randn(3, 20, 28), 4)])))
    expected = [_run(model, packed) for packed in batches]
    for layer in model.encoder.layers:
        layer.compile(dynamic=True)
    for packed, each in zip(batches, expected, strict=True):
        _assert_near(_run(model, packed), each, 1e-3)


def test_compiled_model_equals_plain_one(tiny_model: Callable) -> None:
    torch._dynamo.reset()
    model, pixels = tiny_model().cuda(), torch.randn(2, 3, 8, 12).cuda()
    with torch.no_grad():
        expected = model(pixels)
        actual = torch.compile(model, fullgraph=True)(pixels)
    for name in ("last_hidden_state", "pooler_output"):
        torch.testing.assert_close(actual[name], expected[name], atol=1e-3, rtol=0)


def test_checkpointing_gives_the_same_gradients(tiny_model: Callable) -> None:
    model, packed = tiny_model().cuda().train(), _on_gpu(_mixed_batch())
    expected = _run(model, packed)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    _assert_near(_run(model, packed), expected, 1e-5)
