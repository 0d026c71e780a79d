"""TensorBoard gets what the log file has, each data set's loss under its own name."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from run_kit.log import read_log
from support.tolerances import WRITTEN


def test_figures_reach_tensorboard(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    assert train(tmp_path, max_steps=2, report_to="tensorboard", peak_tflops=0.1) == 0
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    rows = read_log(tmp_path)
    names = ["loss", "tokens_per_second", "data_wait_seconds", "mfu", "grad_norm"]
    for name in names:
        values = [event.value for event in events.Scalars(f"train/{name}")]
        assert values == pytest.approx([row[name] for row in rows], rel=WRITTEN)
    losses = [event.value for event in events.Scalars("train/loss_train")]
    assert losses == pytest.approx([row["loss_by_dataset"]["train"] for row in rows], rel=WRITTEN)
    assert all(0 < row["mfu"] < 1 for row in rows)
