"""Runs with switches of the library: optimisers, trackers, compilation."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from run_kit.log import read_log
from support.paths import ROOT
from support.ranks import ENVIRONMENT
from support.tolerances import SAME_LOSS

pytestmark = pytest.mark.slow


def _losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder)]


@pytest.mark.parametrize("name", ["adamw_torch_fused", "adafactor", "adamw_8bit", "sgd"])
def test_optimisers_of_the_library_learn(
    train: Callable[..., int], tmp_path: Path, name: str
) -> None:
    if "8bit" in name:
        pytest.importorskip("bitsandbytes")
    rate = {"learning_rate": 0.05} if name == "sgd" else {}
    options = {"max_steps": 6, "per_device_train_batch_size": 12}  # all samples in each step
    assert train(tmp_path, **options, optim=name, **rate, report_to="none") == 0
    losses = _losses(tmp_path)
    assert losses[-1] < 0.9 * losses[0]


def test_an_offline_run_of_wandb_gets_the_figures(
    run_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    """In a process of its own, at whose end the file is complete."""
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    settings = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    command = [sys.executable, "-m", "llava.train.train"]
    command += run_arguments(tmp_path / "run", report_to="wandb", max_steps=2)
    subprocess.run(command, cwd=ROOT, env={**ENVIRONMENT, **settings}, check=True)
    [file] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    store = DataStore()
    store.open_for_scan(str(file))
    found: list[float] = []
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {"/".join(item.nested_key): item.value_json for item in record.history.item}
        if "train/loss" in items:
            found.append(json.loads(items["train/loss"]))
    assert found == pytest.approx(_losses(tmp_path / "run"))


def test_a_compiled_model_has_the_same_losses(
    train: Callable[..., int], tiny_material: Path, tmp_path: Path
) -> None:
    """Captured by dynamo and run as it is: generating kernels would take minutes here."""
    lines = (tiny_material / "data" / "train.jsonl").read_text().splitlines()
    clips = tmp_path / "clips.jsonl"
    clips.write_text("\n".join(line for line in lines if "positions_thw" in line))
    options = {"data_path": clips, "image_folder": tiny_material / "data", "max_steps": 2}
    assert train(tmp_path / "plain", **options) == 0
    compiled = {"torch_compile": True, "torch_compile_backend": "eager"}
    assert train(tmp_path / "compiled", **options, **compiled) == 0
    expected = pytest.approx(_losses(tmp_path / "plain"), rel=SAME_LOSS)
    assert _losses(tmp_path / "compiled") == expected
