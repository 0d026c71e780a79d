"""Charts as inline SVG, without scripts or other files: curves over steps, intervals by task.

A curve of many points is drawn twice, faint as it is and bold as its running mean, and is thinned
to what a screen can show without losing a peak.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from run_kit.pages.text import breakable, short_number

COLOURS = 8
_WIDTH, _HEIGHT = 640, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 12, 12, 40
_MOST_POINTS = 600
_FEW_POINTS = 40
_MEAN_OF = 0.02
"""Share of a curve that its running mean covers."""

STYLE = """
:root { --c0: #1a73c8; --c1: #d1601f; --c2: #2c9a52; --c3: #a03ab0; --c4: #c2334d; --c5: #8a6d1c;
        --c6: #1596a3; --c7: #6b6b6b; }
@media (prefers-color-scheme: dark) {
  :root { --c0: #62a8ee; --c1: #ee8f55; --c2: #5fc985; --c3: #cd7fdc; --c4: #f07f93; --c5: #d0b052;
          --c6: #4fc8d4; --c7: #a8a8a8; }
}
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr));
          gap: 1.4rem 1.6rem; }
.chart figcaption { font-weight: 600; font-size: .95rem; opacity: 1; margin-bottom: .2rem; }
.chart .legend { overflow-wrap: anywhere; font-size: .82rem; display: flex; flex-wrap: wrap;
                 gap: .1rem .9rem; }
.legend i { display: inline-block; width: 1.1em; height: 3px; margin: 0 .35em .2em 0; }
.chart text { font: 13px system-ui, sans-serif; fill: currentColor; opacity: .8; }
.chart .axis { stroke: currentColor; opacity: .18; }
.chart .mark { stroke: currentColor; opacity: .6; stroke-dasharray: 4 4; }
.chart polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.chart polyline.dashed { stroke-dasharray: 7 4; }
.chart polyline.raw { stroke-width: 1; opacity: .3; }
.intervals { max-width: 860px; }
.intervals .legend i { width: .7em; height: .7em; border-radius: 50%; }
.rows { display: grid; grid-template-columns: minmax(10rem, max-content) 1fr; column-gap: 1.8rem;
        align-items: center; font-size: .85rem; padding-right: 1.8rem; }
.rows b { font-weight: normal; } .rows b.part { padding-left: 1.1em; }
.sides { display: flex; } .sides span { width: 50%; padding: 0 .6rem; }
.sides span:first-child { text-align: right; }
.track { position: relative; align-self: stretch; min-height: 1.7rem; }
.track i, .numbers span { position: absolute; transform: translateX(-50%); }
.track .tick, .track .zero { top: 0; bottom: 0; border-left: 1px solid; opacity: .18; }
.track .zero { opacity: .6; }
.track .bar { top: calc(50% - 5px); height: 10px; transform: none; border: solid;
              border-width: 0 2px; background: linear-gradient(currentColor) center / 100% 3px
              no-repeat; }
.track .dot { top: calc(50% - 5px); width: 6px; height: 6px; border: 2px solid; border-radius: 50%;
              background: currentColor; }
.track .dot.open { background: Canvas; }
.numbers { position: relative; height: 1.5rem; } .unit { text-align: center; }
@media (max-width: 640px) {
  .chart text { font-size: 17px; }
  .rows { grid-template-columns: 1fr; padding: 0 1.2rem 0 .9rem; }
  .rows b:not(:empty) { margin: .3rem 0 0 -.9rem; } .rows b:empty { display: none; }
}
"""


@dataclass(frozen=True)
class Curve:
    """One curve of a chart.

    Attributes:
        name: name in the legend.
        steps: ascending.
        values: finite, one per step.
        colour: number of its colour, taken modulo ``COLOURS``.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    colour: int


