"""A page about evaluations: scores, codec input against frames, what was run, samples.

Run: ``python -m llava.eval.report RESULTS... --out page.html``, RESULTS being output folders of
``scripts/eval/eval_ov_encoder.sh``. Runs of one checkpoint with codec input and with frames are
compared sample by sample.
"""

import argparse
import sys
from collections.abc import Sequence
from html import escape
from itertools import product
from pathlib import Path

from llava.eval.benchmarks.table import find_benchmark
from llava.eval.report.results import ResultsError, RunResult, TaskResult, equal_weights, read_runs
from llava.eval.report.samples import samples_section
from llava.eval.report.significance import Comparison, bootstrap_mean, compare
from llava.exits import USAGE, say
from llava.pages.page import Mark, interval_chart, page, table

SIGNIFICANT = 0.05
EQUAL_TOKENS = 0.01
"""Largest relative difference of two token budgets that still count as equal."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser("report", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="output folders of evaluations")
    parser.add_argument("--out", type=Path, default=Path("report.html"))
    parser.add_argument("--samples", type=int, default=6, help="samples shown of each task")
    args = parser.parse_args(argv)
    try:
        runs = read_runs(args.results)
    except ResultsError as error:
        say(f"error: {error}")
        return USAGE
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(build_page(runs, args.samples), encoding="utf-8")
    sys.stdout.write(f"{args.out}\n")
    return 0


def build_page(runs: Sequence[RunResult], num_samples: int) -> str:
    """Return the whole page as HTML."""
    return page("Evaluation report", build_body(runs, num_samples))


def build_body(runs: Sequence[RunResult], num_samples: int) -> str:
    """Return the sections of the page as HTML, for a page of one's own."""
    pairs = [
        (codec, frames)
        for codec, frames in product(runs, runs)
        if (codec.video_input, frames.video_input) == ("codec", "frames")
        and codec.model == frames.model
        and _common_tasks(codec, frames)
    ]
    comparisons = [_comparison_section(codec, frames) for codec, frames in pairs] or [
        '<p class="note">No two runs of one checkpoint with codec input and with frames on the '
        "same task: nothing to compare.</p>"
    ]
    samples = samples_section(runs, num_samples)
    return "\n".join([_scores_section(runs), *comparisons, _runs_section(runs), samples])


def _common_tasks(first: RunResult, second: RunResult) -> list[str]:
    return [task for task in _in_order([first]) if task in second.results]


def _in_order(runs: Sequence[RunResult]) -> list[str]:
    """Groups and tasks, each once, a group before its tasks."""
    names: list[str] = []
    for run in runs:
        for task in run.tasks:
            names += [name for name, group in run.groups.items() if task in group.parts]
            names.append(task)
    return list(dict.fromkeys(names))


def _label(run: RunResult, name: str) -> str:
    """A task; a group in bold, its tasks set in below it."""
    parts = run.results[name].parts
    if len(parts) > 1:
        return f"<b>{escape(name)}</b>, mean of {len(parts)} tasks"
    return f"{'&emsp;' * _is_part(run, name)}{escape(name)}"


def _is_part(run: RunResult, name: str) -> bool:
    return any(name in group.parts for group in run.groups.values())


def _scores_section(runs: Sequence[RunResult]) -> str:
    rows: list[list[str]] = []
    for task in _in_order(runs):
        having = [run for run in runs if task in run.results]
        for number, run in enumerate(having):
            name = "" if number else _label(run, task)
            rows.append([name, _run_name(run), *_score_cells(run.results[task])])
    header = ["task", "run", "metric", "score", "mean of samples", "95 % interval", "n", "tokens"]
    notes = {
        task: benchmark.note
        for run in runs
        for task in run.tasks
        if (benchmark := find_benchmark(task)) and benchmark.note
    }
    notes |= {
        task: "scored by a judge model, which this page cannot vouch for"
        for run in runs
        for task in run.manifest.get("judged_tasks", [])
    }
    lines = "".join(f"<li>{escape(task)}: {escape(note)}</li>" for task, note in notes.items())
    return (
        "<h2>Scores</h2><p>The score is lmms-eval's own. The mean of samples and its interval "
        "(bootstrap over videos, where there are any) are of the scores that the task gives single "
        "samples; where the task weights them, both differ. A group is the mean of its tasks. "
        "Tokens: visual, per sample.</p>"
        + table(header, rows, {3, 4, 5, 6, 7})
        + (f'<ul class="note">{lines}</ul>' if lines else "")
    )


def _score_cells(result: TaskResult) -> list[str]:
    values = result.value if isinstance(result.value, list) else [result.value]
    cells = [escape(result.metric), " / ".join(f"{value:.4g}" for value in values)]
    if result.scores:
        interval = bootstrap_mean(result.scores, result.groups)
        cells += [f"{interval.mean:.3f}", f"{interval.low:.3f} to {interval.high:.3f}"]
    else:
        cells += ["none", ""]
    tokens = result.visual_tokens
    return [*cells, str(len(result.samples)), "?" if tokens is None else f"{tokens:.0f}"]


