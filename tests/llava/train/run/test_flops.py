"""Counted operations against torch's own counter, and the rule for parts that are frozen."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llava.model.tiny import tiny_model, tiny_tokenizer
from llava.train.parts import PARTS, set_trainable
from llava.train.run.flops import count_flops_of
from llava.visual.batch import VisualSegment, pack_segments
from onevision_encoder.patches import grid_positions, uniform_slots
from run_kit.speed import peak_flops

PATCHES, TOKENS = 64, 100


@pytest.mark.parametrize(
    "parts", [PARTS, ("mm_mlp_adapter",), ("mm_mlp_adapter", "mm_language_model")]
)
def test_counts_are_near_those_of_torch(parts: Any) -> None:
    model = tiny_model(tiny_tokenizer()).train()
    model.set_attn_implementation("eager")  # whose operations torch's counter sees
    set_trainable(model, parts)
    input_ids = torch.randint(0, 200, (1, TOKENS))
    input_ids[0, :PATCHES] = model.config.image_token_id
    labels = input_ids.masked_fill(torch.arange(TOKENS) < PATCHES + 6, -100)
    segment = VisualSegment(
        torch.randn(PATCHES, 588), grid_positions(uniform_slots(1), 8, 8), (PATCHES,)
    )
    with FlopCounterMode(display=False) as counter:
        model(input_ids=input_ids, labels=labels, visual=pack_segments([[segment]])).loss.backward()
    counted = count_flops_of(model, parts).step((TOKENS,), (PATCHES,), TOKENS - PATCHES - 6)
    # The formula halves causal attention and leaves the rest of the mask out of account.
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_adapters_need_gradients_through_the_language_model_but_none_of_its_weights() -> None:
    model = tiny_model(tiny_tokenizer())
    counts = [
        count_flops_of(model, parts, lora=lora).step((TOKENS,), (), 0)
        for parts, lora in (((), False), (("mm_language_model",), True), (PARTS[2:], False))
    ]
    assert counts[0] < counts[1] < counts[2]
    decoder = count_flops_of(model, ()).decoder
    assert counts[2] - counts[1] == 2 * decoder * TOKENS


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA B200", 2250),
        ("NVIDIA L4", None),
        ("NVIDIA RTX A1000", None),
    ],
)
def test_the_peak_is_that_of_the_card_and_an_unknown_card_is_said(
    name: str,
    tflops: float | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Names as the driver gives them; figures of the data sheets without sparsity."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    expected = None if tflops is None else tflops * 1e12
    assert peak_flops(torch.device("cuda"), None) == expected
    assert (f"{name} is not known" in caplog.text) == (tflops is None)


def test_the_peak_is_as_given_and_unknown_on_a_cpu() -> None:
    assert peak_flops(torch.device("cpu"), 2.5) == 2.5e12
    assert peak_flops(torch.device("cpu"), None) is None