def line_chart(
    title: str,
    lines: Sequence[Curve],
    *,
    marks: Sequence[tuple[float, str]] = (),
    smooth: bool = True,
    axis: str = "step",
) -> str:
    """Return a figure with a legend; empty where no curve has a point.

    Args:
        title: what is shown, with its unit.
        lines: curves that share both axes.
        marks: (step, text) of dashed vertical lines across the chart.
        smooth: whether to draw a running mean over long curves.
        axis: what ``steps`` count, written below the chart.
    """
    lines = [line for line in lines if line.steps]
    if not lines:
        return ""
    values = [value for line in lines for value in line.values]
    ticks = _ticks(min(0.0, *values), max(values))
    first = min(line.steps[0] for line in lines)
    frame = _Frame(first, max(line.steps[-1] for line in lines), ticks[0], ticks[-1])
    parts = [_axes(frame, ticks, axis)]
    parts += [_mark(frame, step, text) for step, text in marks if first <= step <= frame.last]
    parts += [_line(frame, line, smooth) for line in lines]
    legend = "".join(
        f'<span><i style="background: var(--c{line.colour % COLOURS})"></i>{escape(line.name)}'
        "</span>"
        for line in lines
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'{"".join(parts)}</svg><div class="legend">{legend}</div></figure>'
    )


@dataclass(frozen=True)
class _Frame:
    """The ends of both axes, and the place of a value in the picture."""

    first: float
    last: float
    low: float
    high: float

    def x(self, step: float) -> float:
        width = _WIDTH - _LEFT - _RIGHT
        return _LEFT + width * (step - self.first) / ((self.last - self.first) or 1)

    def y(self, value: float) -> float:
        height = _HEIGHT - _TOP - _BOTTOM
        return _TOP + height * (self.high - value) / ((self.high - self.low) or 1)


