"""A run whose loss or weights are not finite ends with the names of the samples that came first."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from llava.train.run.divergence import DivergedRunError, FiniteCheck
from run_kit.log import LOG_FILE, read_log

NAN, GOOD = torch.tensor(float("nan")), torch.tensor(1.0)


@pytest.fixture
def check() -> FiniteCheck:
    return FiniteCheck(Accelerator(cpu=True), gradients_may_overflow=False)


def test_three_steps_in_a_row_end_the_run_with_the_first_samples(check: FiniteCheck) -> None:
    for step in (1, 2, 4, 5):
        check.add(step, NAN, [f"sample_{step}"])
        check.add(step, GOOD, ["innocent"])
        check.check()
        if step == 2:
            check.add(3, GOOD, ["good"])
            check.check()
    check.add(6, torch.tensor(float("inf")), ["sample_6"])
    with pytest.raises(DivergedRunError, match="step 4 was the first, with the samples sample_4"):
        check.check()


def test_steps_between_log_lines_are_looked_at_together(check: FiniteCheck) -> None:
    for step in range(1, 5):
        check.add(step, GOOD if step == 1 else NAN, [f"sample_{step}"])
    with pytest.raises(DivergedRunError, match="step 2 .* sample_2"):
        check.check()


def test_a_gradient_that_is_not_finite_names_its_own_step(check: FiniteCheck) -> None:
    check.add(1, GOOD, ["guilty"])
    check.check(grad_norm=float("nan"))
    for step in (2, 3):
        check.add(step, NAN, ["later"])
    with pytest.raises(DivergedRunError, match="step 1 .* guilty"):
        check.check()


def test_overflow_under_loss_scaling_is_normal() -> None:
    check = FiniteCheck(Accelerator(cpu=True), gradients_may_overflow=True)
    for step in range(9):
        check.add(step, GOOD, ["sample"])
        check.check(grad_norm=float("inf"))


def test_weights_that_are_not_finite_are_not_saved(check: FiniteCheck) -> None:
    layer = torch.nn.Linear(2, 2)
    check.check_weights(layer.parameters())
    layer.weight.data[1, 1] = float("inf")
    with pytest.raises(DivergedRunError, match="weights are NaN or infinite"):
        check.check_weights(layer.parameters())
    layer.weight.requires_grad_(False)
    check.check_weights(layer.parameters())


@pytest.mark.parametrize("steps", [8, 2])
def test_a_diverged_run_ends_with_code_1_and_saves_nothing(
    train: Callable[..., int],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    steps: int,
) -> None:
    """A huge learning rate ruins the weights; two steps are too few for the rule of three."""
    rates = {"learning_rate": 1e30} if steps == 2 else {"learning_rate": 1e12}
    options = {"max_steps": steps, "save_strategy": "steps", "save_steps": 1, "warmup_steps": 0}
    assert train(tmp_path, **options, **rates, max_grad_norm=0.0) == 1
    assert "the run diverged" in caplog.text and "lower --learning_rate" in caplog.text
    assert not (tmp_path / "model.safetensors").exists()
    rows = read_log(tmp_path)
    text = (tmp_path / LOG_FILE).read_text()
    assert "NaN" not in text and "Infinity" not in text
    for line in text.splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert rows[0]["loss"] is not None and np.isfinite(rows[0]["loss"])
