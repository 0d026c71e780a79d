"""The study's page: what each arm reaches at equal visual tokens, winners and losers alike."""

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from llava.eval.report.significance import Interval
from llava.eval.study.answers import Outcome, TestData
from llava.eval.study.arms import ARMS
from llava.eval.study.config import StudyConfig
from llava.eval.study.learning import read_progress
from llava.eval.study.mosaics import STRIPS_STYLE, mosaics_section
from llava.eval.study.results import BASE, ORACLE, RESULTS_FILE, Results, Score, chance, score
from llava.eval.study.scenes import KINDS
from run_kit.files import replace_file
from run_kit.pages.charts import Curve, line_chart
from run_kit.pages.page import page, table

ABLATED = "rd_nearest"
"""The arm of which ablations change one thing."""
_PUBLISHED = ("reference", "mv_residual")
_STYLE = """
.compact { font-size: .82rem; }
.compact td:first-child, .compact th.number { white-space: normal; }
.compact td:first-child { min-width: 11rem; }
"""
_LOSS_FROM_STEP = 100
"""The loss falls so far before that the rest of its curve would be flat."""


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
        f"<style>{_STYLE}{STRIPS_STYLE}</style>",
        _conclusion(results),
        _budget_table(results),
        _curves(results),
        _published(results),
        *(_kind_table(results, budget) for budget in results.budgets),
        _part_table(results, "motion of the camera", lambda row: row.camera),
        _part_table(
            results, "key-frame interval of the encoder", lambda row: str(row.key_frame_interval)
        ),
        _ablation_table(results),
        _learning_curves(config),
        _cost_tables(results, seconds, preparation),
        mosaics_section(results, data),
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
        f"Kinds of question that count below as depending on time: {_names(results.temporal)} "
        "(no selection was tuned with those marked *). "
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
    return "".join(lines)


def _verdict(results: Results, budget: int, kinds: Sequence[str]) -> str:
    better: list[tuple[str, float]] = []
    worse: list[tuple[str, float]] = []
    equal: list[tuple[str, float]] = []
    for arm in results.arms:
        found = None if arm in (BASE, ORACLE) else results.against(arm, BASE, budget, kinds)
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
    parts = [
        f"<h2>Compared with the default, {escape(ARMS[base].title)}</h2>"
        "<p>Points of accuracy on the same questions of the same models, with the 95 % interval of "
        "the difference.</p>"
    ]
    for what, kinds in (("in time", results.temporal), ("controls", results.controls)):
        if not kinds:
            continue
        rows = [
            [escape(ARMS[arm].title)]
            + [_against(results, arm, base, budget, kinds) for budget in results.budgets]
            for arm in results.arms
            if arm != base
        ]
        header = [f"{what}, {results.tokens(budget)} tokens" for budget in results.budgets]
        parts.append(_table(["arm", *header], rows))
    return "".join(parts)


