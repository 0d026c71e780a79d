"""LoRA runs: what is tuned, what is saved, and that they resume."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

from llava.model.adapters import ADAPTER_FILE
from llava.model.loading import load_pretrained
from llava.train.arguments import parse_arguments
from llava.train.train import prepare
from run_kit.log import read_log
from support.tolerances import SAME_LOSS

OPTIONS = {"lora_enable": True, "lora_r": 4, "mm_tunable_parts": "mm_mlp_adapter"}


def test_a_lora_run_saves_adapters_with_the_projector_and_resumes(
    train: Callable[..., int], tiny_material: Path, tmp_path: Path
) -> None:
    options = OPTIONS | {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    assert train(tmp_path, **options) == 0
    expected = [row["loss"] for row in read_log(tmp_path)]
    weights = load_file(tmp_path / ADAPTER_FILE)
    prefix = "base_model.model."
    others = {n.removeprefix(prefix): v for n, v in weights.items() if "lora_" not in n}
    assert set(others) == set(load_file(tmp_path / "mm_projector.safetensors"))
    before = load_file(tiny_material / "model" / "model.safetensors")
    assert all(not torch.equal(before[name], value) for name, value in others.items())
    assert any(value.any() for name, value in weights.items() if "lora_B" in name)
    assert not (tmp_path / "model.safetensors").exists()

    (tmp_path / "checkpoint-4" / "complete.json").unlink()
    assert train(tmp_path, **options, resume_from_checkpoint="auto") == 0
    assert [row["loss"] for row in read_log(tmp_path)] == expected
    again = load_file(tmp_path / ADAPTER_FILE)
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    loaded = load_pretrained(tmp_path)[0].model.layers[0].mlp.up_proj
    key = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    assert torch.equal(loaded.lora_A["default"].weight, weights[key])
    load_pretrained(tmp_path / "checkpoint-4")  # finds its base model from its own place


def test_without_deepspeed_the_frozen_base_takes_half_the_memory(
    run_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    arguments = run_arguments(tmp_path, **OPTIONS, bf16=True)
    trainer, _ = prepare(parse_arguments(arguments))
    types = {(w.requires_grad, w.dtype) for w in trainer.model.parameters()}
    assert types == {(True, torch.float32), (False, torch.bfloat16)}
    trainer.train()
    assert all(row["loss"] < 20 for row in read_log(tmp_path))


def test_another_rank_writes_nothing(
    run_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    trainer, _ = prepare(parse_arguments(run_arguments(tmp_path, **OPTIONS)))
    before = sorted(tmp_path.iterdir())
    with patch.object(type(trainer.args), "should_save", False):
        # what ZeRO-3 leaves on such a rank: empty shards
        trainer._save(str(tmp_path), {name: w[:0] for name, w in trainer.model.named_parameters()})
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_a_lora_run_under_zero_3_equals_one_without(
    train: Callable[..., int], run_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    import subprocess
    import sys

    from support.paths import ROOT

    assert train(tmp_path / "alone", **OPTIONS, lora_dropout=0.0) == 0
    flags = run_arguments(
        tmp_path / "zero3", **OPTIONS, lora_dropout=0.0, deepspeed="scripts/zero3.json"
    )
    subprocess.run([sys.executable, "-m", "llava.train.train", *flags], cwd=ROOT, check=True)
    losses = [[r["loss"] for r in read_log(tmp_path / name)] for name in ("alone", "zero3")]
    assert losses[0] == pytest.approx(losses[1], rel=SAME_LOSS)
    one, two = (load_file(tmp_path / name / ADAPTER_FILE) for name in ("alone", "zero3"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-3, rtol=1e-2)
