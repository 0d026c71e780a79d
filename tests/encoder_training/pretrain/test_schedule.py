import pytest

from encoder_training.pretrain.schedule import SCHEDULES, rate_factor


def _published(steps: int, warmup: int) -> list[float]:
    """The recursion of the published training, after its warm-up."""
    rates = [1.0]
    for step in range(warmup + 1, steps):
        fraction = (steps - step) / (steps - step + 1)
        rates.append(rates[-1] * (1 + fraction**2) / 2)
    return rates


@pytest.mark.parametrize(
    ("name", "at_550", "at_750"), [("linear", 0.5, 0.278), ("quadratic", 0.25, 0.077)]
)
def test_both_readings_of_the_published_decay(name: str, at_550: float, at_750: float) -> None:
    factors = [rate_factor(name, step, num_steps=1000, warmup_steps=100) for step in (550, 750)]
    assert factors == pytest.approx([at_550, at_750], abs=5e-4)


def test_linear_is_the_shape_of_the_published_recursion() -> None:
    recursion = _published(1000, 100)
    for step in range(100, 1000, 50):
        closed = rate_factor("linear", step, num_steps=1000, warmup_steps=100)
        assert closed == pytest.approx(recursion[step - 100], rel=0.01, abs=2e-3)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_ends_at_one_and_nothing_is_left_after_the_last_step(name: str) -> None:
    factors = [rate_factor(name, step, num_steps=20, warmup_steps=4) for step in range(20)]
    assert factors[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert all(0 < factor <= 1 for factor in factors)
    assert rate_factor(name, 20, num_steps=20, warmup_steps=4) == 0
    assert rate_factor(name, 0, num_steps=1, warmup_steps=0) == 1
