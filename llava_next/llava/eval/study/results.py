"""Accuracies of the study with intervals: by arm, budget, kind of question, camera."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from llava.eval.report.significance import (
    Comparison,
    Interval,
    compare_paired,
    confidence_interval,
)
from llava.eval.study.answers import Outcome
from llava.eval.study.arms import ARMS
from llava.eval.study.config import StudyConfig
from llava.eval.study.scenes import KINDS

RESULTS_FILE = "results.json"
BASE = "uniform"
"""The arm that others are compared with: whole frames spread evenly."""
ORACLE = "oracle"


class Score(NamedTuple):
    """How well an arm answers some questions.

    Attributes:
        accuracy: share of right answers with its interval; clips are drawn as wholes, over seeds.
        ceiling: share of questions whose answer the tokens can show, plus chance for the others.
        answers: how many were given.
        tokens: visual tokens of a question, on average.
    """

    accuracy: Interval
    ceiling: float
    answers: int
    tokens: float

    @property
    def is_above(self) -> float:
        """Lower end of the interval, or the mean where there is none."""
        return self.accuracy.mean if self.accuracy.low is None else self.accuracy.low


def chance(rows: Sequence[Outcome]) -> float:
    """Return the accuracy of guessing."""
    return sum(1 / len(KINDS[row.kind].choices) for row in rows) / max(len(rows), 1)


def score(rows: Sequence[Outcome]) -> Score | None:
    """Return the accuracy on some answers, None without any."""
    if not rows:
        return None
    groups = [str(row.clip) for row in rows]
    right = [float(row.correct) for row in rows]
    guesses = sum(0.0 if row.covered else 1 / len(KINDS[row.kind].choices) for row in rows)
    seen = sum(row.covered for row in rows)
    return Score(
        confidence_interval(right, groups),
        (seen + guesses) / len(rows),
        len(rows),
        sum(row.tokens for row in rows) / len(rows),
    )


class Results:
    """All answers of a study, and what follows from them.

    Args:
        config: settings of the study.
        outcomes: outcomes of all its models.
    """

    def __init__(self, config: StudyConfig, outcomes: Sequence[Outcome]) -> None:
        self.config = config
        self.outcomes = outcomes
        self.budgets = sorted(config.budgets)
        self.arms = [arm for arm in config.arms if not ARMS[arm].ablation]
        self.ablations = [arm for arm in config.arms if ARMS[arm].ablation]
        self._rows: Mapping[tuple[str, int, str], list[Outcome]] = defaultdict(list)
        for row in outcomes:
            self._rows[row.arm, row.num_images, row.kind].append(row)
        asked = {row.kind for row in outcomes}
        self.kinds = [name for name in KINDS if name in asked]

    def rows(
        self,
        arm: str,
        num_images: int,
        kinds: Sequence[str],
        where: Callable[[Outcome], bool] | None = None,
    ) -> list[Outcome]:
        """Return the answers of an arm at a budget to some kinds of question."""
        found = [row for kind in kinds for row in self._rows.get((arm, num_images, kind), ())]
        return found if where is None else [row for row in found if where(row)]

    def tokens(self, num_images: int) -> int:
        """Return the visual tokens of a budget."""
        return num_images * self.config.sizes.cells

    def score(self, arm: str, num_images: int, kinds: Sequence[str]) -> Score | None:
        """Return how well an arm does at a budget on some kinds of question."""
        return score(self.rows(arm, num_images, kinds))

    @cached_property
    def temporal(self) -> list[str]:
        """Kinds whose answer depends on time and that the models learnt to answer.

        Learnt is what they answer above chance, by the 95 % interval, where the oracle shows them
        the answer.
        """
        return [name for name in self.learnt if not KINDS[name].control]

    @cached_property
    def learnt(self) -> list[str]:
        """Kinds that are answered above chance by the oracle's choice at any budget."""
        teacher = ORACLE if ORACLE in self.arms else self.arms[0]
        found = [
            name
            for name in self.kinds
            if any(
                (item := self.score(teacher, budget, [name])) is not None
                and item.is_above > 1 / len(KINDS[name].choices)
                for budget in self.budgets
            )
        ]
        return found or self.kinds

    @cached_property
    def controls(self) -> list[str]:
        """Learnt kinds that codec input should not help."""
        return [name for name in self.learnt if KINDS[name].control]

    def against(
        self, arm: str, other: str, num_images: int, kinds: Sequence[str]
    ) -> Comparison | None:
        """Compare two arms on the same questions of the same models at one budget."""
        first = self.rows(arm, num_images, kinds)
        second = self.rows(other, num_images, kinds)
        if not first or len(first) != len(second):
            return None
        return compare_paired(
            [float(row.correct) for row in first],
            [float(row.correct) for row in second],
            [str(row.clip) for row in first],
        )

    def curve(self, arm: str) -> list[tuple[float, float]]:
        """Return (tokens, accuracy) at every budget, on the learnt questions about time."""
        found = [self.score(arm, budget, self.temporal) for budget in self.budgets]
        return [(item.tokens, item.accuracy.mean) for item in found if item is not None]

    def tokens_to_reach(self, arm: str, goal: float) -> float | None:
        """Return the visual tokens at which an arm reaches an accuracy, on straight lines between.

        Returns:
            None where it does not reach it at the largest budget; the smallest budget's tokens
            where it is reached there already.
        """
        points = self.curve(arm)
        if not points or max(accuracy for _, accuracy in points) < goal:
            return None
        if points[0][1] >= goal:
            return points[0][0]
        for (tokens, low), (more, high) in zip(points, points[1:], strict=False):
            if low < goal <= high:
                return tokens + (more - tokens) * (goal - low) / (high - low)
        return None

    def to_json(self) -> dict[str, Any]:
        """Return all figures, ready for JSON."""
        rows: list[dict[str, Any]] = []
        for arm in [*self.arms, *self.ablations]:
            for budget in self.budgets:
                for name, kinds in self._groups().items():
                    if (found := self.score(arm, budget, kinds)) is not None:
                        rows.append(_row(arm, self.tokens(budget), name, found))
        return {
            "settings": self.config.to_json(),
            "learnt": self.learnt,
            "temporal": self.temporal,
            "controls": self.controls,
            "scores": rows,
        }

    def _groups(self) -> dict[str, list[str]]:
        groups = {"temporal": self.temporal, "controls": self.controls}
        return groups | {name: [name] for name in self.kinds}