def _comparison_section(codec: RunResult, frames: RunResult) -> str:
    """One pair: a line per task, a chart of those at equal budgets, and the count of both ends."""
    rows: list[list[str]] = []
    marks: list[Mark] = []
    counts = {"codec": 0, "frames": 0, "none": 0}
    for task in _common_tasks(codec, frames):
        first, second = codec.results[task], frames.results[task]
        comparison = _compare(codec, frames, first.parts)
        budgets = " / ".join(dict.fromkeys([_tokens(first), _tokens(second)]))
        if comparison is None:
            rows.append(
                [_label(codec, task), budgets, "", "", "", "no scores of samples in common"]
            )
            continue
        equal = _equal_budgets(first, second)
        kind, words = _verdict(comparison) if equal else ("none", "not at equal tokens")
        mean, low, high = (100 * value for value in comparison.difference)
        ties = comparison.samples - comparison.wins - comparison.losses
        rows.append(
            [
                _label(codec, task),
                budgets,
                f"{mean:+.1f} ({low:+.1f} to {high:+.1f})",
                f"{comparison.wins} / {comparison.losses} / {ties}",
                "&lt; 0.001" if comparison.p_value < 0.001 else f"{comparison.p_value:.3f}",
                f'<span class="{kind}">{words}</span>',
            ]
        )
        if equal:
            counts[kind] += len(first.parts) == 1
            marks.append(Mark(task, mean, low, high, kind, _is_part(codec, task)))
    header = ["task", "tokens", "difference, points (95 %)", "wins / losses / ties", "p", "finding"]
    return (
        f"<h2>Codec input against frames: {_run_name(codec)} and {_run_name(frames)}</h2>"
        f"<p>At equal token budgets codec input is better on <b>{counts['codec']}</b>, worse on "
        f"<b>{counts['frames']}</b> of {sum(counts.values())} tasks; on <b>{counts['none']}</b> "
        "no difference is shown. Same checkpoint, same samples; a win is a sample on which codec "
        "input scores higher. p by random changes of sign of all samples of a video at once, "
        f"two-sided, a finding from p &lt; {SIGNIFICANT}, not corrected for the number of "
        "tasks.</p>"
        + (
            interval_chart(marks, "frames better (points)", "codec better (points)")
            if marks
            else ""
        )
        + table(header, rows, {1, 2, 3, 4})
    )


def _compare(codec: RunResult, frames: RunResult, parts: Sequence[str]) -> Comparison | None:
    """On the samples of some tasks that both have a score for; every task has the same weight."""
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
    return compare(scores, others, groups)


def _pairs(first: TaskResult, second: TaskResult) -> list[tuple[float, float, str]]:
    """Both scores of each sample that has them, and what it belongs to."""
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


def _verdict(comparison: Comparison) -> tuple[str, str]:
    if comparison.p_value >= SIGNIFICANT:
        return "none", "no difference shown"
    if comparison.difference.mean > 0:
        return "codec", "codec is better"
    return "frames", "codec is worse"


def _tokens(result: TaskResult) -> str:
    return "?" if result.visual_tokens is None else f"{result.visual_tokens:.0f}"


def _run_name(run: RunResult) -> str:
    return f'{escape(run.name)} <span class="{run.video_input}">{run.video_input}</span>'


def _runs_section(runs: Sequence[RunResult]) -> str:
    """What each run was, from its manifest."""
    rows: list[list[str]] = []
    for label, describe in _FACTS.items():
        rows.append([label, *(describe(run) for run in runs)])
    return "<h2>Runs</h2>" + table(["", *(run.name for run in runs)], rows, set())


def _settings(run: RunResult) -> str:
    names = ("conv_template", "batch_size", "num_frames", "codec_miss", "codec_seq_len_frames")
    names += ("codec_num_images", "codec_square_size", "codec_patch_size")
    values = run.manifest["settings"]
    return "<br>".join(f"{name} {escape(str(values[name]))}" for name in names)


def _visuals(run: RunResult) -> str:
    manifest = run.manifest
    return (
        f"{manifest['hits']} codec assets found, {manifest['misses']} missing "
        f"({manifest['online']} computed in the run), {manifest['frames']} videos as frames, "
        f"{manifest['frame_folders']} folders of frames, {manifest['images']} images"
    )


def _backends(run: RunResult) -> str:
    assets = run.manifest["assets"]
    lines = [f"{escape(name)}: {count}" for name, count in assets["backends"].items()]
    for entry in assets["exactness"]:
        fields = [f"{name} {value}" for name, value in entry.items() if name != "assets"]
        lines.append(escape(", ".join(fields)))
    return "<br>".join(lines) or "none"


def _seconds(run: RunResult) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in run.manifest["seconds"].items())


_FACTS = {
    "checkpoint": lambda run: f"<code>{escape(run.manifest['model']['path'])}</code>",
    "weights": lambda run: f"<code>sha256 {run.model[:16]}</code>",
    "visuals": _visuals,
    "read by": _backends,
    "asset settings": lambda run: (
        "<br>".join(f"<code>{name}</code>" for name in run.manifest["assets"]["fingerprints"])
        or "none"
    ),
    "settings": _settings,
    "answers": lambda run: (
        f"{sum(run.manifest['samples'].values())} in this run, "
        f"{sum(run.manifest['resumed'].values())} from one that broke off"
    ),
    "seconds": _seconds,
    "processes": lambda run: (
        f"{run.manifest['world_size']} on {escape(run.manifest['device'])}, "
        f"{escape(run.manifest['dtype'])}"
    ),
    "versions": lambda run: "<br>".join(
        f"{escape(name)} {escape(str(text))}" for name, text in run.manifest["versions"].items()
    ),
    "ended": lambda run: escape(run.manifest["finished_at"]),
}
"""Lines of the table of runs: label to what the manifest says."""


if __name__ == "__main__":
    sys.exit(main())
