"""Accuracies of the study with intervals: by arm, budget, kind of question, camera."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from llava.eval.report.significance import (
    Comparison,
    Interval,
    compare_paired,
    confidence_interval,
)
from llava.eval.study.answers import Outcome
from llava.eval.study.arms import CELLS
from llava.eval.study.scenes import KINDS


class Score(NamedTuple):
    """How well an arm answers some questions.

    Attributes:
        accuracy: share of right answers with its interval; clips are drawn as wholes, over seeds.
        ceiling: share of questions whose answer the tokens can show, plus chance for the others.
        answers: how many were given.
    """

    accuracy: Interval
    ceiling: float
    answers: int


def chance(outcomes: Sequence[Outcome]) -> float:
    """Return the accuracy of guessing."""
    return sum(1 / len(KINDS[row.kind].choices) for row in outcomes) / max(len(outcomes), 1)


def score(outcomes: Sequence[Outcome]) -> Score | None:
    """Return the accuracy on some answers, None without any."""
    if not outcomes:
        return None
    groups = [str(row.clip) for row in outcomes]
    right = [float(row.correct) for row in outcomes]
    guesses = sum(0.0 if row.covered else 1 / len(KINDS[row.kind].choices) for row in outcomes)
    seen = sum(row.covered for row in outcomes)
    return Score(
        confidence_interval(right, groups), (seen + guesses) / len(outcomes), len(outcomes)
    )


def select(
    outcomes: Sequence[Outcome],
    *,
    arm: str | None = None,
    num_images: int | None = None,
    kinds: Sequence[str] | None = None,
    where: Callable[[Outcome], bool] | None = None,
) -> list[Outcome]:
    """Return the outcomes of an arm, a budget and kinds of question."""
    return [
        row
        for row in outcomes
        if (arm is None or row.arm == arm)
        and (num_images is None or row.num_images == num_images)
        and (kinds is None or row.kind in kinds)
        and (where is None or where(row))
    ]


def temporal_kinds() -> list[str]:
    """Return the kinds whose answers depend on time, the camera's motion left out: a control."""
    return [name for name, kind in KINDS.items() if kind.temporal and name != "camera"]


def against(outcomes: Sequence[Outcome], arm: str, other: str, num_images: int) -> Comparison:
    """Compare two arms on the same questions of the same models at one budget."""
    kinds = temporal_kinds()
    first = select(outcomes, arm=arm, num_images=num_images, kinds=kinds)
    second = select(outcomes, arm=other, num_images=num_images, kinds=kinds)
    return compare_paired(
        [float(row.correct) for row in first],
        [float(row.correct) for row in second],
        [str(row.clip) for row in first],
    )


def tokens_to_reach(
    outcomes: Sequence[Outcome], arm: str, budgets: Sequence[int], goal: float
) -> float | None:
    """Return the visual tokens at which an arm reaches an accuracy, on straight lines between.

    Returns:
        None where it does not reach it at the largest budget; the smallest budget's tokens where it
        is reached there already.
    """
    points: list[tuple[int, float]] = []
    for budget in sorted(budgets):
        found = score(select(outcomes, arm=arm, num_images=budget, kinds=temporal_kinds()))
        if found is not None:
            points.append((budget * CELLS, found.accuracy.mean))
    if not points or points[-1][1] < goal:
        return None
    if points[0][1] >= goal:
        return float(points[0][0])
    for (tokens, low), (more, high) in zip(points, points[1:], strict=False):
        if low < goal <= high:
            return tokens + (more - tokens) * (goal - low) / (high - low)
    return float(points[-1][0])
