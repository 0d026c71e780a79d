"""Several processes with gloo on the CPU: equal to one process, and what they do when one fails."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava.model.loading import load_pretrained
from run_kit.checkpoints import MARKER_FILE, UNFINISHED_FOLDER, checkpoints
from run_kit.log import read_log
from support.paths import ROOT
from support.ranks import (
    ENVIRONMENT,
    end_all,
    finish,
    launcher,
    parent_of,
    start,
    wait_for,
    workers,
)
from support.tolerances import SAME_LOSS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def _losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder)]


@pytest.mark.parametrize(
    ("stage", "ranks", "attention"),
    [(2, 2, None), (2, 4, None), (3, 2, None), (3, 4, None), (3, 2, "varlen")],
)
def test_ranks_equal_one_process_although_some_hold_text_alone(
    stage: int,
    ranks: int,
    attention: str | None,
    train: Callable[..., int],
    run_arguments: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    assert train(tmp_path / "alone", per_device_train_batch_size=ranks, max_steps=6) == 0
    if ranks == 2:
        # 64 visual tokens are one image: the step's other sample, on the other rank, is text.
        assert 64 in [row["visual_tokens"] for row in read_log(tmp_path / "alone")]
    arguments = run_arguments(
        tmp_path / "ranks",
        per_device_train_batch_size=1,
        max_steps=6,
        deepspeed=f"scripts/zero{stage}.json",
        save_strategy="steps",
        save_steps=3,
        **({} if attention is None else {"attn_implementation": attention}),
    )
    finish([*launcher(ranks), *arguments])
    expected = _losses(tmp_path / "alone")
    assert _losses(tmp_path / "ranks") == pytest.approx(expected, rel=SAME_LOSS)

    (tmp_path / "ranks" / "checkpoint-6" / MARKER_FILE).unlink()
    finish([*launcher(ranks), *arguments, "--resume_from_checkpoint", "auto"])
    assert _losses(tmp_path / "ranks") == pytest.approx(expected, rel=SAME_LOSS)
    load_pretrained(tmp_path / "ranks")


def test_fsdp_equals_one_process_resumes_and_saves_whole_weights(
    train: Callable[..., int], run_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert train(tmp_path / "alone", per_device_train_batch_size=2, max_steps=6) == 0
    options = {"per_device_train_batch_size": 1, "max_steps": 6, "fsdp": True}
    arguments = run_arguments(tmp_path / "ranks", **options, save_strategy="steps", save_steps=3)
    finish([*launcher(2), *arguments])
    expected = _losses(tmp_path / "alone")
    assert _losses(tmp_path / "ranks") == pytest.approx(expected, rel=SAME_LOSS)
    # Accelerate drops a request for FSDP without a word on the CPU; only FSDP writes this file.
    assert (tmp_path / "ranks" / "checkpoint-6" / "pytorch_model_fsdp.bin").is_file()

    (tmp_path / "ranks" / "checkpoint-6" / MARKER_FILE).unlink()
    finish([*launcher(2), *arguments, "--resume_from_checkpoint", "auto"])
    assert _losses(tmp_path / "ranks") == pytest.approx(expected, rel=SAME_LOSS)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "ranks"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-3)
    load_pretrained(tmp_path / "ranks" / "checkpoint-3")


@pytest.mark.parametrize("stage", [2, 3])
def test_ranks_killed_at_any_step_and_within_a_checkpoint_go_on_bit_for_bit(
    stage: int, run_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    options = {
        "per_device_train_batch_size": 1,
        "max_steps": 30,
        "save_strategy": "steps",
        "save_steps": 4,
        "save_total_limit": 2,
        "deepspeed": f"scripts/zero{stage}.json",
    }
    finish([*launcher(2), *run_arguments(tmp_path / "whole", **options)])
    broken = tmp_path / "broken"
    command = [*launcher(2), *run_arguments(broken, **options)]
    command += ["--resume_from_checkpoint", "auto"]

    process = start(command)
    wanted = random.Random(os.getpid()).randint(5, 11)
    wait_for(process, lambda: len(read_log(broken)) >= wanted)
    end_all(process)
    assert checkpoints(broken)

    unfinished = broken / UNFINISHED_FOLDER
    for _ in range(3):  # A checkpoint may be finished between the look and the kill.
        process = start(command)
        wait_for(process, lambda: len(read_log(broken)) >= wanted + 5)
        wait_for(process, lambda: any(unfinished.glob("*/*")))
        end_all(process)
        if unfinished.is_dir() and any(unfinished.iterdir()):
            break
    else:
        pytest.fail("no checkpoint was being written at any of three kills")
    assert all((folder / MARKER_FILE).is_file() for folder in checkpoints(broken))

    finish(command)
    whole, again = read_log(tmp_path / "whole"), read_log(broken)
    keys = ("step", "epoch", "loss", "lr", "grad_norm", "tokens", "loss_by_dataset")
    assert [[row[key] for key in keys] for row in again] == [
        [row[key] for key in keys] for row in whole
    ]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("stage", [None, 3])
def test_a_rank_that_dies_ends_all_within_a_minute(
    stage: int | None, run_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    options = {} if stage is None else {"deepspeed": f"scripts/zero{stage}.json"}
    arguments = run_arguments(tmp_path, max_steps=100000, per_device_train_batch_size=1, **options)
    process = start([*launcher(2), *arguments])
    wait_for(process, lambda: bool(read_log(tmp_path)))
    ranks = workers(process.pid)
    died = time.monotonic()
    os.kill(ranks[-1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and time.monotonic() - died < 60
    assert "Signal 9 (SIGKILL)" in errors
    assert all(parent_of(rank) is None for rank in ranks)


def test_a_bad_sample_of_one_rank_ends_all_within_a_minute_with_its_name(
    run_arguments: Callable[..., list[str]], tiny_material: Path, tmp_path: Path
) -> None:
    lines = (tiny_material / "data" / "train.jsonl").read_text().splitlines()
    damaged = tiny_material / "data" / f"{tmp_path.name}.jsonl"
    damaged.write_text("\n".join([*lines[:-1], "{"]))
    arguments = run_arguments(
        tmp_path, data_path=damaged, max_steps=100000, per_device_train_batch_size=1
    )
    process = start([*launcher(2), *arguments, "--deepspeed", "scripts/zero3.json"])
    wait_for(process, lambda: bool(read_log(tmp_path)))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"{damaged}:12: not valid JSON" in errors


def test_a_full_disk_keeps_the_last_checkpoint(
    train: Callable[..., int], run_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    """On a file system of its own that has room for one checkpoint and a half."""
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}
    assert train(tmp_path / "sized", **options) == 0
    written = checkpoints(tmp_path / "sized")[0]
    size = sum(path.stat().st_size for path in written.rglob("*") if path.is_file()) * 3 // 2
    (tmp_path / "small").mkdir()
    script = (
        f"mount -t tmpfs -o size={size} none {tmp_path / 'small'} || exit 77\n"
        '"$@"; echo "code $?"; ls {0}; ls {0}/*; exit 0'.format(tmp_path / "small")
    )
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare, to mount a small file system")
    arguments = run_arguments(tmp_path / "small", **options)
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "-", sys.executable, "-m", "llava.train.train"]
        + arguments,
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        pytest.skip(f"a file system cannot be mounted here: {result.stderr[-200:]}")
    assert "code 1\n" in result.stdout
    assert "checkpoint-4 cannot be written" in result.stderr and "free some" in result.stderr
    assert "checkpoint-2\n" in result.stdout and MARKER_FILE in result.stdout
    assert "checkpoint-4" not in result.stdout and UNFINISHED_FOLDER not in result.stdout
