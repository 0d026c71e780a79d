"""The tables of an evaluation page: scores of all runs, and what each run was."""

from collections.abc import Sequence
from html import escape

from llava.eval.benchmarks.table import find_benchmark
from llava.eval.report.results import RunResult, TaskResult
from llava.eval.report.samples import badge
from llava.eval.report.significance import FEWEST_GROUPS, Interval, confidence_interval
from run_kit.pages.page import table
from run_kit.pages.text import breakable, duration_text


def tasks_in_order(runs: Sequence[RunResult]) -> list[str]:
    """Return groups and tasks, each once, a group before its tasks."""
    names: list[str] = []
    for run in runs:
        for task in run.tasks:
            names += [name for name, group in run.groups.items() if task in group.parts]
            names.append(task)
    return list(dict.fromkeys(names))


def task_label(run: RunResult, name: str) -> str:
    """Return the name of a task as HTML; groups are bold, their tasks indented."""
    parts = run.results[name].parts
    if len(parts) > 1:
        return f"<div><b>{breakable(name)}</b> <small>mean of {len(parts)} tasks</small></div>"
    return f'<div class="in{int(is_part(run, name))}">{breakable(name)}</div>'


def is_part(run: RunResult, name: str) -> bool:
    """Return whether a task belongs to a group of the run."""
    return any(name in group.parts for group in run.groups.values())


def interval_text(interval: Interval, scale: float, form: str) -> str:
    """Return an interval with its method below it, or why there is none, as HTML.

    Args:
        interval: interval whose ends are in the unit of the scores.
        scale: factor of the numbers shown, 100 for percent.
        form: format of a number.
    """
    if interval.low is None or interval.high is None:
        return f"<small>{escape(interval.method)}</small>"
    low, high = (format(scale * value, form) for value in (interval.low, interval.high))
    return f"{low} to {high}<br><small>{escape(interval.method)}</small>"


def scores_section(runs: Sequence[RunResult]) -> str:
    """Return the table of all scores, with what to know about single tasks below it."""
    rows: list[list[str]] = []
    for task in tasks_in_order(runs):
        having = [run for run in runs if task in run.results]
        rows.append([task_label(having[0], task)])
        for run in having:
            result = run.results[task]
            depth = 1 + is_part(run, task)
            cells = _score_cells(result)
            rows.append(
                [f'<div class="in{depth}">{breakable(run.name)}</div>', badge(result.input), *cells]
            )
    header = ["task and run", "shown as", "score", "mean", "95 % interval", "samples", "tokens"]
    notes = {
        task: benchmark.note
        for run in runs
        for task in run.tasks
        if (benchmark := find_benchmark(task)) and benchmark.note
    }
    notes |= {
        task: "scored by a judge model, which this page cannot check"
        for run in runs
        for task in run.manifest.get("judged_tasks", [])
    }
    lines = "".join(f"<li>{escape(task)}: {escape(note)}</li>" for task, note in notes.items())
    return (
        "<h2>Scores</h2><p>The score is the one that lmms-eval reports. The mean and its interval "
        "come from the scores of single samples; where a task weights its samples, "
        "the two differ. Questions on one video are not independent, so intervals count videos: a "
        f"bootstrap over at least {FEWEST_GROUPS} videos, else a Wilson interval for right and "
        "wrong answers, else none. A group is the mean of its tasks. Tokens are visual tokens per "
        "sample.</p>"
        + table([*header, "metric"], rows, {2, 3, 4, 5, 6})
        + (f'<ul class="note">{lines}</ul>' if lines else "")
    )


def _score_cells(result: TaskResult) -> list[str]:
    """Return score, mean, interval, samples, tokens, metric; shares of 1 all in percent."""
    values = result.value if isinstance(result.value, list) else [result.value]
    if not result.scores:
        score = " / ".join(f"{value:.4g}" for value in values)
        cells = [score, "<small>none of single samples</small>", ""]
    else:
        interval = confidence_interval(result.scores, result.groups)
        if result.is_share:
            shares = [_percent(value, 100 * interval.mean) for value in values]
            cells = [
                " / ".join(f"{share:.1f} %" for share in shares),
                f"{100 * interval.mean:.1f} %",
            ]
            cells.append(interval_text(interval, 100, ".1f"))
        else:
            cells = [" / ".join(f"{value:.4g}" for value in values), f"{interval.mean:.4g}"]
            cells.append(interval_text(interval, 1, ".4g"))
    tokens = result.visual_tokens
    shown = "?" if tokens is None else f"{tokens:.0f}"
    return [*cells, str(len(result.samples)), shown, escape(result.metric)]


def _percent(value: float, mean: float) -> float:
    """Return a score in percent: tasks give percent or a share of 1; the nearer to the mean."""
    return min((100 * value, value), key=lambda candidate: abs(candidate - mean))


def runs_section(runs: Sequence[RunResult]) -> str:
    """Return the table of what each run was, from its manifest."""
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
    lookups = (
        f"{manifest['hits']} codec assets found, {manifest['misses']} missing"
        f" ({manifest['online']} computed in the run)"
    )
    counts = {
        lookups: manifest["hits"] + manifest["misses"],
        f"{manifest['frames']} videos as frames": manifest["frames"],
        f"{manifest['frame_folders']} folders of frames": manifest["frame_folders"],
        f"{manifest['images']} images": manifest["images"],
    }
    return ", ".join(text for text, count in counts.items() if count) or "none"


def _backends(run: RunResult) -> str:
    assets = run.manifest["assets"]
    lines = [f"{escape(name)}: {count}" for name, count in assets["backends"].items()]
    for entry in assets["exactness"]:
        fields = [f"{name} {value}" for name, value in entry.items() if name != "assets"]
        lines.append(escape(", ".join(fields)))
    return "<br>".join(lines) or "none"


def _seconds(run: RunResult) -> str:
    return ", ".join(
        f"{name} {duration_text(value)}" for name, value in run.manifest["seconds"].items()
    )


def _default_stops(run: RunResult) -> str:
    left_out = run.manifest.get("default_stop_strings", {}).get("left_out", {})
    tasks = ", ".join(map(escape, left_out))
    return f"lmms-eval's own, left out: {tasks}" if tasks else "as the tasks state"


def _clock(stamp: str) -> str:
    """Return a manifest's time, ``2030-01-02T03-04-05Z``, as people write it."""
    day, _, time = stamp.removesuffix("Z").partition("T")
    return f"{day} {time.replace('-', ':')} UTC"


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
    "stop strings": _default_stops,
    "answers": lambda run: (
        f"{sum(run.manifest['samples'].values())} in this run, "
        f"{sum(run.manifest['resumed'].values())} from an interrupted run"
    ),
    "time": _seconds,
    "processes": lambda run: (
        f"{run.manifest['world_size']} on {escape(run.manifest['device'])}, "
        f"{escape(run.manifest['dtype'])}"
    ),
    "versions": lambda run: "<br>".join(
        f"{escape(name)} {escape(str(text))}" for name, text in run.manifest["versions"].items()
    ),
    "ended": lambda run: escape(_clock(run.manifest["finished_at"])),
}
"""Rows of the table of runs: label, and what the manifest says."""
