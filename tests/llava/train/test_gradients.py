"""Checkpointed gradients of both networks, and clipping that is really applied."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from llava.model.tiny import tiny_model, tiny_tokenizer
from llava.train.parts import PARTS, set_trainable
from llava.visual.batch import VisualSegment, pack_segments
from onevision_encoder.patches import grid_positions, uniform_slots
from run_kit.log import read_log
from support.paths import ROOT

NORM = 0.01


class _Operations(TorchDispatchMode):
    """Counts the operations of attention and the matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.products = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        is_attention = "_scaled_dot_product" in name and "backward" not in name
        self.attention += is_attention
        self.products += name in ("aten::mm", "aten::addmm")
        return func(*args, **(kwargs or {}))


def _gradients(model: torch.nn.Module, checkpointed: bool) -> tuple[list[torch.Tensor], int]:
    calls = 0

    def counted(*_: object) -> None:
        nonlocal calls
        calls += 1

    layers = [*model.model.layers, *model.model.vision_tower.vision_tower.encoder.layers]
    # Hooks of a layer itself stay outside of what is done again.
    hooks = [next(layer.children()).register_forward_pre_hook(counted) for layer in layers]
    if checkpointed:
        model.gradient_checkpointing_enable()
    ids = torch.full((1, 40), model.config.image_token_id)
    ids[0, 16:] = torch.arange(24)
    segment = VisualSegment(torch.ones(16, 588), grid_positions(uniform_slots(1), 4, 4), (16,))
    labels = ids.masked_fill(torch.arange(40) < 20, -100)
    model.zero_grad()
    model(input_ids=ids, labels=labels, visual=pack_segments([[segment]])).loss.backward()
    for hook in hooks:
        hook.remove()
    return [w.grad.clone() for w in model.parameters() if w.grad is not None], calls


@pytest.mark.parametrize("parts", [PARTS, PARTS[1:], PARTS[1:2]])
def test_checkpointing_runs_layers_again_and_changes_no_gradient(parts: Any) -> None:
    model = tiny_model(tiny_tokenizer()).train()
    set_trainable(model, parts)
    plain, calls = _gradients(model, checkpointed=False)
    again, more = _gradients(model, checkpointed=True)
    torch.testing.assert_close(again, plain)
    # One of the tower's two layers is below the one that is read.
    tower_again = len(model.model.vision_tower.vision_tower.encoder.layers) - 1
    assert more - calls >= len(model.model.layers) + (tower_again if PARTS[0] in parts else 0)


def test_selective_checkpointing_computes_attention_once_and_wide_products_again() -> None:
    counts: dict[str, tuple[int, int]] = {}
    gradients: dict[str, list[torch.Tensor]] = {}
    for way in ("plain", "blocks", "selective"):
        torch.manual_seed(0)
        model: Any = tiny_model(tiny_tokenizer()).train()
        model.selects_saved_operations = way == "selective"
        with _Operations() as seen:
            gradients[way], _ = _gradients(model, checkpointed=way != "plain")
        counts[way] = seen.attention, seen.products
    for way in ("blocks", "selective"):
        torch.testing.assert_close(gradients[way], gradients["plain"])
    assert counts["blocks"][0] > counts["selective"][0] == counts["plain"][0]
    assert counts["blocks"][1] > counts["selective"][1] > counts["plain"][1]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_clipping_bounds_the_step_under_zero(
    stage: int, run_arguments: Callable[..., list[str]], tiny_material: Path, tmp_path: Path
) -> None:
    """With plain SGD and a rate of 1 a step is as long as its gradient."""
    flags = run_arguments(
        tmp_path,
        deepspeed=f"scripts/zero{stage}.json",
        optim="sgd",
        learning_rate=1.0,
        max_grad_norm=NORM,
        max_steps=1,
    )
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, "-m", *launcher, "-m", "llava.train.train", *flags]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    before = load_file(tiny_material / "model" / "model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    squares = sum(float((after[name] - before[name]).double().square().sum()) for name in before)
    assert read_log(tmp_path)[0]["grad_norm"] > 100 * NORM
    assert squares**0.5 == pytest.approx(NORM, rel=0.02)
