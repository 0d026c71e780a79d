"""Compare a run with codec input and a run with frames, sample by sample."""

from collections.abc import Sequence
from html import escape

from llava.eval.report.results import RunResult, TaskResult, equal_weights
from llava.eval.report.samples import badge
from llava.eval.report.significance import Comparison, compare_paired
from llava.eval.report.tables import interval_text, is_part, task_label, tasks_in_order
from run_kit.pages.charts import Mark, interval_chart
from run_kit.pages.page import table

SIGNIFICANT = 0.05
EQUAL_TOKENS = 0.01
"""Largest relative difference of two token budgets that still count as equal."""


def common_tasks(first: RunResult, second: RunResult) -> list[str]:
    """Return the tasks and groups that both runs have, in order."""
    return [task for task in tasks_in_order([first]) if task in second.results]


def comparison_section(codec: RunResult, frames: RunResult) -> str:
    """Return the comparison of a pair of runs: findings, a chart and a table of tasks."""
    rows: list[list[str]] = []
    marks: list[Mark] = []
    counts = {"codec": 0, "frames": 0, "none": 0}
    for task in common_tasks(codec, frames):
        first, second = codec.results[task], frames.results[task]
        comparison = _compare(codec, frames, first.parts)
        budgets = " / ".join(dict.fromkeys([_tokens(first), _tokens(second)]))
        if comparison is None:
            rows.append(
                [task_label(codec, task), budgets, "", "", "", "", "no common samples with scores"]
            )
            continue
        kind, words = _verdict(comparison, first, second)
        mean = 100 * comparison.difference.mean
        ties = comparison.samples - comparison.wins - comparison.losses
        rows.append(
            [
                task_label(codec, task),
                budgets,
                f"{mean:+.1f}" if mean else "0",
                interval_text(comparison.difference, 100, "+.1f"),
                f"{comparison.wins} / {comparison.losses} / {ties}",
                "&lt; 0.001" if comparison.p_value < 0.001 else f"{comparison.p_value:.3f}",
                f'<span class="words {kind or "none"}">{words}</span>',
            ]
        )
        if kind is not None:
            counts[kind] += len(first.parts) == 1
            ends = (comparison.difference.low, comparison.difference.high)
            low, high = (None if end is None else 100 * end for end in ends)
            marks.append(Mark(task, mean, low, high, kind, is_part(codec, task)))
    header = ["task", "tokens", "difference", "95 % interval", "wins / losses / ties", "p"]
    return (
        f"<h2>Codec input against frames</h2><p>{badge('codec')} {escape(codec.name)}, "
        f"{badge('frames')} {escape(frames.name)}.</p>"
        f"<p>At equal token budgets codec input is better on <b>{counts['codec']}</b>, worse on "
        f"<b>{counts['frames']}</b> of {sum(counts.values())} tasks; on <b>{counts['none']}</b> "
        "no difference is shown. Both runs have the same checkpoint and the same samples. "
        "Differences are codec input minus frames, in percentage points. A win is a sample on "
        "which codec input scores higher. p: two-sided, by random changes of sign of all samples "
        f"of a video at once; a finding needs p &lt; {SIGNIFICANT}, not corrected for the number "
        "of tasks.</p>"
        + (
            interval_chart(
                "Codec input minus frames",
                marks,
                "frames better",
                "codec input better",
                "percentage points",
            )
            if marks
            else ""
        )
        + table([*header, "finding"], rows, {1, 2, 3, 4, 5})
    )


def _compare(codec: RunResult, frames: RunResult, parts: Sequence[str]) -> Comparison | None:
    """Compare the samples that both runs have scores for; every task has the same weight."""
    pairs = [
        _pairs(codec.tasks[task], frames.tasks[task])
        for task in parts
        if task in codec.tasks and task in frames.tasks
    ]
    weights = equal_weights([len(part) for part in pairs])
    weighted = [
        (weight * one, weight * two, group)
        for weight, part in zip(weights, pairs, strict=True)
        for one, two, group in part
    ]
    if not weighted:
        return None
    scores, others, groups = zip(*weighted, strict=True)
    return compare_paired(scores, others, groups)


def _pairs(first: TaskResult, second: TaskResult) -> list[tuple[float, float, str]]:
    """Return both scores of each sample that has them, and its video."""
    return [
        (one.score, two.score, one.video or f"{first.task} {number}")
        for number, one in first.samples.items()
        if one.score is not None
        and (two := second.samples.get(number)) is not None
        and two.score is not None
    ]


def _equal_budgets(first: TaskResult, second: TaskResult) -> bool:
    one, two = first.visual_tokens, second.visual_tokens
    return one is not None and two is not None and abs(one - two) <= EQUAL_TOKENS * max(one, two)


def _verdict(
    comparison: Comparison, codec: TaskResult, frames: TaskResult
) -> tuple[str | None, str]:
    """Return kind and words of a finding; no kind where the task is not compared."""
    if "codec" not in codec.inputs:
        return None, f"no codec input: {codec.input} in both runs"
    if not _equal_budgets(codec, frames):
        return None, "not at equal tokens"
    if comparison.p_value >= SIGNIFICANT:
        return "none", "no difference shown"
    if comparison.difference.mean > 0:
        return "codec", "codec is better"
    return "frames", "codec is worse"


def _tokens(result: TaskResult) -> str:
    return "?" if result.visual_tokens is None else f"{result.visual_tokens:.0f}"
