"""Training on streams: an interrupted run equals an undisturbed one, on one rank and on two."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava.train.report.__main__ import main as report
from llava.train.run.bad_samples import read_bad_samples
from llava.train.run.config import read_run_config
from run_kit.checkpoints import checkpoints
from run_kit.log import read_log
from support.equal_runs import assert_equal_runs
from support.hub_server import Hub, serve
from support.paths import ROOT
from support.ranks import ENVIRONMENT, finish, launcher, start, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OPTIONS = {
    "max_steps": 8,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "save_strategy": "steps",
    "save_steps": 3,
    "shuffle_buffer": 5,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "packed": {"pack_sequences": True, "model_max_length": 400},
    "workers": {"dataloader_num_workers": 2},
}


@pytest.fixture
def material(tiny_material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small mixture as four Parquet files with pictures inside, and a mixture file of them."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    shutil.copytree(tiny_material / "data", data)
    entries = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    text = datasets.Value("string")
    features = datasets.Features(
        {
            "id": text,
            "images": [datasets.Image()],
            "positions_thw": text,
            "conversations": [{"from": text, "value": text}],
        }
    )
    (data / "parts").mkdir()
    for part in range(4):
        mine = entries[part::4]
        rows: dict[str, Any] = {
            "id": [entry["id"] for entry in mine],
            "images": [_contents(entry, data) for entry in mine],
            "positions_thw": [entry.get("positions_thw") for entry in mine],
            "conversations": [entry["conversations"] for entry in mine],
        }
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(data / "parts" / f"{part}.parquet")
    (data / "mix.yaml").write_text(
        "datasets:\n  - {hf_path: parts, streaming: true, weight: 2}\n"
        "  - {json_path: train.jsonl, name: lines}\n"
    )
    return data


def _contents(entry: dict[str, Any], data: Path) -> list[dict[str, Any]]:
    named = entry.get("image", [])
    names = [named] if isinstance(named, str) else named
    return [{"bytes": (data / name).read_bytes(), "path": name} for name in names]


def _interrupt(folder: Path, *, last_step: int) -> None:
    """Leave a run's folder as a kill behind its checkpoint of ``last_step`` leaves it."""
    for checkpoint in checkpoints(folder):
        if int(checkpoint.name.split("-")[1]) > last_step:
            shutil.rmtree(checkpoint)
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_resumed_run_equals_an_undisturbed_one(
    train: Callable[..., int], material: Path, tmp_path: Path, variant: str
) -> None:
    flags = {**OPTIONS, **VARIANTS[variant]}
    flags |= {"data_path": material / "mix.yaml", "image_folder": material}
    assert train(tmp_path / "whole", **flags) == 0
    assert train(tmp_path / "again", **flags) == 0
    assert_equal_runs(tmp_path / "whole", tmp_path / "again")
    _interrupt(tmp_path / "again", last_step=3)
    assert train(tmp_path / "again", **flags, resume_from_checkpoint="auto") == 0
    assert_equal_runs(tmp_path / "whole", tmp_path / "again")
    assert [row["step"] for row in read_log(tmp_path / "again")] == list(range(1, 9))
    config: Any = read_run_config(tmp_path / "again")
    assert len(config["starts"]) == 2 and config["data_fingerprint"]["samples"] is None
    page = tmp_path / "page.html"
    assert report([str(tmp_path / "again"), "-o", str(page)]) == 0
    assert (
        "4 shards, streamed, weight 2" in page.read_text() and "all, weight 1" in page.read_text()
    )
    other = {**flags, "dataloader_num_workers": 3, "resume_from_checkpoint": "auto"}
    _interrupt(tmp_path / "again", last_step=3)
    assert train(tmp_path / "again", **other) == 2
    assert train(tmp_path / "again", **other, resume_with_changes=True) == 2
    seed = {**flags, "shuffle_buffer": 6, "resume_from_checkpoint": "auto"}
    assert train(tmp_path / "again", **seed) == 2


def test_two_ranks_that_are_killed_continue_with_equal_losses(
    run_arguments: Callable[..., list[str]], material: Path, tmp_path: Path
) -> None:
    flags: dict[str, Any] = {**OPTIONS, "max_steps": 24, "dataloader_num_workers": 1}
    flags |= {"data_path": material / "parts", "streaming": True, "image_folder": material}
    finish([*launcher(2), *run_arguments(tmp_path / "whole", **flags)])
    folder = tmp_path / "killed"
    command = [*launcher(2), *run_arguments(folder, **flags, resume_from_checkpoint="auto")]
    process = start(command)
    wait_for(process, lambda: len(checkpoints(folder)) >= 1 and len(read_log(folder)) >= 5)
    process.send_signal(signal.SIGTERM)  # the launcher ends its ranks
    process.communicate()
    assert process.returncode != 0 and len(read_log(folder)) < 24
    assert all((path / f"stream_state_{rank}.json").is_file()
               for path in checkpoints(folder) for rank in (0, 1))  # fmt: skip
    finish(command)
    assert_equal_runs(tmp_path / "whole", folder)
    assert read_run_config(folder)["starts"][1]["first_step"] > 1  # type: ignore[index]