def _row(arm: str, budget_tokens: int, name: str, found: Score) -> dict[str, Any]:
    return {
        "arm": arm,
        "title": ARMS[arm].title,
        "budget_tokens": budget_tokens,
        "tokens": found.tokens,
        "kind": name,
        "accuracy": found.accuracy.mean,
        "low": found.accuracy.low,
        "high": found.accuracy.high,
        "ceiling": found.ceiling,
        "answers": found.answers,
    }


def figures(out: Path) -> str:
    """Return the figures of a finished study as a Markdown table.

    It has the accuracy of every arm at every budget, with intervals, and on controls where the
    study has any.

    Raises:
        ValueError: if the study in ``out`` has no results yet.
    """
    path = out / RESULTS_FILE
    if not path.exists():
        raise ValueError(f"{path} is missing; run the study to its end first, without --figures")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    scores: list[dict[str, Any]] = content["scores"]
    budgets = sorted({row["budget_tokens"] for row in scores})
    arms = list(dict.fromkeys((row["arm"], row["title"]) for row in scores))
    middle = budgets[len(budgets) // 2]
    header = [
        "arm",
        *(f"{budget} tokens" for budget in budgets),
        f"ceiling, {middle} tokens",
        *([f"controls, {middle} tokens"] if content["controls"] else []),
    ]
    lines = [_line(header), _line(["---"] * len(header))]
    for arm, title in arms:
        found = {(row["budget_tokens"], row["kind"]): row for row in scores if row["arm"] == arm}
        in_time = [found.get((budget, "temporal")) for budget in budgets]
        at_middle = found.get((middle, "temporal"))
        ceiling = "" if at_middle is None else f"{100 * at_middle['ceiling']:.0f}"
        controls = [_cell(found.get((middle, "controls")))] if content["controls"] else []
        lines.append(_line([title, *map(_cell, in_time), ceiling, *controls]))
    kinds = {name: ", ".join(content[name]) or "none" for name in ("temporal", "controls")}
    lines += ["", f"In time: {kinds['temporal']}. Controls: {kinds['controls']}."]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["low"] is None:
        return f"{100 * row['accuracy']:.1f}"
    return f"{100 * row['accuracy']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
