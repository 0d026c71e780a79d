"""A run that is interrupted anywhere and continued equals an undisturbed one, bit for bit."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava.train.trainer import LlavaTrainer
from run_kit.checkpoints import MARKER_FILE, checkpoints
from run_kit.log import read_log
from support.equal_runs import assert_equal_runs
from support.paths import ROOT

OPTIONS = {
    "max_steps": 6,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 2,
}
KILL_AT = 7
"""Micro-step before which a run is broken off."""
VARIANTS = {
    "plain": {},
    "packed": {"pack_sequences": True, "model_max_length": 400},
    "balanced": {"balance_lengths": True, "dataloader_num_workers": 1},
}


class _Killed(BaseException):
    pass


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Digests of all batches trained on; ``kill_at`` ends the run before that micro-step."""
    seen: list[str] = []
    step = LlavaTrainer.training_step

    def recorded(self: Any, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        if len(seen) == recorded.kill_at:
            raise _Killed
        visual = inputs["visual"]
        patches = b"" if visual is None else visual.patches.numpy().tobytes()
        seen.append(hashlib.sha256(inputs["input_ids"].numpy().tobytes() + patches).hexdigest())
        return step(self, model, inputs, num_items_in_batch)

    recorded.kill_at = None
    recorded.seen = seen
    monkeypatch.setattr(LlavaTrainer, "training_step", recorded)
    return recorded


@pytest.mark.parametrize(
    "variant",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("plain", "packed")), "balanced"],
)
def test_batches_losses_and_weights_are_the_undisturbed_ones(
    train: Callable[..., int], tmp_path: Path, batches: Any, variant: Any
) -> None:
    options = OPTIONS | VARIANTS[variant]
    assert train(tmp_path / "whole", **options) == 0
    whole, batches.kill_at = batches.seen.copy(), KILL_AT
    batches.seen.clear()
    with pytest.raises(_Killed):
        train(tmp_path / "broken", **options)
    assert checkpoints(tmp_path / "broken") and batches.seen == whole[:KILL_AT]
    batches.seen.clear()
    batches.kill_at = None
    assert train(tmp_path / "broken", **options, resume_from_checkpoint="auto") == 0
    again = len(batches.seen)
    assert len(whole) - KILL_AT <= again < len(whole) and batches.seen == whole[-again:]
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "packed"])
def test_a_run_that_is_killed_goes_on_as_if_nothing_had_happened(
    run_arguments: Callable[..., list[str]], train: Callable[..., int], tmp_path: Path, variant: str
) -> None:
    options = OPTIONS | VARIANTS[variant] | {"max_steps": 30, "save_total_limit": 1}
    assert train(tmp_path / "whole", **options) == 0
    command = [sys.executable, "-m", "llava.train.train"]
    command += run_arguments(tmp_path / "broken", **options, resume_from_checkpoint="auto")
    moment = random.Random(os.getpid())
    for _ in range(2):
        last = len(read_log(tmp_path / "broken"))
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        wanted = last + moment.randint(3, 9)
        while len(read_log(tmp_path / "broken")) < wanted and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        complete = [path for path in checkpoints(tmp_path / "broken")]
        assert all((path / MARKER_FILE).is_file() for path in complete)
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    assert_equal_runs(tmp_path / "whole", tmp_path / "broken")
