"""What torch's kernel for packed rows is given; it runs on CUDA alone, a reference replaces it."""

import inspect
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from onevision_encoder import (
    OneVisionEncoderConfig,
    OneVisionEncoderModel,
    modeling_onevision_encoder,
    varlen,
)
from support.tolerances import FLOAT32

LENGTHS = [5, 130, 1, 64]


def _reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: torch.Tensor | None = None,
    block_table: torch.Tensor | None = None,
    num_splits: int | None = None,
) -> torch.Tensor:
    """The documented meaning of the kernel: (P, N, K), one segment after the other."""
    assert cu_seq_q.dtype == torch.int32
    assert cu_seq_k is not None
    assert torch.equal(cu_seq_q, cu_seq_k)
    lengths = cu_seq_q.diff().tolist()
    assert max_q == max_k == max(lengths)
    assert window_size in {(-1, -1), (-1, 0)}
    parts = zip(
        *(x.transpose(0, 1).split(lengths, dim=1) for x in (query, key, value)), strict=True
    )
    mixed = [
        scaled_dot_product_attention(
            *part, scale=scale, is_causal=window_size == (-1, 0), enable_gqa=enable_gqa
        )
        for part in parts
    ]
    return torch.cat(mixed, dim=1).transpose(0, 1)


def _reference_of_2_10(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    return_aux: Any = None,
) -> torch.Tensor:
    """The narrowest form: no scale, no groups of heads."""
    assert query.shape[1] == key.shape[1]
    window = (-1, 0) if is_causal else (-1, -1)
    return _reference(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size=window)


def test_the_reference_has_the_signature_of_torch() -> None:
    kernel = varlen.varlen_kernel()
    if kernel is None:
        pytest.skip("this torch has no varlen_attn")
    # Earlier torch takes fewer, in the same order.
    known = list(inspect.signature(_reference).parameters)
    names = list(inspect.signature(kernel).parameters)
    assert names == [name for name in known if name in names]
    assert {"scale", "window_size"} <= set(names) or {"is_causal"} <= set(names)


@pytest.mark.parametrize("kernel", [_reference, _reference_of_2_10])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("heads", "key_heads", "width"), [(4, 4, 64), (6, 2, 128)])
def test_the_kernel_and_the_way_without_it_agree(
    monkeypatch: pytest.MonkeyPatch,
    kernel: Any,
    causal: bool,
    heads: int,
    key_heads: int,
    width: int,
) -> None:
    """Values and gradients, with a factor of the scores that is not the usual one."""
    module = nn.Module()
    module.num_key_value_groups = heads // key_heads  # pyright: ignore[reportAttributeAccessIssue]
    total = sum(LENGTHS)
    tensors = [torch.randn(1, n, total, width) for n in (heads, key_heads, key_heads)]
    bounds = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    weights = torch.randn(1, total, heads, width)

    def run() -> list[torch.Tensor]:
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        mixed, _ = varlen.varlen_attention(
            module,
            *inputs,
            None,
            scaling=0.05,
            is_causal=causal,
            cu_seq_lens_q=bounds,
            cu_seq_lens_k=bounds,
            max_length_q=max(LENGTHS),
            max_length_k=max(LENGTHS),
            sample_lengths=tuple(LENGTHS),
        )
        return [mixed.detach(), *torch.autograd.grad((mixed * weights).sum(), inputs)]

    expected = run()
    calls = []
    monkeypatch.setattr(varlen, "_fits_kernel", lambda *_: True)
    monkeypatch.setattr(varlen, "varlen_kernel", lambda: calls.append(1) or kernel)
    actual = run()
    assert calls == [1]
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(actual[0], expected[0], **FLOAT32)


