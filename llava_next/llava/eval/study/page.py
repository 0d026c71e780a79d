"""The study's page: what each arm reaches at equal visual tokens, winners and losers alike."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from llava.eval.study.answers import Outcome, TestData
from llava.eval.study.arms import ARMS, CELLS, GRID
from llava.eval.study.config import StudyConfig
from llava.eval.study.results import (
    Score,
    against,
    chance,
    score,
    select,
    temporal_kinds,
    tokens_to_reach,
)
from llava.eval.study.scenes import CELL_PX, KINDS
from run_kit.files import replace_file
from run_kit.pages.charts import Curve, line_chart
from run_kit.pages.page import figure, page, table

BASE = "uniform"
"""The arm that others are compared with: whole frames spread evenly."""


def write_page(
    config: StudyConfig, outcomes: Sequence[Outcome], data: TestData, seconds: dict[str, float]
) -> Path:
    """Write ``study.html`` below the study's folder; returns its path."""
    budgets = sorted(config.budgets)
    parts = [
        _conclusion(config, outcomes),
        "<h2>Accuracy at equal visual tokens</h2>",
        "<p>Questions whose answer depends on time, mean over all kinds and models. In brackets "
        "the 95 % interval (clips drawn as wholes); then the ceiling: what a perfect reader of the "
        f"same tokens could reach. Guessing reaches {_percent(chance(_temporal(outcomes)))}.</p>",
        _budget_table(config, outcomes, budgets),
        line_chart(
            "Accuracy (share of right answers) against visual tokens",
            [
                Curve(ARMS[arm].title, [budget * CELLS for budget in budgets], values, number)
                for number, arm in enumerate(_compared(config))
                if (values := _curve(outcomes, arm, budgets))
            ],
            smooth=False,
        ),
        *(_kind_table(config, outcomes, budget) for budget in budgets),
        _camera_table(config, outcomes),
        _interval_table(config, outcomes),
        _ablation_table(config, outcomes),
        _learning_curves(config),
        _cost_table(seconds),
        _mosaics(config, data),
        f"<h2>Settings</h2><pre>{escape(json.dumps(config.to_json(), indent=1))}</pre>",
    ]
    target = config.out / "study.html"
    with replace_file(target) as partial:
        text = page("What is learnt per visual token", "\n".join(parts))
        partial.write_text(text, encoding="utf-8")
    return target


def _compared(config: StudyConfig) -> list[str]:
    return [arm for arm in config.arms if not ARMS[arm].ablation]


def _ablation_table(config: StudyConfig, outcomes: Sequence[Outcome]) -> str:
    arms = [arm for arm in config.arms if ARMS[arm].ablation]
    budget = config.middle_budget
    base = "rd_nearest" if "rd_nearest" in config.arms else BASE
    rows: list[list[str]] = []
    for arm in [base, *arms]:
        found = [
            score(select(outcomes, arm=arm, num_images=budget, kinds=[kind])) for kind in KINDS
        ]
        whole = score(select(outcomes, arm=arm, num_images=budget, kinds=temporal_kinds()))
        cells = ["" if item is None else f"{100 * item.accuracy.mean:.0f}" for item in found]
        rows.append([escape(ARMS[arm].title), _cell(whole), *cells])
    names = [_kind_name(name) for name in KINDS]
    return (
        f"<h2>Changing one thing, {budget * CELLS} tokens</h2>"
        "<p>The models were not trained on these. The residual arms read H.264 clips alone.</p>"
        + table(["arm", "in time", *names], rows, set(range(1, len(names) + 2)))
    )


