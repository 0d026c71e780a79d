"""Runs with switches of the library: optimisers, trackers, compilation."""

import contextlib
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.version import Version

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


def test_a_local_store_of_mlflow_gets_the_figures(
    run_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Read back by SQL, not by MLflow."""
    pytest.importorskip("mlflow")
    store = tmp_path / "mlflow.db"
    settings = {"MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
    command = [sys.executable, "-m", "llava.train.train"]
    command += run_arguments(tmp_path / "run", report_to="mlflow", max_steps=2)
    subprocess.run(command, cwd=ROOT, env={**ENVIRONMENT, **settings}, check=True)
    with contextlib.closing(sqlite3.connect(store)) as database:
        query = "select value from metrics where key = 'loss' order by step"
        found = [value for (value,) in database.execute(query)]
    assert found == pytest.approx(_losses(tmp_path / "run"))


def test_an_offline_run_of_swanlab_gets_the_figures(
    run_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    swanlab = pytest.importorskip("swanlab")
    if Version(swanlab.__version__) >= Version("0.8"):
        pytest.skip("the library's callback needs an earlier swanlab")
    settings = {"SWANLAB_MODE": "offline", "SWANLAB_LOG_DIR": str(tmp_path / "swanlab")}
    command = [sys.executable, "-m", "llava.train.train"]
    command += run_arguments(tmp_path / "run", report_to="swanlab", max_steps=2)
    subprocess.run(command, cwd=ROOT, env={**ENVIRONMENT, **settings}, check=True)
    [file] = (tmp_path / "swanlab").glob("run-*/backup.swanlab")
    scalar = rb'"data": ([0-9.]+), [^{}]*}, "key": "train/loss", "step": (\d+)'
    found = [(int(step), float(loss)) for loss, step in re.findall(scalar, file.read_bytes())]
    assert found == list(enumerate(map(pytest.approx, _losses(tmp_path / "run")), start=1))


# Triton's interpreter runs kernels on the CPU, but passes numbers as numbers where compiled kernels
# have tensors, and has no square roots of the device's library.
_INTERPRETED = """
import sys
import numpy as np
import triton.language as tl
from triton.runtime import interpreter

convert = interpreter._implicit_cvt
interpreter._implicit_cvt = lambda value: (
    tl.tensor(interpreter.TensorHandle(np.array([value], np.float32), tl.float32), tl.float32)
    if isinstance(value, float) else convert(value)
)
import liger_kernel.ops.rms_norm
liger_kernel.ops.rms_norm.rsqrt = lambda value: 1.0 / tl.sqrt(value)
from liger_kernel.transformers import LigerRMSNorm, LigerSwiGLUMLP
calls = dict.fromkeys((LigerRMSNorm, LigerSwiGLUMLP), 0)
for kind in calls:
    def forward(self, *inputs, kind=kind, real=kind.forward):
        calls[kind] += 1
        return real(self, *inputs)
    kind.forward = forward

from llava.train.train import main
code = main(sys.argv[1:])
print("calls", *calls.values())
sys.exit(code)
"""


def test_the_kernels_of_liger_give_the_same_losses(
    run_arguments: Callable[..., list[str]], train: Callable[..., int], tmp_path: Path
) -> None:
    """The kernels themselves run, in Triton's interpreter, which takes seconds per ten tokens."""
    pytest.importorskip("liger_kernel")
    pytest.importorskip("triton")
    said = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    (tmp_path / "one.json").write_text(json.dumps([{"id": "one", "conversations": said}] * 2))
    options = {"data_path": tmp_path / "one.json", "max_steps": 2, "per_device_train_batch_size": 1}
    assert train(tmp_path / "plain", **options) == 0
    flags = run_arguments(tmp_path / "liger", **options, use_liger_kernel=True)
    done = subprocess.run(
        [sys.executable, "-c", _INTERPRETED, *flags],
        cwd=ROOT,
        env={**ENVIRONMENT, "TRITON_INTERPRET": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    norms, layers = map(int, done.stdout.split("calls ")[1].split()[:2])
    assert norms > layers >= 4, "every layer of every step went through the kernels"
    expected = pytest.approx(_losses(tmp_path / "plain"), rel=SAME_LOSS)
    assert _losses(tmp_path / "liger") == expected


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
