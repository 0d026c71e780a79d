"""The study's page: what each arm reaches at equal visual tokens, winners and losers alike."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from llava.eval.report.significance import Interval
from llava.eval.study.answers import Outcome, TestData
from llava.eval.study.arms import ARMS, Shown
from llava.eval.study.clips import Clip
from llava.eval.study.config import StudyConfig
from llava.eval.study.drawing import Sizes
from llava.eval.study.learning import read_progress
from llava.eval.study.results import BASE, ORACLE, RESULTS_FILE, Results, Score, chance, score
from llava.eval.study.scenes import KINDS, Cell
from run_kit.files import replace_file
from run_kit.pages.charts import Curve, line_chart
from run_kit.pages.page import figure, page, table

ABLATED = "rd_nearest"
"""The arm of which ablations change one thing."""
_PUBLISHED = ("reference", "mv_residual")
_STRIPS = "display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 0 12px"


def write_page(
    config: StudyConfig,
    outcomes: Sequence[Outcome],
    data: TestData,
    seconds: Mapping[str, tuple[float, float]],
    preparation: Mapping[str, float],
) -> Path:
    """Write ``study.html`` and ``results.json`` below the study's folder; returns the page.

    Args:
        config: settings of the study.
        outcomes: outcomes of all models.
        data: the test clips, of which one is shown.
        seconds: seconds of each step of the study, wall and processor time.
        preparation: processor seconds in which an arm prepares a clip.
    """
    results = Results(config, outcomes)
    parts = [
        _conclusion(results),
        _budget_table(results),
        _curves(results),
        *(_kind_table(results, budget) for budget in results.budgets),
        _part_table(results, "motion of the camera", lambda row: row.camera),
        _part_table(
            results, "key-frame interval of the encoder", lambda row: str(row.key_frame_interval)
        ),
        _ablation_table(results),
        _learning_curves(config),
        _cost_tables(results, seconds, preparation),
        _mosaics(results, data),
        f"<h2>Settings</h2><pre>{escape(json.dumps(config.to_json(), indent=1))}</pre>",
    ]
    with replace_file(config.out / RESULTS_FILE) as partial:
        content = results.to_json() | {"seconds": seconds, "preparation_seconds": preparation}
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    target = config.out / "study.html"
    with replace_file(target) as partial:
        text = page("What is learnt per visual token", "\n".join(parts))
        partial.write_text(text, encoding="utf-8")
    return target


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _cell(found: Score | None) -> str:
    if found is None:
        return ""
    mean, low, high, _ = found.accuracy
    interval = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"<b>{100 * mean:.1f}</b>{interval} / {100 * found.ceiling:.0f}"


def _difference(found: Interval) -> str:
    if found.low is None or found.high is None:
        return f"<b>{100 * found.mean:+.1f}</b>"
    ends = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    return f"<b>{100 * found.mean:+.1f}</b> ({ends})"


def _short_cell(found: Score | None) -> str:
    if found is None:
        return ""
    return f"<b>{100 * found.accuracy.mean:.0f}</b> / {100 * found.ceiling:.0f}"


def _kind_name(name: str) -> str:
    return name.replace("_", " ") + ("" if KINDS[name].tuned else " *")


def _names(kinds: Sequence[str]) -> str:
    return ", ".join(_kind_name(name) for name in kinds) or "none"


def _titles(gains: Sequence[tuple[str, float]]) -> str:
    ordered = sorted(gains, key=lambda item: -item[1])
    return ", ".join(f"{escape(ARMS[arm].title)} ({gain:+.1f})" for arm, gain in ordered) or "none"


def _conclusion(results: Results) -> str:
    """Say which arms beat and which lose to whole frames, by the interval of the difference."""
    missing = [name for name in results.kinds if name not in results.learnt]
    lines = [
        f"<p>{len(results.config.seeds)} models, each trained on clips as all arms show them, "
        f"answer {len(results.outcomes):,} questions about {results.config.num_test_clips} clips. "
        f"Kinds of question that count below as depending on time: {_names(results.temporal)}. "
        f"Not learnt in {results.config.num_steps} steps, even where the answer is shown, and "
        f"therefore left out of the means: {_names(missing)}.</p>"
    ]
    if BASE not in results.arms or not results.temporal:
        return "".join(lines)
    items = [_verdict(results, budget, results.temporal) for budget in results.budgets]
    lines.append(
        "<p>Questions whose answer depends on time, points of accuracy compared with whole frames; "
        "a difference counts where its 95 % interval leaves out zero.</p>"
        f"<ul>{''.join(items)}</ul>"
    )
    if results.controls:
        items = [_verdict(results, budget, results.controls) for budget in results.budgets]
        lines.append(
            f"<p>Controls ({_names(results.controls)}), which codec input should not help:</p>"
            f"<ul>{''.join(items)}</ul>"
        )
    return "".join(lines) + _published(results)


def _verdict(results: Results, budget: int, kinds: Sequence[str]) -> str:
    better: list[tuple[str, float]] = []
    worse: list[tuple[str, float]] = []
    equal: list[tuple[str, float]] = []
    for arm in results.arms:
        found = None if arm == BASE else results.against(arm, BASE, budget, kinds)
        if found is None:
            continue
        low, high = found.difference.low or 0.0, found.difference.high or 0.0
        group = better if low > 0 else worse if high < 0 else equal
        group.append((arm, 100 * found.difference.mean))
    return (
        f"<li><b>{results.tokens(budget)} tokens.</b> Better: {_titles(better)}. "
        f"Worse: {_titles(worse)}. No difference shown: {_titles(equal)}.</li>"
    )


def _published(results: Results) -> str:
    """Compare every arm with the published formula, the default of ``cv_reader``."""
    base = next((arm for arm in _PUBLISHED if arm in results.arms), None)
    if base is None:
        return ""
    rows: list[list[str]] = []
    for arm in results.arms:
        if arm == base:
            continue
        cells: list[str] = []
        for budget in results.budgets:
            for kinds in (results.temporal, results.controls):
                found = results.against(arm, base, budget, kinds)
                cells.append("" if found is None else _difference(found.difference))
        rows.append([escape(ARMS[arm].title), *cells])
    header = [
        f"{results.tokens(budget)} tokens, {what}"
        for budget in results.budgets
        for what in ("in time", "controls")
    ]
    return (
        f"<h2>Compared with the default, {escape(ARMS[base].title)}</h2>"
        "<p>Points of accuracy on the same questions of the same models, with the 95 % interval of "
        "the difference.</p>" + table(["arm", *header], rows, set(range(1, len(header) + 1)))
    )


def _budget_table(results: Results) -> str:
    last = results.budgets[-1]
    goal = results.score(BASE, last, results.temporal) if BASE in results.arms else None
    rows: list[list[str]] = []
    for arm in results.arms:
        cells = [_cell(results.score(arm, budget, results.temporal)) for budget in results.budgets]
        tokens = None if goal is None else results.tokens_to_reach(arm, goal.accuracy.mean)
        controls = _short_cell(results.score(arm, last, results.controls))
        shown = "not reached" if tokens is None else f"{tokens:.0f}"
        rows.append([escape(ARMS[arm].title), *cells, shown, controls])
    header = [f"{results.tokens(budget)} tokens" for budget in results.budgets]
    header.append(f"tokens for what whole frames reach with {results.tokens(last)}")
    header.append(f"controls, {results.tokens(last)} tokens")
    guessing = chance([row for row in results.outcomes if row.kind in results.temporal])
    return (
        "<h2>Accuracy at equal visual tokens</h2>"
        "<p>Questions whose answer depends on time, mean over kinds and models, in %. In brackets "
        "the 95 % interval (clips drawn as wholes); then the ceiling: what a perfect reader of the "
        f"same tokens could reach. Guessing reaches {_percent(guessing)}.</p>"
        + table(["arm", *header], rows, set(range(1, len(header) + 1)))
    )


def _curves(results: Results) -> str:
    groups = {
        "whole frames, random cells, oracle": ("uniform", "half_resolution", "packets", "random"),
        "codec signals": ("reference", "mv_residual", "estimated", "bits"),
        "pixel differences": ("framediff", "rlt", "evs", "rd_hold", "rd_nearest"),
    }
    charts: list[str] = []
    for title, arms in groups.items():
        shown = [arm for arm in (*dict.fromkeys((BASE, *arms)), ORACLE) if arm in results.arms]
        lines: list[Curve] = []
        for number, arm in enumerate(shown):
            if points := results.curve(arm):
                tokens, values = zip(*points, strict=True)
                lines.append(Curve(ARMS[arm].title, list(tokens), list(values), number))
        charts.append(line_chart(f"Accuracy, {title}", lines, smooth=False, axis="visual tokens"))
    return f'<div class="charts">{"".join(charts)}</div>'


def _kind_table(results: Results, budget: int) -> str:
    rows = [
        [
            escape(ARMS[arm].title),
            *(_short_cell(results.score(arm, budget, [kind])) for kind in results.kinds),
        ]
        for arm in results.arms
    ]
    guess = [f"{100 / len(KINDS[name].choices):.0f}" for name in results.kinds]
    rows.append(["guessing", *guess])
    names = [_kind_name(name) for name in results.kinds]
    return (
        f"<h2>By kind of question, {results.tokens(budget)} tokens</h2>"
        "<p>Accuracy / ceiling, in %. Controls: static, sign and camera, which codec input should "
        "not help. No selection was tuned with the kinds marked * in view.</p>"
        + table(["arm", *names], rows, set(range(1, len(names) + 1)))
    )


def _part_table(results: Results, what: str, part: Callable[[Outcome], str]) -> str:
    budget = results.config.middle_budget
    parts = sorted({part(row) for row in results.outcomes}, key=lambda name: (len(name), name))
    rows = [
        [
            escape(ARMS[arm].title),
            *(
                _cell(
                    score(
                        results.rows(
                            arm, budget, results.temporal, lambda row, name=name: part(row) == name
                        )
                    )
                )
                for name in parts
            ),
        ]
        for arm in results.arms
    ]
    return f"<h2>By {what}, {results.tokens(budget)} tokens</h2>" + table(
        ["arm", *parts], rows, set(range(1, len(parts) + 1))
    )


def _ablation_table(results: Results) -> str:
    if not results.ablations:
        return ""
    budget = results.config.middle_budget
    rows: list[list[str]] = []
    for arm in [ABLATED if ABLATED in results.arms else BASE, *results.ablations]:
        whole = results.score(arm, budget, results.temporal)
        cells = [_short_cell(results.score(arm, budget, [kind])) for kind in results.kinds]
        tokens = "" if whole is None else f"{whole.tokens:.0f}"
        rows.append([escape(ARMS[arm].title), tokens, _cell(whole), *cells])
    names = [_kind_name(name) for name in results.kinds]
    return (
        f"<h2>Changing one thing, {results.tokens(budget)} tokens</h2>"
        "<p>The models were not trained on these. The residual arms read H.264 clips alone.</p>"
        + table(["arm", "tokens", "in time", *names], rows, set(range(1, len(names) + 3)))
    )


def _learning_curves(config: StudyConfig) -> str:
    lines: list[Curve] = []
    for number, seed in enumerate(config.seeds):
        if log := read_progress(config, seed):
            steps, losses = [row.step for row in log], [row.loss for row in log]
            lines.append(Curve(f"seed {seed}", steps, losses, number))
    lesson = config.lesson_share * config.num_steps
    return "<h2>Training</h2>" + line_chart(
        "Training loss against optimiser steps", lines, marks=[(lesson, "all arms from here")]
    )


def _cost_tables(
    results: Results,
    seconds: Mapping[str, tuple[float, float]],
    preparation: Mapping[str, float],
) -> str:
    steps = [[escape(name), f"{wall:.0f}", f"{cpu:.0f}"] for name, (wall, cpu) in seconds.items()]
    rows = [[escape(ARMS[arm].title), f"{1000 * cost:.0f}"] for arm, cost in preparation.items()]
    logs = [log for seed in results.config.seeds if (log := read_progress(results.config, seed))]
    trained = "".join(
        f"<p>Seed {seed}: {log[-1].step} steps, {log[-1].visual_tokens:,} visual tokens, "
        f"{log[-1].cpu_seconds:.0f} processor seconds.</p>"
        for seed, log in zip(results.config.seeds, logs, strict=False)
    )
    return (
        "<h2>Cost</h2>"
        + table(["step", "seconds", "processor seconds"], steps, {1, 2})
        + trained
        + f"<p>Preparing one clip, {results.tokens(results.config.middle_budget)} tokens:</p>"
        + table(["arm", "processor milliseconds"], rows, {1})
    )


def _mosaics(results: Results, data: TestData) -> str:
    """Show what arms keep of one clip for every kind: cells that show the answer are framed."""
    budget = results.budgets[0]
    parts = [
        "<h2>What is shown of a clip</h2>"
        f"<p>The {budget} mosaics of every arm, one clip for each kind of question. Framed in red: "
        "cells that show the answer.</p>"
    ]
    for kind in results.kinds:
        picked = next(
            (item for item in data if any(row.kind == kind for row in item[0].questions)), None
        )
        if picked is not None:
            parts.append(_mosaics_of_kind(results, kind, *picked))
    return "\n".join(parts)


def _mosaics_of_kind(
    results: Results, kind: str, clip: Clip, shown: Mapping[tuple[str, int], Shown]
) -> str:
    question = next(row for row in clip.questions if row.kind == kind)
    cells = frozenset[Cell]().union(*question.evidence)
    figures = [
        figure(_strip(what, cells, clip.sizes), ARMS[arm].title)
        for arm in results.arms
        if (what := shown.get((arm, results.budgets[0]))) is not None
    ]
    about = f"{_kind_name(kind)}: “{escape(KINDS[kind].text)}” {escape(question.answer)}"
    is_open = " open" if kind == results.kinds[0] else ""
    return (
        f"<details{is_open}><summary>{about}</summary>"
        f'<div style="{_STRIPS}">{"".join(figures)}</div></details>'
    )


def _strip(shown: Shown, cells: Collection[Cell], sizes: Sizes) -> Image.Image:
    """Return the mosaics side by side, the cells among ``cells`` framed."""
    rows = np.load(shown.positions, allow_pickle=False)
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in shown.images]
    strip = np.concatenate(pictures, 1).copy()
    for number, row in enumerate(map(tuple, rows.tolist())):
        if row in cells:
            mosaic, cell = divmod(number, sizes.cells)
            top, left = cell // sizes.grid, mosaic * sizes.grid + cell % sizes.grid
            _frame(strip, top * sizes.cell_px, left * sizes.cell_px, sizes.cell_px)
    return Image.fromarray(strip)


def _frame(picture: np.ndarray, top: int, left: int, side: int) -> None:
    box = picture[top : top + side, left : left + side]
    for edge in (box[:2], box[-2:], box[:, :2], box[:, -2:]):
        edge[:] = (255, 0, 0)