@pytest.mark.skipif(varlen.varlen_kernel() is None, reason="this torch has no varlen_attn")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("dtype", "heads", "key_heads", "width", "is_called"),
    [
        (torch.bfloat16, 16, 8, 128, True),
        (torch.float16, 16, 16, 64, True),
        (torch.bfloat16, 2, 1, 256, True),
        (torch.bfloat16, 2, 2, 60, False),
        (torch.float32, 2, 2, 64, False),
    ],
)
def test_torchs_own_kernel_takes_what_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    heads: int,
    key_heads: int,
    width: int,
    is_called: bool,
    causal: bool,
) -> None:
    """On meta it checks its arguments and computes nothing, forward and backward."""
    kernel: Any = varlen.varlen_kernel()
    calls: list[int] = []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return kernel(*args, **options)

    monkeypatch.setattr(varlen, "varlen_kernel", lambda: counted)
    monkeypatch.setattr(
        varlen, "_parameters", lambda _: frozenset(inspect.signature(kernel).parameters)
    )
    total, meta = sum(LENGTHS), {"device": "meta", "dtype": dtype, "requires_grad": True}
    inputs = [torch.empty(1, n, total, width, **meta) for n in (heads, key_heads, key_heads)]
    module = nn.Module()
    module.num_key_value_groups = heads // key_heads  # pyright: ignore[reportAttributeAccessIssue]
    bounds = torch.empty(len(LENGTHS) + 1, dtype=torch.int32, device="meta")
    mixed, _ = varlen.varlen_attention(
        module,
        *inputs,
        None,
        is_causal=causal,
        cu_seq_lens_q=bounds,
        max_length_q=max(LENGTHS),
        sample_lengths=tuple(LENGTHS),
    )
    assert calls == [1] * is_called
    assert (mixed.shape, mixed.dtype) == ((1, total, heads, width), dtype)
    mixed.sum().backward()
    assert all(x.grad is not None and x.grad.shape == x.shape for x in inputs)


HOPPER = varlen.Machine(has_kernel=True, device_type="cuda", capability=(9, 0))


@pytest.mark.parametrize(
    ("machine", "head_dim", "dropout", "expected"),
    [
        (HOPPER, 64, 0.0, True),
        (HOPPER, 128, 0.0, True),
        (HOPPER._replace(capability=(8, 0)), 256, 0.0, True),
        (HOPPER._replace(capability=(12, 0)), 64, 0.0, True),
        (HOPPER._replace(capability=(7, 5)), 64, 0.0, False),
        (HOPPER._replace(has_kernel=False), 64, 0.0, False),
        (HOPPER._replace(device_type="cpu"), 64, 0.0, False),
        (HOPPER, 288, 0.0, False),
        (HOPPER, 60, 0.0, False),
        (HOPPER, 64, 0.1, False),
    ],
)
def test_it_is_the_default_where_the_kernel_runs(
    machine: varlen.Machine, head_dim: int, dropout: float, expected: bool
) -> None:
    assert varlen.is_varlen_default(machine, head_dim, dropout) is expected


@pytest.mark.slow
def test_a_compiled_function_takes_the_machine_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at it would break the graph of a compiled block in two."""

    def look() -> varlen.Machine:
        torch._dynamo.graph_break()
        return HOPPER

    monkeypatch.setattr(varlen, "this_machine", look)
    compiled = torch.compile(
        lambda x: x + 1 if varlen.is_varlen_available() else x, backend="eager", fullgraph=True
    )
    assert compiled(torch.zeros(2)).tolist() == [1, 1]


def test_a_machine_without_a_device_keeps_sdpa() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert not varlen.runs_kernel(varlen.this_machine())


@pytest.mark.parametrize(
    ("asked", "expected"), [(None, "varlen"), ("sdpa", "sdpa"), ("eager", "eager")]
)
def test_the_encoder_takes_it_where_nothing_else_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, expected: str
) -> None:
    if not hasattr(PreTrainedModel, "get_correct_attn_implementation"):
        expected = asked or "sdpa"  # before transformers 4.55
    monkeypatch.setattr(modeling_onevision_encoder, "this_machine", lambda: HOPPER)
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 8}
    config = OneVisionEncoderConfig(**sizes, num_hidden_layers=1, attn_implementation=asked)
    assert OneVisionEncoderModel(config).config._attn_implementation == expected


def test_without_the_kernel_segments_of_one_length_share_a_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes: list[tuple[int, ...]] = []

    def counted(module: nn.Module, query: torch.Tensor, *rest: Any, **options: Any) -> Any:
        shapes.append(tuple(query.shape))
        return sdpa_attention_forward(module, query, *rest, **options)

    monkeypatch.setattr(varlen, "sdpa_attention_forward", counted)
    row = torch.randn(1, 2, 12, 16)
    bounds = torch.tensor([0, 4, 8, 10, 12]).int()
    options = {"cu_seq_lens_q": bounds, "max_length_q": 4, "is_causal": False}
    mixed, _ = varlen.varlen_attention(nn.Module(), row, row, row, None, **options)
    assert shapes == [(2, 2, 4, 16), (2, 2, 2, 16)]
    for start, end in pairwise(bounds.tolist()):
        one = row[:, :, start:end]
        expected = scaled_dot_product_attention(one, one, one).transpose(1, 2)
        torch.testing.assert_close(mixed[:, start:end], expected, **FLOAT32)
