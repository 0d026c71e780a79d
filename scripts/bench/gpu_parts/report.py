"""One table of all cases, on the terminal and as a page."""

from html import escape
from typing import Any

from gpu_parts.results import DONE, Figures, Results
from run_kit.pages.page import page, table

COLUMNS = ("tokens_per_second", "tflops", "mfu", "peak_gigabytes", "data_wait", "host_waits")
_HEADER = ("case", "seconds", "tokens/s", "TFLOP/s", "MFU", "GB", "data wait", "host waits", "rest")
_TITLES = {
    "tokens_per_second": "tokens/s",
    "visual_tokens_per_second": "visual tokens/s",
    "tflops": "TFLOP/s",
    "tflop": "TFLOP",
    "mfu": "MFU",
    "peak_gigabytes": "GB",
    "predicted_gigabytes": "GB predicted",
    "predicted_if_checkpointed_gigabytes": "GB predicted if checkpointed",
}
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
    wait = results.cases.get("sft: 1.7b, packed, checkpointed", {}).get("data_wait")
    lines.append(_at_most("wait for data, packed rows", wait, 0.03))
    largest = results.cases.get("correctness: features, float32", {}).get("largest")
    lines.append(_at_most("features in float32, largest difference", largest, 1e-4))
    return lines


def _at_most(name: str, value: float | None, goal: float) -> str:
    if value is None:
        return f"{name}: not measured (goal {goal:g})"
    return f"{name}: {'reached' if value <= goal else 'missed'}, {value:g} (goal {goal:g})"


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
    """Return the page: goals, a table for each part, and what has no figures, by its reason."""
    machine = dict(results.machine)
    packages = machine.pop("packages", {})
    about = [f"{name.replace('_', ' ')} {_text(value)}" for name, value in machine.items()]
    installed = [name for name, there in packages.items() if there]
    missing = [name for name, there in packages.items() if not there]
    about.append(
        f"with {', '.join(installed) or 'no packages'}; without {', '.join(missing) or '-'}"
    )
    trial = {"cpu": "tiny models", "meta": "models without values"}.get(str(machine.get("device")))
    note = f"<p><b>A trial with {trial}: no speed is that of a GPU.</b></p>" if trial else ""
    parts: dict[str, list[str]] = {}
    for key in results.cases:
        parts.setdefault(key.partition(": ")[0], []).append(key)
    tables = "".join(
        f"<h2>{escape(part)}</h2>{_part(results, keys)}" for part, keys in parts.items()
    )
    goals = "".join(f"<li>{escape(line)}</li>" for line in goal_lines(results))
    body = (
        f"{note}<p>{escape('; '.join(about))}</p><h2>Goals on one H200</h2><ul>{goals}</ul>{tables}"
        f'{_profile(results)}<p class="note">MFU = operations of forward and backward pass / '
        "seconds / peak of the device's data sheet. A multiply-add counts as two; what is computed "
        "again for checkpointed gradients does not count.</p>"
    )
    return page("Encoder, training and answers on one device", body)


def _part(results: Results, keys: list[str]) -> str:
    """Return the table of one part, and its cases without figures by their reasons."""
    lines: dict[str, Figures] = {}
    reasons: dict[str, list[str]] = {}
    for key in keys:
        case, name = results.cases[key], key.partition(": ")[2]
        if case["status"] != DONE:
            reason = f"{case['status']}: {case.get('why', '')}"
            reasons.setdefault(reason, []).append(name)
            continue
        groups = {title: value for title, value in case.items() if _is_rates(value)}
        shared = {
            title: value
            for title, value in case.items()
            if title not in {"status", "took_seconds", *groups}
            and not isinstance(value, dict | list)
        }
        for title, rates in list(groups.items())[:-1]:
            lines[f"{name}, {title}"] = rates
        last = list(groups)[-1:]
        lines[", ".join([name, *last])] = {**(groups[last[0]] if last else {}), **shared}
    seen = list(dict.fromkeys(title for figures in lines.values() for title in figures))
    columns = [t for t in seen if any(figures.get(t) is not None for figures in lines.values())]
    cells = [
        [escape(name), *(escape(_text(figures[t])) if t in figures else "" for t in columns)]
        for name, figures in lines.items()
        if any(t in figures for t in columns)
    ]
    header = ("case", *(_TITLES.get(t, t.replace("_", " ")) for t in columns))
    found = table(header, cells, set(range(1, len(header)))) if cells else ""
    left = "".join(
        f"<li>{escape(reason)}<br><small>{escape('; '.join(names))}</small></li>"
        for reason, names in reasons.items()
    )
    return found + (f"<ul>{left}</ul>" if left else "")


def _profile(results: Results) -> str:
    case = results.cases.get("step: 1.7b, profile", {})
    if not case.get("longest"):
        return ""
    shares = [[escape(name), f"{share:.1%}"] for name, share in case["shares"].items()]
    lines = [[escape(str(name)), f"{share:.1%}"] for name, share in case["longest"]]
    families = table(("family of kernels", "share"), shares, {1})
    return (
        f"<h2>Where the time of a step goes</h2>{families}"
        f"<h3>Longest kernels</h3>{table(('kernel', 'share'), lines, {1})}"
    )