def _ticks(low: float, high: float) -> list[float]:
    """Return four to nine round numbers that enclose both."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span))
    step = next(power * part for part in (0.2, 0.25, 0.5, 1, 2) if span <= 5 * power * part)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(start, max(end, start + 1) + 1)]


def thin(line: Curve, most: int = _MOST_POINTS) -> Curve:
    """Keep the lowest and the highest point of each of ``most / 2`` stretches of a curve."""
    count = len(line.steps)
    if count <= most:
        return line
    ends = [count * number * 2 // most for number in range(most // 2 + 1)]
    kept: list[int] = []
    for start, end in zip(ends, ends[1:], strict=False):
        ranked = sorted(range(start, end), key=line.values.__getitem__)
        kept += sorted({ranked[0], ranked[-1]})
    return Curve(
        line.name, [line.steps[i] for i in kept], [line.values[i] for i in kept], line.colour
    )


def running_mean(values: Sequence[float]) -> list[float]:
    """Return the exponential mean over the last 2 % of the values, unbiased at the start."""
    keep = 1 - 1 / max(1.0, _MEAN_OF * len(values))
    means: list[float] = []
    total, weight = 0.0, 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means


def _line(frame: _Frame, line: Curve, smooth: bool) -> str:
    if len(line.steps) <= _FEW_POINTS:
        return _polyline(frame, line, "mean") + _points(frame, line)
    if not smooth:
        return _polyline(frame, thin(line), "mean")
    mean = Curve(line.name, line.steps, running_mean(line.values), line.colour)
    return _polyline(frame, thin(line), "raw") + _polyline(frame, thin(mean), "mean")


def _polyline(frame: _Frame, line: Curve, kind: str) -> str:
    # Two curves of the same values both remain visible.
    dashed = " dashed" if kind == "mean" and line.colour % 2 else ""
    points = " ".join(
        f"{frame.x(step):.1f},{frame.y(value):.1f}"
        for step, value in zip(line.steps, line.values, strict=True)
    )
    return (
        f'<polyline class="{kind}{dashed}" stroke="var(--c{line.colour % COLOURS})" '
        f'points="{points}"><title>{escape(line.name)}</title></polyline>'
    )


def _points(frame: _Frame, line: Curve) -> str:
    return "".join(
        f'<circle cx="{frame.x(step):.1f}" cy="{frame.y(value):.1f}" r="2.6" '
        f'fill="var(--c{line.colour % COLOURS})">'
        f"<title>{escape(line.name)}, step {step:g}: {value:.5g}</title></circle>"
        for step, value in zip(line.steps, line.values, strict=True)
    )


def _mark(frame: _Frame, step: float, text: str) -> str:
    x = frame.x(step)
    return (
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}">'
        f"<title>{escape(text)}</title></line>"
    )


def _axes(frame: _Frame, ticks: Sequence[float], axis: str) -> str:
    right = _WIDTH - _RIGHT
    parts = [
        f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{frame.y(tick):.1f}" '
        f'y2="{frame.y(tick):.1f}"/>'
        f'<text x="{_LEFT - 7}" y="{frame.y(tick) + 4:.1f}" text-anchor="end">'
        f"{short_number(tick)}</text>"
        for tick in ticks
    ]
    steps = [step for step in _ticks(frame.first, frame.last) if step == int(step)]
    marks = [step for step in steps if frame.first <= step <= frame.last]
    for step in marks:
        anchor = "end" if frame.x(step) > right - 12 else "middle"
        parts.append(
            f'<text x="{frame.x(step):.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="{anchor}">'
            f"{short_number(step)}</text>"
        )
    parts.append(
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 5}" text-anchor="middle">'
        f"{escape(axis)}</text>"
    )
    return "".join(parts)


class Mark(NamedTuple):
    """One row of an interval chart.

    Attributes:
        label: name of the row.
        middle: value of the dot.
        low, high: ends of the interval; None where there is none.
        kind: class of its colour, one of ``KINDS``.
        is_part: whether the row belongs to the group above it.
    """

    label: str
    middle: float
    low: float | None
    high: float | None
    kind: str
    is_part: bool = False


KINDS = {
    "codec": "codec input is better",
    "frames": "frames are better",
    "none": "no difference shown",
}


def interval_chart(title: str, marks: Sequence[Mark], below: str, above: str, unit: str) -> str:
    """Return a figure of one mark per row on an axis with zero in its middle.

    The rows are boxes with places in percent, so that their text keeps its size at any width; on a
    narrow screen a label moves above its bar.

    Args:
        title: what is shown.
        marks: the rows.
        below, above: what values left and right of zero mean.
        unit: unit of the axis.
    """
    ends = [value for mark in marks for value in (mark.middle, mark.low, mark.high) if value]
    ticks = _ticks(-max(map(abs, ends), default=1.0), max(map(abs, ends), default=1.0))

    def at(value: float) -> str:
        return f"{100 * (value - ticks[0]) / (ticks[-1] - ticks[0]):.2f}%"

    lines = "".join(
        f'<i class="{"zero" if abs(tick) < 1e-9 else "tick"}" style="left: {at(tick)}"></i>'
        for tick in ticks
    )
    numbers = "".join(
        f'<span style="left: {at(tick)}">{"0" if abs(tick) < 1e-9 else f"{tick:+.4g}"}</span>'
        for tick in ticks
    )
    sides = f"<span>{escape(below)}</span><span>{escape(above)}</span>"
    legend = "".join(
        f'<span><i style="background: var(--{kind})"></i>{KINDS[kind]}</span>'
        for kind in dict.fromkeys(mark.kind for mark in marks)
    )
    return (
        f'<figure class="chart intervals"><figcaption>{escape(title)}</figcaption>'
        f'<div class="rows"><b></b><div class="sides">{sides}</div>'
        f"{''.join(_interval(mark, at, lines) for mark in marks)}"
        f'<b></b><div class="numbers">{numbers}</div><b></b><div class="unit">{escape(unit)}</div>'
        f'</div><div class="legend">{legend}<span>dot: mean; bar: 95 % interval; open dot: no '
        "interval</span></div></figure>"
    )


def _interval(mark: Mark, at: Callable[[float], str], lines: str) -> str:
    """Return one row: label, bar with end marks, dot, and a tooltip with the numbers."""
    numbers = f"{mark.label}: {mark.middle:+.1f}"
    bar, kind = "", f"dot {mark.kind}"
    if mark.low is not None and mark.high is not None:
        numbers += f", 95 % interval {mark.low:+.1f} to {mark.high:+.1f}"
        low, high = at(mark.low), at(mark.high)
        bar = f'<i class="bar {mark.kind}" style="left: {low}; width: calc({high} - {low})"></i>'
    else:
        kind += " open"
    part = ' class="part"' if mark.is_part else ""
    return (
        f'<b{part}>{breakable(mark.label)}</b><div class="track" title="{escape(numbers)}">{lines}'
        f'{bar}<i class="{kind}" style="left: {at(mark.middle)}"></i></div>'
    )
