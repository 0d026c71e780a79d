import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from llava.model.loading import load_pretrained
from run_kit.log import read_log
from support.paths import ROOT


def _losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder)]


def _run(command: list[str], extensions: Path) -> None:
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(extensions), "CXX": "/bin/false"}
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert not extensions.exists(), "an operator was compiled"


def test_a_run_leaves_a_model_that_loads_and_its_records(
    train: Callable[..., int], tmp_path: Path
) -> None:
    assert train(tmp_path, mm_tunable_parts="mm_mlp_adapter,mm_language_model", seed=3) == 0
    rows = read_log(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[-1]["loss"] < rows[0]["loss"]
    # One epoch: 4 clips of 2 mosaics and 4 images, 64 patches each.
    assert sum(row["visual_tokens"] for row in rows) == 4 * 128 + 4 * 64
    assert all(row["tokens"] > row["visual_tokens"] and row["seconds"] > 0 for row in rows)
    record = json.loads((tmp_path / "run_config.json").read_text())
    assert record["training"]["seed"] == 3
    assert record["trainable_parameters"]["mm_vision_tower"] == 0
    model, processor = load_pretrained(tmp_path)
    assert model.config.use_cache and processor.template == "qwen_1_5"


def test_frozen_parts_keep_their_weights_and_the_projector_is_saved_apart(
    train: Callable[..., int], tiny_material: Path, tmp_path: Path
) -> None:
    assert train(tmp_path, mm_tunable_parts="mm_mlp_adapter") == 0
    before = load_file(tiny_material / "model" / "model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    projector = load_file(tmp_path / "mm_projector.safetensors")
    assert changed == set(projector) == {name for name in before if "mm_projector" in name}
    assert all(torch.equal(projector[name], after[name]) for name in projector)


def test_accumulated_micro_batches_have_the_loss_of_one_batch(
    train: Callable[..., int], tmp_path: Path
) -> None:
    assert train(tmp_path / "whole", max_steps=2) == 0
    micro = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    assert train(tmp_path / "parts", max_steps=2, **micro) == 0
    assert _losses(tmp_path / "parts") == pytest.approx(_losses(tmp_path / "whole"), abs=1e-5)


def test_gradient_checkpointing_changes_no_loss(train: Callable[..., int], tmp_path: Path) -> None:
    assert train(tmp_path / "plain", max_steps=2) == 0
    assert train(tmp_path / "checkpointed", max_steps=2, gradient_checkpointing=True) == 0
    assert _losses(tmp_path / "checkpointed") == pytest.approx(_losses(tmp_path / "plain"))


def test_missing_data_ends_the_run_with_code_2(
    train: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(tmp_path, data_path=tmp_path / "none.jsonl") == 2
    assert "none.jsonl" in caplog.text


def _entry(question: str, **fields: object) -> str:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "Two."}]
    return json.dumps({"conversations": turns, **fields})


BROKEN_LINES = {
    "no JSON": ("{broken", "JSON"),
    "placeholders": (_entry("<image>", image=["a.png", "a.png"]), "1 <image> placeholders"),
    "roles": (
        json.dumps({"conversations": [{"from": "human", "value": "Hi"}]}),
        "must be from gpt",
    ),
    "missing picture": (_entry("<image>", image="none.png"), "none.png cannot be read"),
}


@pytest.mark.parametrize(
    ("case", "workers"), [*((case, 0) for case in BROKEN_LINES), ("missing picture", 1)]
)
def test_a_broken_sample_ends_the_run_with_code_1_and_its_line(
    train: Callable[..., int],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    case: str,
    workers: Any,
) -> None:
    line, message = BROKEN_LINES[case]
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    data = tmp_path / "broken.jsonl"
    data.write_text(line + "\n")
    assert train(tmp_path / "out", data_path=data, dataloader_num_workers=workers) == 1
    assert "broken.jsonl:1" in caplog.text
    assert message in caplog.text


def test_deepspeed_without_gpu_or_use_cpu_ends_the_run_with_code_2(
    train: Callable[..., int],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train(tmp_path, use_cpu=False, deepspeed="scripts/zero2.json") == 2
    assert "add --use_cpu" in caplog.text


@pytest.mark.parametrize("stage", [2, 3])
def test_the_shipped_deepspeed_settings_clip_gradients(stage: int) -> None:
    settings = json.loads((ROOT / "scripts" / f"zero{stage}.json").read_text())
    assert settings["gradient_clipping"] == "auto"
    assert settings["zero_optimization"]["stage"] == stage


@pytest.mark.slow
def test_zero_2_on_one_process_without_launcher_or_compiler(
    run_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    arguments = run_arguments(tmp_path / "run", deepspeed="scripts/zero2.json")
    _run(["llava.train.train", *arguments], tmp_path / "extensions")
    losses = _losses(tmp_path / "run")
    assert len(losses) == 3 and losses[2] < losses[0]


def test_labels_are_smoothed_where_asked_for(train: Callable[..., int], tmp_path: Path) -> None:
    assert train(tmp_path / "plain", max_steps=1) == 0
    assert train(tmp_path / "smooth", max_steps=1, label_smoothing_factor=0.5) == 0
    plain, smooth = (read_log(tmp_path / name)[0]["loss"] for name in ("plain", "smooth"))
    assert smooth > 0 and smooth != plain


def test_by_default_steps_hold_samples_of_similar_length_and_lengths_are_kept(
    train: Callable[..., int], tiny_material: Path, tmp_path: Path
) -> None:
    kept_by_others = shutil.ignore_patterns("*.lengths-*")
    shutil.copytree(tiny_material / "data", tmp_path / "data", ignore=kept_by_others)
    data = tmp_path / "data" / "train.jsonl"
    options = {"data_path": data, "max_steps": 3, "per_device_train_batch_size": 4}
    assert train(tmp_path / "random", **options) == 0
    assert train(tmp_path / "grouped", **options, balance_lengths=True) == 0
    tokens = {
        name: [row["tokens"] for row in read_log(tmp_path / name)] for name in ("random", "grouped")
    }
    assert sum(tokens["random"]) == sum(tokens["grouped"])
    [kept] = data.parent.glob("train.jsonl.lengths-*.npz")
    with np.load(kept) as file:
        lengths = np.sort(file["text"] + file["visual"]).reshape(3, 4)
    assert sorted(tokens["grouped"]) == lengths.sum(axis=1).tolist() != sorted(tokens["random"])
    before = kept.stat().st_mtime_ns
    assert train(tmp_path / "again", **options, balance_lengths=True) == 0
    assert kept.stat().st_mtime_ns == before


def test_a_broken_sample_that_is_found_before_the_start_is_code_2(
    train: Callable[..., int], tiny_material: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (tiny_material / "data" / "train.jsonl").read_text().splitlines()
    broken = tmp_path / "broken.jsonl"
    broken.write_text("\n".join([lines[2], "{"]))
    assert train(tmp_path / "out", data_path=broken, balance_lengths=True) == 2
    assert "broken.jsonl:2" in caplog.text and "--on_bad_sample skip" in caplog.text
