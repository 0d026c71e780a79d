"""Accuracies, ceilings and tokens at equal accuracy."""

import pytest

from llava.eval.study.answers import Outcome
from llava.eval.study.arms import CELLS
from llava.eval.study.results import chance, score, select, tokens_to_reach


def outcomes(arm: str, budget: int, right: int, of: int, covered: int) -> list[Outcome]:
    return [
        Outcome(arm, budget, clip, "still", 30, "event", clip < right, clip < covered)
        for clip in range(of)
    ]


def test_accuracy_ceiling_and_chance() -> None:
    rows = outcomes("bits", 2, right=5, of=20, covered=12)
    found = score(rows)
    assert found is not None
    assert found.accuracy.mean == pytest.approx(0.25)
    assert found.accuracy.low < 0.25 < found.accuracy.high
    assert found.ceiling == pytest.approx((12 + 8 / 4) / 20)
    assert chance(rows) == pytest.approx(0.25)
    assert score(select(rows, arm="uniform")) is None


def test_tokens_at_equal_accuracy_lie_on_the_line_between_budgets() -> None:
    rows = outcomes("bits", 2, 4, 20, 20) + outcomes("bits", 4, 12, 20, 20)
    assert tokens_to_reach(rows, "bits", (2, 4), 0.4) == pytest.approx(3 * CELLS)
    assert tokens_to_reach(rows, "bits", (2, 4), 0.1) == 2 * CELLS
    assert tokens_to_reach(rows, "bits", (2, 4), 0.7) is None
