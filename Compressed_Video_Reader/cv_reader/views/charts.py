"""Plots as inline SVG: bars, layers, a band over bars, a grid of cells. No script, no other file.

Colours come from ``page.STYLE``: ``bar``, ``band``, ``axis`` classes; cells carry their own.
"""

import html
from collections.abc import Sequence

_WIDTH, _HEIGHT = 900, 220
_LEFT, _BOTTOM, _TOP = 56, 34, 10
_TICKS = 4


def bars(
    values: Sequence[float],
    labels: Sequence[str],
    *,
    title: str,
    axis: str,
    band: Sequence[tuple[float, float]] = (),
) -> str:
    """Return a bar chart, with whiskers where a ``band`` of (low, high) is given.

    Args:
        values: heights, >= 0.
        labels: below the bars; every n-th is written where there are many.
        title: what a screen reader says.
        axis: what the labels are.
        band: lower and upper end of a line on each bar; none for no lines.
    """
    top = _round_up(max([*values, *(high for _, high in band), 1e-9]))
    parts = _columns([[(value, 'class="bar"')] for value in values], labels, top, axis)
    step, base, plot_height = _frame(len(values))
    for number, (low, high) in enumerate(band):
        middle = _LEFT + (number + 0.5) * step
        ends = (base - plot_height * edge / top for edge in (low, high))
        parts.append(_line("band", middle, next(ends), middle, next(ends)))
    return _svg(parts, _WIDTH, _HEIGHT, title)


def stacks(
    layers: Sequence[Sequence[float]],
    colours: Sequence[str],
    labels: Sequence[str],
    *,
    title: str,
    axis: str,
) -> str:
    """Return a chart of bars in layers, the first at the bottom.

    Args:
        layers: heights >= 0, as many per layer as labels.
        colours: CSS, one per layer.
        labels: below the bars; every n-th is written where there are many.
        title: what a screen reader says.
        axis: what the labels are.
    """
    columns = list(zip(*layers, strict=True))
    top = _round_up(max([*map(sum, columns), 1e-9]))
    fills = [f'fill="{colour}"' for colour in colours]
    parts = _columns(
        [list(zip(values, fills, strict=True)) for values in columns], labels, top, axis
    )
    return _svg(parts, _WIDTH, _HEIGHT, title)


def _frame(num_columns: int) -> tuple[float, float, float]:
    """Return the width of a column, the y of the base line, and the height above it."""
    plot_height = _HEIGHT - _BOTTOM - _TOP
    return (_WIDTH - _LEFT - 8) / max(num_columns, 1), _TOP + plot_height, plot_height


def _columns(
    columns: Sequence[Sequence[tuple[float, str]]], labels: Sequence[str], top: float, axis: str
) -> list[str]:
    """Return the scale, the labels, and the parts (value, SVG attribute) of each column upwards."""
    step, base, plot_height = _frame(len(labels))
    is_whole = all(float(value).is_integer() for parts in columns for value, _ in parts)
    drawn = [_scale(top, plot_height, _num_ticks(top) if is_whole else _TICKS)]
    every = -(-len(labels) // 16)
    for number, (parts, label) in enumerate(zip(columns, labels, strict=True)):
        left, bottom = _LEFT + number * step, base
        for value, look in parts:
            height = plot_height * value / top
            bottom -= height
            drawn.append(
                f'<rect {look} x="{left + step * 0.1:.1f}" y="{bottom:.1f}" '
                f'width="{step * 0.8:.1f}" height="{height:.1f}">'
                f"<title>{html.escape(label)}: {value:.4g}</title></rect>"
            )
        if number % every == 0:
            drawn.append(_text(left + step / 2, base + 15, label))
    drawn.append(_text(_LEFT + (_WIDTH - _LEFT - 8) / 2, _HEIGHT - 4, axis))
    return drawn


def cells(colours: Sequence[Sequence[str]], titles: Sequence[Sequence[str]], *, title: str) -> str:
    """Return a grid of coloured squares; ``colours`` are CSS, ``titles`` are tooltips."""
    side = 9
    parts = [
        f'<rect x="{column * side}" y="{row * side}" width="{side}" height="{side}" '
        f'fill="{colour}"><title>{html.escape(text)}</title></rect>'
        for row, (line, texts) in enumerate(zip(colours, titles, strict=True))
        for column, (colour, text) in enumerate(zip(line, texts, strict=True))
    ]
    return _svg(parts, side * len(colours[0]), side * len(colours), title)


def _num_ticks(top: float) -> int:
    """Return how many ticks divide a scale of whole numbers into whole numbers."""
    return next((number for number in (_TICKS, 5, 3, 2) if top % number == 0), 1)


def _scale(top: float, plot_height: float, num_ticks: int) -> str:
    parts: list[str] = []
    for tick in range(num_ticks + 1):
        y = _TOP + plot_height * (1 - tick / num_ticks)
        parts.append(_line("axis", _LEFT, y, _WIDTH - 8, y))
        parts.append(_text(_LEFT - 6, y + 4, f"{top * tick / num_ticks:g}", anchor="end"))
    return "".join(parts)


def _round_up(value: float) -> float:
    """Return the next round number, which four ticks divide well."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    steps = (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10)
    return next(power * step for step in steps if power * step >= value)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _svg(parts: Sequence[str], width: float, height: float, title: str) -> str:
    name = html.escape(title)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}">{"".join(parts)}</svg>'
    )
