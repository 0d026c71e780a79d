"""Show a probe, or compare several on the same clips, on one page.

    python -m encoder_training.probe.report RUN [RUN ...] [--out PAGE]

The first RUN is what the others are compared with: put frames first, then codec input. Exit codes:
0 done; 2 a folder holds no finished probe.
"""

import json
import math
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from run_kit.arguments import command_parser
from run_kit.exits import OK, USAGE, ExitOnError, say
from run_kit.files import read_json_lines, write_text
from run_kit.pages.charts import Curve, Mark, interval_chart, line_chart
from run_kit.pages.page import page, table
from run_kit.pages.text import duration_text, short_number

RESULT_FILE = "probe.json"
PREDICTIONS_FILE = "predictions.jsonl"
_HARDEST, _CHANGED = 12, 12
_Z = 1.959964
"""Half width of a 95 % interval in standard deviations."""


class ProbeRun(NamedTuple):
    """A finished probe: its folder's name, its result, and whether each scored clip is correct."""

    name: str
    result: dict[str, Any]
    correct: dict[str, bool]


def read_result(folder: Path) -> ProbeRun:
    """Read the result of a probe.

    Raises:
        ValueError: if the folder holds none.
    """
    path = folder / RESULT_FILE
    if not path.is_file():
        raise ValueError(f"{folder} must be the folder of a finished probe ({RESULT_FILE})")
    rows = read_json_lines(folder / PREDICTIONS_FILE)
    correct = {row["video"]: row["classes"][0] in row["labels"] for row in rows}
    return ProbeRun(folder.resolve().name, json.loads(path.read_text(encoding="utf-8")), correct)


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, in percent."""
    if not total:
        return 0.0, 100.0
    share, square = correct / total, _Z**2
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = _Z * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    half /= 1 + square / total
    return 100 * (middle - half), 100 * (middle + half)


def paired_change(first: ProbeRun, other: ProbeRun) -> tuple[float, float, float] | None:
    """Return the change of top-1 on the clips of both in points, and its 95 % interval.

    None where they have no clip in common. The interval is that of a mean of paired differences.
    """
    common = first.correct.keys() & other.correct.keys()
    if not common:
        return None
    values = [int(other.correct[video]) - int(first.correct[video]) for video in common]
    mean = sum(values) / len(values)
    spread = sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
    half = _Z * math.sqrt(spread / len(values))
    return 100 * mean, 100 * (mean - half), 100 * (mean + half)


def probe_page(runs: Sequence[ProbeRun]) -> str:
    """Return the page of one or several probes."""
    parts = [table(_COLUMNS, [_summary(run) for run in runs], set(range(3, len(_COLUMNS))))]
    parts.append(
        '<p class="note">Top-1 with its 95 % interval (Wilson), each clip counted once. The head '
        "was chosen by training clips set aside, never by the scored ones. Device hours are of all "
        "ranks, encoding included where this run did it.</p>"
    )
    if len(runs) > 1:
        parts += _comparison(runs)
    parts.append('<h2>Training</h2><div class="charts">')
    for run in runs:
        parts += _curves(run, len(runs) > 1)
    parts.append("</div>")
    for run in runs:
        parts += _probe_table(run) + _hardest(run)
    parts.append("<h2>Clips left out</h2>")
    lost = [[escape(run.name), escape(v), escape(why)] for run in runs
            for v, why in sorted(run.result["broken"].items())]  # fmt: skip
    parts.append(table(("run", "clip", "why"), lost, set()) if lost else "<p>None.</p>")
    parts += ["<h2>Settings</h2>", _settings(runs)]
    return page("Attentive probe: " + ", ".join(run.name for run in runs), "\n".join(parts))


_COLUMNS = (
    "run", "data set", "input", "top-1 %", "95 % interval", "top-5 %", "mAP %", "clips",
    "tokens a clip", "encoding", "training", "device hours",
)  # fmt: skip


def _summary(run: ProbeRun) -> list[str]:
    found, cost = run.result["score"], run.result["cost"]
    settings, seconds = run.result["settings"], cost["seconds"]
    low, high = wilson(round(found["top1"] * found["num_clips"] / 100), found["num_clips"])
    precision, tokens = found["mean_average_precision"], cost["tokens_per_clip"]
    selection = " ".join(settings["selection"])
    return [
        escape(run.name),
        escape(settings["dataset"]),
        escape(f"{settings['input']} {selection}".strip()),
        f"{found['top1']:.2f}",
        f"{low:.1f} to {high:.1f}",
        f"{found['top5']:.2f}",
        "-" if precision is None else f"{precision:.2f}",
        f"{found['num_clips']:,}",
        "-" if tokens is None else f"{tokens:,.0f}",
        duration_text(seconds["encoding"]),
        duration_text(seconds["training"]),
        f"{cost['device_hours']:.3g}",
    ]


def _comparison(runs: Sequence[ProbeRun]) -> list[str]:
    first, marks, parts = runs[0], list[Mark](), list[str]()
    for run in runs[1:]:
        change = paired_change(first, run)
        if change is not None:
            marks.append(_mark(run, change))
    if marks:
        parts.append(f"<h2>Change against {escape(first.name)}</h2>")
        text = "top-1, clip by clip"
        parts.append(interval_chart(text, marks, f"{first.name} is better", "the other is better",
                                    "points"))  # fmt: skip
    for run in runs[1:]:
        rows = _class_changes(first, run)
        if rows:
            title = f"{escape(run.name)} against {escape(first.name)}, classes that change most"
            parts.append(f"<h3>{title}</h3>")
            parts.append(table(("class", "clips", first.name, run.name, "change"), rows,
                               {1, 2, 3, 4}))  # fmt: skip
    return parts


def _mark(run: ProbeRun, change: tuple[float, float, float]) -> Mark:
    middle, low, high = change
    is_codec = not run.result["settings"]["input"].startswith("frames")
    kind = "none" if low <= 0 <= high else ("codec" if (middle > 0) == is_codec else "frames")
    return Mark(run.name, middle, low, high, kind)


def _class_changes(first: ProbeRun, run: ProbeRun) -> list[list[str]]:
    pairs = zip(first.result["per_class"], run.result["per_class"], strict=False)
    found = [
        (100 * ours[0] / ours[1] - 100 * theirs[0] / theirs[1], label, theirs, ours)
        for label, (theirs, ours) in enumerate(pairs)
        if theirs[1] and ours[1]
    ]
    found.sort(key=lambda row: row[0])
    shown = found if len(found) <= _CHANGED else found[: _CHANGED // 2] + found[-_CHANGED // 2 :]
    return [
        [
            _class_name(run, label),
            f"{ours[1]:,}",
            f"{100 * theirs[0] / theirs[1]:.1f}",
            f"{100 * ours[0] / ours[1]:.1f}",
            f"{change:+.1f}",
        ]
        for change, label, theirs, ours in shown
    ]


def _class_name(run: ProbeRun, label: int) -> str:
    names = run.result["classes"]
    return escape(f"{label} {names[label]}" if label < len(names) else str(label))


def _curves(run: ProbeRun, is_named: bool) -> list[str]:
    history, probes = run.result["history"], run.result["probes"]
    chosen = run.result["chosen"]["probe"]
    shown = sorted(range(len(probes)), key=lambda number: number != chosen)[:8]
    names = [f"rate {probe['rate']:g}, decay {probe['decay']:g}" for probe in probes]
    prefix = f"{run.name}: " if is_named else ""
    losses, looks = list[Curve](), list[Curve]()
    for colour, number in enumerate(shown):
        losses.append(Curve(names[number], *_points(history, "loss", number), colour=colour))
        looks.append(Curve(names[number], *_points(history, "choice", number), colour=colour))
    return [
        line_chart(f"{prefix}loss of training", losses, smooth=False, axis="epoch"),
        line_chart(f"{prefix}clips to choose by, %", looks, smooth=False, axis="epoch"),
    ]


def _points(
    history: Sequence[dict[str, Any]], name: str, number: int
) -> tuple[list[float], list[float]]:
    found = [
        (row["step"], row[name][number])
        for row in history
        if row.get(name) and row[name][number] is not None
    ]
    return [step for step, _ in found], [value for _, value in found]


def _probe_table(run: ProbeRun) -> list[str]:
    history, chosen = run.result["history"], run.result["chosen"]
    rows = []
    for number, probe in enumerate(run.result["probes"]):
        looks = [row["choice"][number] for row in history if row.get("choice")]
        is_chosen = number == chosen["probe"]
        rows.append([
            f"{probe['rate']:g}", f"{probe['decay']:g}",
            f"{max(looks):.2f}" if looks else "-", f"{looks[-1]:.2f}" if looks else "-",
            "diverged" if history and history[-1]["diverged"][number] else
            f"chosen, epoch {chosen['epoch']}" if is_chosen else "",
        ])  # fmt: skip
    header = ("rate", "decay", "best on clips to choose by", "last", "")
    return [f"<h2>Probes of {escape(run.name)}</h2>", table(header, rows, {0, 1, 2, 3})]


def _hardest(run: ProbeRun) -> list[str]:
    confusion = run.result["confusion"]
    found = [
        (correct / total, label, correct, total)
        for label, (correct, total) in enumerate(run.result["per_class"])
        if total
    ]
    rows = []
    for share, label, correct, total in sorted(found)[:_HARDEST]:
        others = sorted(
            ((count, other) for other, count in enumerate(confusion[label]) if other != label),
            key=lambda pair: (-pair[0], pair[1]),
        )
        taken = ", ".join(
            f"{_class_name(run, other)} ({count})" for count, other in others[:3] if count
        )
        rows.append([
            _class_name(run, label), f"{correct} of {total}", f"{100 * share:.1f}", taken or "-"
        ])  # fmt: skip
    header = ("class", "correct", "%", "taken for (clips)")
    return [f"<h3>Hardest classes of {escape(run.name)}</h3>", table(header, rows, {1, 2})]


def _settings(runs: Sequence[ProbeRun]) -> str:
    """Return a table of all settings; of several runs, those that differ come first."""
    found = [
        {**run.result["settings"], **{f"encoder {k}": v for k, v in run.result["encoder"].items()}}
        for run in runs
    ]
    names = list(dict.fromkeys(name for values in found for name in values))
    texts = {name: [str(values.get(name)) for values in found] for name in names}
    names.sort(key=lambda name: len(set(texts[name])) == 1)
    rows = [[escape(name), *map(escape, texts[name])] for name in names]
    tokens = [short_number(run.result["cost"]["encoded_tokens"]) for run in runs]
    rows.append(["tokens encoded by this run", *tokens])
    return table(("setting", *(run.name for run in runs)), rows, set())


def _named(folders: Sequence[Path]) -> list[ProbeRun]:
    """Read results; those whose folders have the same name are named by the folders above, too."""
    runs = [read_result(folder) for folder in folders]
    paths = [folder.resolve() for folder in folders]
    if len({run.name for run in runs}) == len(runs):
        return runs
    return [run._replace(name=path.parent.name) for run, path in zip(runs, paths, strict=True)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser("encoder_training.probe.report", __doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished probe"
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="PAGE",
        type=Path,
        help="page to write (default: report.html in the first run)",
    )
    arguments = parser.parse_args(argv)
    with ExitOnError(USAGE):
        out = arguments.out or arguments.runs[0] / "report.html"
        write_text(out, probe_page(_named(arguments.runs)))
        say(f"wrote {out}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