def _temporal(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return select(outcomes, kinds=temporal_kinds())


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _cell(found: Score | None) -> str:
    if found is None:
        return ""
    mean, low, high, _ = found.accuracy
    interval = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"<b>{100 * mean:.1f}</b>{interval} / {100 * found.ceiling:.0f}"


def _curve(outcomes: Sequence[Outcome], arm: str, budgets: Sequence[int]) -> list[float]:
    found = [
        score(select(outcomes, arm=arm, num_images=budget, kinds=temporal_kinds()))
        for budget in budgets
    ]
    return [item.accuracy.mean for item in found if item is not None]


def _budget_table(config: StudyConfig, outcomes: Sequence[Outcome], budgets: Sequence[int]) -> str:
    goal = score(select(outcomes, arm=BASE, num_images=budgets[-1], kinds=temporal_kinds()))
    rows: list[list[str]] = []
    for arm in _compared(config):
        cells = [
            _cell(score(select(outcomes, arm=arm, num_images=budget, kinds=temporal_kinds())))
            for budget in budgets
        ]
        tokens = (
            None if goal is None else tokens_to_reach(outcomes, arm, budgets, goal.accuracy.mean)
        )
        shown = "not reached" if tokens is None else f"{tokens:.0f}"
        rows.append([escape(ARMS[arm].title), *cells, shown])
    header = ["arm", *(f"{budget * CELLS} tokens" for budget in budgets)]
    return table(
        [*header, f"tokens for what whole frames reach with {budgets[-1] * CELLS}"],
        rows,
        set(range(1, len(header) + 1)),
    )


def _kind_table(config: StudyConfig, outcomes: Sequence[Outcome], budget: int) -> str:
    rows: list[list[str]] = []
    for arm in _compared(config):
        found = [
            score(select(outcomes, arm=arm, num_images=budget, kinds=[kind])) for kind in KINDS
        ]
        cells = [
            ""
            if item is None
            else f"<b>{100 * item.accuracy.mean:.0f}</b> / {100 * item.ceiling:.0f}"
            for item in found
        ]
        rows.append([escape(ARMS[arm].title), *cells])
    guess = [f"{100 / len(kind.choices):.0f}" for kind in KINDS.values()]
    rows.append(["guessing", *guess])
    names = [_kind_name(name) for name in KINDS]
    return (
        f"<h2>By kind of question, {budget * CELLS} tokens</h2>"
        "<p>Accuracy / ceiling, in %. Controls: static box, sign and camera, which codec input "
        "should not help. No selection was tuned with the kinds marked * in view.</p>"
        + table(["arm", *names], rows, set(range(1, len(names) + 1)))
    )


def _kind_name(name: str) -> str:
    return name.replace("_", " ") + ("" if KINDS[name].tuned else " *")


def _camera_table(config: StudyConfig, outcomes: Sequence[Outcome]) -> str:
    cameras = sorted({row.camera for row in outcomes})
    budget = config.middle_budget
    chosen = select(outcomes, num_images=budget, kinds=temporal_kinds())
    rows = [
        [
            escape(ARMS[arm].title),
            *(
                _cell(score(select(chosen, arm=arm, where=lambda row, way=way: row.camera == way)))
                for way in cameras
            ),
        ]
        for arm in _compared(config)
    ]
    return f"<h2>By motion of the camera, {budget * CELLS} tokens</h2>" + table(
        ["arm", *cameras], rows, set(range(1, len(cameras) + 1))
    )


def _interval_table(config: StudyConfig, outcomes: Sequence[Outcome]) -> str:
    lengths = sorted({row.key_frame_interval for row in outcomes})
    budget = config.middle_budget
    chosen = select(outcomes, num_images=budget, kinds=temporal_kinds())
    rows = [
        [
            escape(ARMS[arm].title),
            *(
                _cell(
                    score(
                        select(
                            chosen,
                            arm=arm,
                            where=lambda row, size=size: row.key_frame_interval == size,
                        )
                    )
                )
                for size in lengths
            ),
        ]
        for arm in _compared(config)
    ]
    return (
        f"<h2>By key-frame interval of the encoder, {budget * CELLS} tokens</h2>"
        "<p>A choice that follows the content does not depend on where key frames fall.</p>"
        + table(
            ["arm", *(f"every {size} frames" for size in lengths)],
            rows,
            set(range(1, len(lengths) + 1)),
        )
    )


def _learning_curves(config: StudyConfig) -> str:
    lines: list[Curve] = []
    for number, seed in enumerate(config.seeds):
        log = config.out / f"model_{seed}" / "train_log.jsonl"
        if not log.exists():
            continue
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        points = [(row["step"], row["loss"]) for row in rows if row.get("loss") is not None]
        if points:
            steps, losses = zip(*points, strict=True)
            lines.append(Curve(f"seed {seed}", list(steps), list(losses), number))
    return "<h2>Training</h2>" + line_chart("Training loss against optimiser steps", lines)


def _cost_table(seconds: dict[str, float]) -> str:
    rows = [[escape(name), f"{value:.1f}"] for name, value in seconds.items()]
    return "<h2>Cost</h2>" + table(["step", "seconds"], rows, {1})


def _mosaics(config: StudyConfig, data: TestData) -> str:
    """Show what arms keep of one clip: the cells that show an answer are framed in red."""
    budget = sorted(config.budgets)[0]
    picked = next(
        (item for item in data if any(row.kind == "event" for row in item[0].questions)), None
    )
    if picked is None:
        return ""
    clip, shown = picked
    event = next(row for row in clip.questions if row.kind == "event")
    cells = set().union(*event.evidence)
    parts = [
        "<h2>What is shown of one clip</h2>"
        f"<p>{budget} mosaics each. Framed: cells that show the event of the question "
        f"“{escape(KINDS['event'].text)}”.</p>"
    ]
    for arm in _compared(config):
        what = shown[arm, budget]
        rows = np.load(what.positions, allow_pickle=False)
        strip = np.concatenate(
            [np.asarray(Image.open(path).convert("RGB")) for path in what.images], 1
        )
        strip = strip.copy()
        for number, row in enumerate(map(tuple, rows.tolist())):
            if row in cells:
                mosaic, cell = divmod(number, CELLS)
                top, left = cell // GRID * CELL_PX, (mosaic * GRID + cell % GRID) * CELL_PX
                _frame(strip, top, left)
        picture = Image.fromarray(strip).resize(
            (strip.shape[1] * 2, strip.shape[0] * 2), Image.Resampling.NEAREST
        )
        parts.append(figure(picture, ARMS[arm].title))
    return "\n".join(parts)


def _frame(picture: np.ndarray, top: int, left: int) -> None:
    box = picture[top : top + CELL_PX, left : left + CELL_PX]
    for edge in (box[:2], box[-2:], box[:, :2], box[:, -2:]):
        edge[:] = (255, 0, 0)


def _conclusion(config: StudyConfig, outcomes: Sequence[Outcome]) -> str:
    """Say which arms beat and which lose to whole frames at each budget, by disjoint intervals."""
    if BASE not in config.arms:
        return ""
    lines: list[str] = []
    for budget in sorted(config.budgets):
        better, worse, equal = [], [], []
        for arm in _compared(config):
            if arm == BASE:
                continue
            found = against(outcomes, arm, BASE, budget).difference
            gain = f"{escape(ARMS[arm].title)} ({100 * found.mean:+.1f})"
            low, high = found.low or 0.0, found.high or 0.0
            (better if low > 0 else worse if high < 0 else equal).append(gain)
        lines.append(
            f"<li><b>{budget * CELLS} tokens</b>, points against whole frames. Better: "
            f"{', '.join(better) or 'none'}. Worse: {', '.join(worse) or 'none'}. "
            f"No difference shown: {', '.join(equal) or 'none'}.</li>"
        )
    return (
        "<p>Result on questions whose answer depends on time; a difference counts where its 95 % "
        f"interval leaves out zero.</p><ul>{''.join(lines)}</ul>"
    )
