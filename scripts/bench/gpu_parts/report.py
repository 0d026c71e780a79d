"""One table of all cases, on the terminal and as a page."""

from html import escape
from typing import Any

from gpu_parts.bench import DONE, Figures, Results
from run_kit.pages.page import page, table

COLUMNS = ("tokens_per_second", "tflops", "mfu", "peak_gigabytes", "data_wait", "host_waits")
_HEADER = ("case", "seconds", "tokens/s", "TFLOP/s", "MFU", "GB", "data wait", "host waits", "rest")
GOALS = (
    ("encoder: large, 1 x 10368, varlen", "forward and backward", "mfu", 0.45),
    ("sft: 1.7b, packed, checkpointed", None, "mfu", 0.40),
    ("sft: 1.7b, packed", None, "mfu", 0.40),
)
"""Case, group of figures, figure and its goal on one H200 in bfloat16."""


def rows(results: Results) -> list[list[str]]:
    """Return the rows of the table: a case has one for each group of its figures."""
    found: list[list[str]] = []
    for key, case in results.cases.items():
        if case["status"] != DONE:
            found.append([key, *[""] * 7, f"{case['status']}: {case.get('why', '')}"])
            continue
        groups = {name: value for name, value in case.items() if _is_rates(value)}
        shared = {name: value for name, value in case.items() if name not in groups}
        if not groups:
            found.append(_row(key, shared))
        for number, (name, rates) in enumerate(groups.items()):
            last = number == len(groups) - 1
            found.append(_row(f"{key}, {name}", {**rates, **(shared if last else {})}))
    return found


def _is_rates(value: Any) -> bool:
    return isinstance(value, dict) and "seconds" in value


def _row(title: str, figures: Figures) -> list[str]:
    cells = [title, _text(figures.get("seconds"))]
    cells += [_text(figures.get(name)) for name in COLUMNS]
    left = {"status", "took_seconds", "seconds", "longest", *COLUMNS}
    rest = [f"{name} {_text(value)}" for name, value in figures.items() if name not in left]
    return [*cells, "; ".join(rest)]


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def goal_lines(results: Results) -> list[str]:
    """Return what is known of each goal."""
    lines: list[str] = []
    for key, group, figure, goal in GOALS:
        case = results.cases.get(key, {})
        figures = case if group is None else case.get(group, {})
        value = figures.get(figure)
        name = f"{key}{', ' + group if group else ''}: {figure} {goal:.0%}"
        if value is None:
            lines.append(f"{name}: not measured")
        else:
            lines.append(f"{name}: {'reached' if value >= goal else 'missed'}, {value:.1%}")
    packed = results.cases.get("sft: 1.7b, packed, checkpointed", {}).get("tokens_per_second")
    single = results.cases.get("sft: 1.7b, one sample a step, checkpointed", {})
    if packed and single.get("tokens_per_second"):
        ratio = packed / single["tokens_per_second"]
        lines.append(f"packed rows against one sample a step: {ratio:.2f} times (goal 1.5)")
    else:
        lines.append("packed rows against one sample a step: not measured")
    return lines


def text(results: Results) -> str:
    """Return the table as text."""
    lines = [_HEADER[:-1], *(tuple(row[:-1]) for row in rows(results))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER) - 1)]
    printed: list[str] = []
    for line, full in zip(lines, [list(_HEADER), *rows(results)], strict=True):
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        printed.append("  ".join(cells) + "  " + full[-1][:160])
    return "\n".join([*printed, "", *goal_lines(results)])


def build_page(results: Results) -> str:
    """Return the page."""
    about = "; ".join(f"{name} {_text(value)}" for name, value in results.machine.items())
    cells = [[escape(cell) for cell in row] for row in rows(results)]
    goals = "".join(f"<li>{escape(line)}</li>" for line in goal_lines(results))
    body = (
        f"<p>{escape(about)}</p><p>MFU = operations of forward and backward pass / seconds / peak "
        "of the device's data sheet. A multiply-add counts as two; what is computed again for "
        f"checkpointed gradients does not count.</p><h2>Goals</h2><ul>{goals}</ul><h2>Cases</h2>"
        f"{table(_HEADER, cells, set(range(1, 8)))}{_kernels(results)}"
    )
    return page("One step on one device", body)


def _kernels(results: Results) -> str:
    case = results.cases.get("step: 1.7b, profile", {})
    if not case.get("longest"):
        return ""
    lines = [[escape(str(name)), f"{share:.1%}"] for name, share in case["longest"]]
    return f"<h2>Longest kernels of a step</h2>{table(('kernel', 'share'), lines, {1})}"