def _against(results: Results, arm: str, base: str, budget: int, kinds: Sequence[str]) -> str:
    found = None if arm == base else results.against(arm, base, budget, kinds)
    return "" if found is None else _difference(found.difference)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of small letters; all columns but the first are numbers."""
    numbers = set(range(1, len(header)))
    return f'<div class="compact">{table(header, rows, numbers)}</div>'


def _budget_table(results: Results) -> str:
    last = results.budgets[-1]
    goals = [arm for arm in (BASE, *_PUBLISHED[:1]) if arm in results.arms]
    rows: list[list[str]] = []
    for arm in results.arms:
        cells = [_cell(results.score(arm, budget, results.temporal)) for budget in results.budgets]
        cells += [_tokens_to_reach(results, arm, goal) for goal in goals]
        if results.controls:
            cells.append(_short_cell(results.score(arm, last, results.controls)))
        rows.append([escape(ARMS[arm].title), *cells])
    header = [f"{results.tokens(budget)} tokens" for budget in results.budgets]
    header += [
        f"tokens for what {ARMS[goal].title} reach with {results.tokens(last)}" for goal in goals
    ]
    if results.controls:
        header.append(f"controls, {results.tokens(last)} tokens")
    guessing = chance([row for row in results.outcomes if row.kind in results.temporal])
    return (
        "<h2>Accuracy at equal visual tokens</h2>"
        "<p>Questions whose answer depends on time, mean over kinds and models, in %. In brackets "
        "the 95 % interval (clips drawn as wholes); then the ceiling: what a perfect reader of the "
        f"same tokens could reach. Guessing reaches {_percent(guessing)}.</p>"
        + _table(["arm", *header], rows)
    )


def _tokens_to_reach(results: Results, arm: str, goal: str) -> str:
    """Return the tokens at which an arm is as good as another at the largest budget."""
    wanted = results.score(goal, results.budgets[-1], results.temporal)
    if wanted is None:
        return ""
    tokens = results.tokens_to_reach(arm, wanted.accuracy.mean)
    if tokens is None:
        return "not reached"
    fewest = results.curve(arm)[0][0]
    return f"{tokens:.0f}" if tokens > fewest else f"{tokens:.0f} or fewer"


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
        for number, arm in enumerate(shown, 1):
            # Whole frames and the oracle have the same colour in every chart.
            colour = {BASE: 0, ORACLE: 1}.get(arm, number)
            if points := results.curve(arm):
                tokens, values = zip(*points, strict=True)
                lines.append(Curve(ARMS[arm].title, list(tokens), list(values), colour))
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
    controls = [_kind_name(name) for name in results.kinds if KINDS[name].control]
    return (
        f"<h2>By kind of question, {results.tokens(budget)} tokens</h2>"
        f"<p>Accuracy / ceiling, in %. Controls, which codec input should not help: "
        f"{', '.join(controls) or 'none'}. No selection was tuned with the kinds marked *.</p>"
        + _table(["arm", *names], rows)
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
    return f"<h2>By {what}, {results.tokens(budget)} tokens</h2>" + _table(["arm", *parts], rows)


def _ablation_table(results: Results) -> str:
    if not results.ablations:
        return ""
    budget = results.config.middle_budget
    rows: list[list[str]] = []
    base = ABLATED if ABLATED in results.arms else BASE
    for arm in [base, *results.ablations]:
        whole = results.score(arm, budget, results.temporal)
        cells = [_short_cell(results.score(arm, budget, [kind])) for kind in results.learnt]
        tokens = "" if whole is None else f"{whole.tokens:.0f}"
        change = _against(results, arm, base, budget, results.temporal)
        rows.append([escape(ARMS[arm].title), tokens, _cell(whole), change, *cells])
    names = [_kind_name(name) for name in results.learnt]
    return (
        f"<h2>Changing one thing, {results.tokens(budget)} tokens</h2>"
        "<p>The models were not trained on these. The residual arms read H.264 clips alone. Where "
        "clips share their budget, each has its own and the mean is given. Learnt kinds alone.</p>"
        + _table(["arm", "tokens", "in time", "difference", *names], rows)
    )


def _learning_curves(config: StudyConfig) -> str:
    lines: list[Curve] = []
    for number, seed in enumerate(config.seeds):
        log = read_progress(config, seed)
        if log := [row for row in log if row.step >= _LOSS_FROM_STEP] or log:
            steps, losses = [row.step for row in log], [row.loss for row in log]
            lines.append(Curve(f"seed {seed}", steps, losses, number))
    lesson = config.lesson_share * config.num_steps
    chart = line_chart(
        f"Training loss, from step {_LOSS_FROM_STEP}", lines, marks=[(lesson, "all arms from here")]
    )
    return f'<h2>Training</h2><div class="charts">{chart}</div>'


def _cost_tables(
    results: Results,
    seconds: Mapping[str, tuple[float, float]],
    preparation: Mapping[str, float],
) -> str:
    budget = results.config.middle_budget
    steps = [[escape(name), f"{wall:.0f}", f"{cpu:.0f}"] for name, (wall, cpu) in seconds.items()]
    rows: list[list[str]] = []
    for arm, cost in preparation.items():
        found = results.score(arm, budget, results.kinds)
        tokens = "" if found is None else f"{found.tokens:.0f}"
        rows.append([escape(ARMS[arm].title), tokens, f"{cost:.3f}"])
    trained: list[list[str]] = []
    for seed in results.config.seeds:
        if log := read_progress(results.config, seed):
            last = log[-1]
            counts = [f"{last.step}", f"{last.visual_tokens:,}", f"{last.cpu_seconds:.0f}"]
            trained.append([f"seed {seed}", *counts])
    return (
        "<h2>Cost</h2><p>All arms train one model together: equal tokens cost equal time there.</p>"
        + _table(["step", "seconds", "processor seconds"], steps)
        + _table(["model", "steps", "visual tokens", "processor seconds of training"], trained)
        + _table(["arm", "tokens of a clip", "processor seconds to prepare a clip"], rows)
    )