def test_a_name_on_the_hub_trains_as_its_files_do(
    train: Callable[..., int],
    run_arguments: Callable[..., list[str]],
    material: Path,
    tmp_path: Path,
) -> None:
    flags: dict[str, Any] = {**OPTIONS, "image_folder": material, "dataloader_num_workers": 2}
    assert train(tmp_path / "files", **flags, data_path=material / "parts", streaming=True) == 0
    files = {f"charts/{path.name}": path.read_bytes() for path in (material / "parts").iterdir()}
    card = "---\nconfigs:\n- config_name: charts\n  data_files:\n"
    card += "  - {split: train, path: charts/*.parquet}\n---\n"
    mixture = material / "hub.yaml"
    mixture.write_text("datasets:\n  - {hf_path: lab/large, subset: charts, streaming: true}\n")
    command = [sys.executable, "-m", "llava.train.train"]
    command += run_arguments(tmp_path / "hub", **flags, data_path=mixture)
    with serve(Hub("lab/large", {**files, "README.md": card.encode()})) as hub:
        environment = {**ENVIRONMENT, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}
        environment |= {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [[row["loss"] for row in read_log(tmp_path / name)] for name in ("files", "hub")]
    assert losses[0] == losses[1] and len(losses[1]) == 8
    assert {name for name, _ in hub.requests} >= set(files)


def test_bad_rows_are_skipped_listed_once_and_limited(
    train: Callable[..., int], material: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [json.loads(line) for line in (material / "train.jsonl").read_text().splitlines()]
    rows[4]["conversations"] = []
    path = material / "bad.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    flags = {**OPTIONS, "data_path": path, "streaming": True, "image_folder": material}
    assert train(tmp_path / "stop", **flags) == 1
    assert "bad.jsonl, shard 1:5" in caplog.text
    flags |= {"on_bad_sample": "skip", "max_bad_fraction": 0.1}
    assert train(tmp_path / "skip", **flags) == 0
    [bad] = read_bad_samples(tmp_path / "skip")
    assert "bad.jsonl, shard 1:5" in bad["message"]
    assert train(tmp_path / "limit", **{**flags, "max_bad_fraction": 0.01}) == 1


def test_a_shard_that_cannot_be_read_on_ends_the_run_which_continues_when_it_is_repaired(
    train: Callable[..., int], material: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = {**OPTIONS, "shuffle_buffer": 1, "image_folder": material, "save_steps": 1}
    flags |= {"data_path": material / "parts", "streaming": True, "on_bad_sample": "skip"}
    assert train(tmp_path / "whole", **flags) == 0
    last = material / "parts" / "3.parquet"
    content, stat = last.read_bytes(), last.stat()
    damaged = bytearray(content)
    damaged[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    last.write_bytes(damaged)
    os.utime(last, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert train(tmp_path / "torn", **flags) == 1
    assert "the stream cannot be read on" in caplog.text and "--on_bad_sample" not in caplog.text
    caplog.clear()
    assert train(tmp_path / "workers", **flags, dataloader_num_workers=2) == 1
    assert "error: " in caplog.text and "Original Traceback" not in caplog.text
    last.write_bytes(content)
    os.utime(last, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = {**flags, "resume_from_checkpoint": "auto", "resume_with_changes": True}
    assert train(tmp_path / "torn", **again) == 0
    assert_equal_runs(tmp_path / "whole", tmp_path / "torn")


def test_what_needs_a_length_is_refused_by_name(
    train: Callable[..., int], material: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    streamed = {"data_path": material / "parts", "streaming": True, "image_folder": material}
    for flags, message in (
        ({"max_steps": -1}, "--max_steps is required where data is streamed"),
        ({"lengths_file": tmp_path / "l.npz"}, "--lengths_file is of numbered entries"),
        ({"ignore_data_skip": True}, "--ignore_data_skip has no meaning where data is streamed"),
        ({"dataloader_num_workers": -1}, "--dataloader_num_workers must be 0 (read in the"),
        ({"shuffle_buffer": 0}, "--shuffle_buffer must be 1 or more, got 0"),
        ({"data_path": material / "none.parquet"}, "none.parquet cannot be read: it does not"),
        (
            {"eval_data_path": material / "mix.yaml", "eval_strategy": "steps", "eval_steps": 1},
            "parts: streaming is for --data_path of training",
        ),
    ):
        assert train(tmp_path / "run", **{**streamed, **flags}) == 2
        assert message in caplog.text
    assert not (tmp_path / "run" / "train_log.jsonl").exists()
