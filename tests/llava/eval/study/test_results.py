"""Accuracies, ceilings, tokens at equal accuracy, and which kinds count."""

import json
from pathlib import Path

import pytest

from llava.eval.study.answers import Outcome
from llava.eval.study.config import StudyConfig
from llava.eval.study.results import RESULTS_FILE, Results, chance, figures, score


def outcomes(
    arm: str, num_images: int, share: float, kind: str = "event", covered: float = 1.0
) -> list[Outcome]:
    return [
        Outcome(
            arm=arm,
            num_images=num_images,
            clip=clip,
            camera="still",
            key_frame_interval=30,
            kind=kind,
            correct=clip < 40 * share,
            covered=clip < 40 * covered,
            tokens=16 * num_images,
        )
        for clip in range(40)
    ]


def test_accuracy_ceiling_and_chance() -> None:
    rows = outcomes("bits", 2, 0.25, covered=0.6)
    found = score(rows)
    assert found is not None
    assert found.accuracy.mean == pytest.approx(0.25)
    assert found.accuracy.low is not None
    assert found.accuracy.low < 0.25 < (found.accuracy.high or 0)
    assert found.ceiling == pytest.approx(0.6 + 0.4 / 4)
    assert found.tokens == 32
    assert chance(rows) == pytest.approx(0.25)
    assert score([]) is None


@pytest.fixture
def results(tmp_path: Path) -> Results:
    config = StudyConfig(out=tmp_path, arms=("uniform", "bits", "oracle"), budgets=(2, 4))
    rows: list[Outcome] = []
    for arm, (low, high) in {"uniform": (0.3, 0.5), "bits": (0.4, 0.6), "oracle": (1, 1)}.items():
        rows += outcomes(arm, 2, low) + outcomes(arm, 4, high)
        rows += outcomes(arm, 2, 0.25, "mover") + outcomes(arm, 4, 0.25, "mover")
    return Results(config, rows)


def test_kinds_that_the_oracle_does_not_learn_are_left_out(results: Results) -> None:
    assert results.kinds == ["event", "mover"]
    assert results.temporal == ["event"]


def test_tokens_at_equal_accuracy_are_on_the_line_between_budgets(results: Results) -> None:
    assert results.tokens_to_reach("bits", 0.5) == pytest.approx(48)
    assert results.tokens_to_reach("bits", 0.3) == 32
    assert results.tokens_to_reach("uniform", 0.6) is None


def test_arms_are_compared_question_by_question(results: Results) -> None:
    compared = results.against("bits", "uniform", 4, ["event"])
    assert compared is not None
    assert compared.difference.mean == pytest.approx(0.1)
    assert (compared.wins, compared.losses) == (4, 0)
    assert results.against("bits", "evs", 4, ["event"]) is None


def test_a_table_has_controls_where_they_are_asked(results: Results) -> None:
    file = results.config.out / RESULTS_FILE
    file.write_text(json.dumps(results.to_json()), encoding="utf-8")
    header = figures(results.config.out).splitlines()[0]
    assert header == "| arm | 32 tokens | 64 tokens | ceiling, 64 tokens |"
    with_controls = Results(
        results.config, [*results.outcomes, *outcomes("oracle", 4, 0.9, kind="static")]
    )
    file.write_text(json.dumps(with_controls.to_json()), encoding="utf-8")
    assert figures(results.config.out).splitlines()[0].endswith("| controls, 64 tokens |")
