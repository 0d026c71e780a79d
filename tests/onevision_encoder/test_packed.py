"""The packed entry: equal to one call per segment, and no segment sees another."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import distributed
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from onevision_encoder import (
    OneVisionEncoderModel,
    grid_positions,
    modeling_onevision_encoder,
    patchify,
)
from support.tolerances import FLOAT32
from support.waiting import NoWaiting

SIZES = [(1, 2, 3), (4, 2, 2), (1, 1, 1), (2, 3, 1)]
"""Frames, rows and columns of the segments of a mixed batch."""


def _segments() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(1, 3, f, h * 4, w * 4, generator=generator) for f, h, w in SIZES]


def _pack(videos: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    patches = [patchify(video, 4)[0] for video in videos]
    positions = [grid_positions(torch.arange(f), h, w) for f, h, w in SIZES[: len(videos)]]
    lengths = torch.tensor([0] + [len(p) for p in patches])
    return torch.cat(patches), torch.cat(positions), lengths.cumsum(0).int()


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa", "varlen"])
@pytest.mark.parametrize("use_head", [True, False])
@pytest.mark.parametrize("output_layer", [-1, -2, -4])
def test_equals_one_call_per_segment(
    tiny_model: Callable, attn_implementation: str, use_head: bool, output_layer: int
) -> None:
    model = tiny_model(use_head=use_head, attn_implementation=attn_implementation)
    packed = model.forward_packed(*_pack(_segments()), output_layer=output_layer)
    each = [model(video, output_hidden_states=True) for video in _segments()]
    expected = [
        output.last_hidden_state if output_layer == -1 else output.hidden_states[output_layer]
        for output in each
    ]
    torch.testing.assert_close(packed, torch.cat(expected, dim=1)[0], **FLOAT32)


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa", "varlen"])
@pytest.mark.parametrize(("group_tokens", "gradients"), [(2048, True), (2048, False), (7, False)])
def test_segments_do_not_see_each_other(
    tiny_model: Callable,
    monkeypatch: pytest.MonkeyPatch,
    attn_implementation: str,
    group_tokens: int,
    gradients: bool,
) -> None:
    monkeypatch.setattr(modeling_onevision_encoder, "GROUP_TOKENS", group_tokens)
    model = tiny_model(attn_implementation=attn_implementation)
    patches, positions, cu_seqlens = _pack(_segments())
    start, end = cu_seqlens[1:3].tolist()
    with torch.set_grad_enabled(gradients):
        before = model.forward_packed(patches, positions, cu_seqlens)
        patches[start:end] += 1.0
        positions[start:end] += 1
        after = model.forward_packed(patches, positions, cu_seqlens)
    assert not torch.equal(after[start:end], before[start:end])
    assert torch.equal(after[:start], before[:start])
    assert torch.equal(after[end:], before[end:])


@pytest.mark.parametrize("output_layer", [-1, -2])
def test_groups_without_gradients(
    tiny_model: Callable, monkeypatch: pytest.MonkeyPatch, output_layer: int
) -> None:
    """Without gradients neighbours go through the blocks together up to a number of tokens."""
    monkeypatch.setattr(modeling_onevision_encoder, "GROUP_TOKENS", 7)
    model, sizes = tiny_model(), []
    model.encoder.layers[0].register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0]))
    expected = model.forward_packed(*_pack(_segments()), output_layer=output_layer)
    with torch.no_grad():
        actual = model.forward_packed(*_pack(_segments()), output_layer=output_layer)
    assert [tokens.shape[1] for tokens in sizes] == [29, 6, 16, 1 + 6]
    torch.testing.assert_close(actual, expected, **FLOAT32)


@pytest.fixture
def process_group() -> Iterator[None]:
    """A group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_blocks_run_once_where_processes_work_together(
    tiny_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sharded weights are gathered at each call of a block, by all processes or by none."""
    monkeypatch.setattr(modeling_onevision_encoder, "GROUP_TOKENS", 7)
    model, calls = tiny_model(), []
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, _: calls.append(module))
    with torch.no_grad():
        model.forward_packed(*_pack(_segments()))
    assert len(calls) == len(set(calls)) > 0


def test_one_segment(tiny_model: Callable) -> None:
    model, video = tiny_model(), _segments()[0]
    packed = model.forward_packed(*_pack([video]))
    torch.testing.assert_close(packed, model(video).last_hidden_state[0], **FLOAT32)


def test_order_of_tokens_within_a_segment_is_free(tiny_model: Callable) -> None:
    """Only its position places a patch: codec tokens may come in any order."""
    model = tiny_model()
    patches, positions, cu_seqlens = _pack(_segments()[1:2])
    positions = grid_positions(torch.arange(4), 2, 2)
    cu_seqlens = torch.tensor([0, 16], dtype=torch.int32)
    order = torch.randperm(16)
    shuffled = model.forward_packed(patches[order], positions[order], cu_seqlens)
    expected = model.forward_packed(patches, positions, cu_seqlens)[order]
    torch.testing.assert_close(shuffled, expected)


def test_later_blocks_are_not_computed(tiny_model: Callable) -> None:
    model = tiny_model()
    expected = model.forward_packed(*_pack(_segments()), output_layer=-2)
    del model.encoder.layers[-1]
    model.layernorm_post = None
    assert torch.equal(model.forward_packed(*_pack(_segments()), output_layer=-2), expected)


def _gradients(model: OneVisionEncoderModel) -> dict[str, torch.Tensor]:
    patches, positions, cu_seqlens = _pack(_segments())
    weights = torch.linspace(-1, 1, patches.shape[0])[:, None]
    model.zero_grad()
    (model.forward_packed(patches, positions, cu_seqlens) * weights).square().mean().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(tiny_model: Callable, use_reentrant: bool) -> None:
    model = tiny_model(use_head=False).train()
    plain = _gradients(model)
    assert len(plain) == len(list(model.parameters()))
    assert all(gradient.abs().sum() > 0 for name, gradient in plain.items() if "k_proj" not in name)
    calls = []
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.encoder.layers[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    checkpointed = _gradients(model)
    assert len(calls) == 2  # once forward, once again in backward
    assert checkpointed.keys() == plain.keys()
    assert all(torch.equal(checkpointed[name], plain[name]) for name in plain)


def test_gradients_equal_finite_differences(tiny_model: Callable) -> None:
    model = tiny_model(num_hidden_layers=1).double()
    patches, positions, cu_seqlens = _pack(_segments()[:2])
    patches = patches[:, :48].double().requires_grad_()
    index = torch.tensor([3, 9])

    def loss(values: torch.Tensor) -> torch.Tensor:
        return model.forward_packed(values, positions, cu_seqlens)[index].square().sum()

    (gradient,) = torch.autograd.grad(loss(patches), patches)
    direction = torch.randn_like(patches)
    step = 1e-6
    with torch.no_grad():
        ahead, behind = loss(patches + step * direction), loss(patches - step * direction)
    measured = (ahead - behind) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), measured, rtol=1e-6, atol=0)


def test_kernels_with_boundaries_are_called_once(
    tiny_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that takes boundaries gets them all, in the library's argument names."""
    calls = []

    def record(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: Any,
        **options: Any,
    ) -> Any:
        boundaries = {k: v for k, v in options.items() if k.startswith(("cu_seq", "max_"))}
        calls.append(boundaries | {"causal": options["is_causal"], "mask": mask})
        starts = boundaries["cu_seq_lens_q"].tolist()
        rows = [slice(a, b) for a, b in zip(starts, starts[1:], strict=False)]
        outputs = [
            sdpa_attention_forward(
                module, *(x[:, :, r] for x in (query, key, value)), None, is_causal=False
            )[0]
            for r in rows
        ]
        return torch.cat(outputs, dim=1), None

    model = tiny_model(attn_implementation="sdpa")
    expected = model.forward_packed(*_pack(_segments()))
    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", record)
    model.config._attn_implementation_internal = "flash_attention_2"
    actual = model.forward_packed(*_pack(_segments()))
    assert len(calls) == model.config.num_hidden_layers
    assert calls[0]["max_length_q"] == calls[0]["max_length_k"] == 16
    assert calls[0]["cu_seq_lens_k"].tolist() == [0, 6, 22, 23, 29]
    assert calls[0]["cu_seq_lens_k"].dtype == torch.int32
    assert calls[0]["causal"] is False
    assert calls[0]["mask"] is None
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patches": torch.zeros(29, 47)}, r"patches must have shape \(P, 48\).*got \(29, 47\)"),
        ({"patches": torch.zeros(1, 29, 48)}, "patches must have shape"),
        ({"patches": torch.zeros(0, 48)}, "patches must hold at least one"),
        ({"patches": torch.zeros(29, 48).byte()}, "patches must be floating"),
        ({"patch_positions": torch.zeros(28, 3)}, r"patch_positions .*\(29, 3\).*got \(28, 3\)"),
        ({"patch_positions": torch.full((29, 3), -1)}, "patch_positions must be .*>= 0"),
        ({"cu_seqlens": torch.tensor([0], dtype=torch.int32)}, "cu_seqlens .*S >= 1"),
        ({"cu_seqlens": torch.tensor([[0, 29]])}, "cu_seqlens must be int32 of shape"),
        ({"cu_seqlens": torch.tensor([0.0, 29.0])}, "cu_seqlens must be int32"),
        ({"cu_seqlens": torch.tensor([0, 28])}, "patches 29, got 0 and 28"),
        ({"cu_seqlens": torch.tensor([1, 29])}, "got 1 and 29"),
        ({"cu_seqlens": torch.tensor([0, 9, 9, 29])}, "rise strictly, got 9 then 9 at segment 1"),
        ({"cu_seqlens": torch.tensor([0, 9, 5, 29])}, "rise strictly, got 9 then 5"),
        ({"output_layer": 0}, "output_layer must be between -4 and -1 .*got 0"),
        ({"output_layer": -5}, "output_layer"),
    ],
)
def test_bad_arguments(tiny_model: Callable, changes: dict, message: str) -> None:
    patches, positions, cu_seqlens = _pack(_segments())
    arguments = {"patches": patches, "patch_positions": positions, "cu_seqlens": cu_seqlens}
    with pytest.raises(ValueError, match=message):
        tiny_model().forward_packed(**{**arguments, **changes})


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager", "varlen"])
def test_lengths_from_the_host_change_nothing(
    tiny_model: Callable, attn_implementation: str
) -> None:
    model, packed = tiny_model(attn_implementation=attn_implementation), _pack(_segments())
    lengths = tuple(packed[2].diff().tolist())
    expected = model.forward_packed(*packed)
    assert torch.equal(model.forward_packed(*packed, lengths=lengths), expected)
    with NoWaiting():
        model.forward_packed(*packed, lengths=list(lengths))


@pytest.mark.parametrize("lengths", [(29,), (6, 17, 0, 6), (6, 16, 1, 7)])
def test_lengths_that_do_not_fit_are_refused(
    tiny_model: Callable, lengths: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="lengths must be 4 positive numbers, one per segment"):
        tiny_model().forward_packed(*_pack(_segments()), lengths=lengths)


def test_nan_pixels_stay_in_their_segment(tiny_model: Callable) -> None:
    patches, positions, cu_seqlens = _pack(_segments())
    patches[0, 0] = float("nan")
    output = tiny_model().forward_packed(patches, positions, cu_seqlens)
    assert output[:6].isnan().all()
    assert output[6:].isfinite().all()
