"""Pieces of a self-contained HTML page: escaped text, tables, pictures, intervals."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from PIL import Image

STYLE = """
:root { color-scheme: light dark; --line: #8884; --codec: #1a73c8; --frames: #b3541e;
        --none: #808080; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.4rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { max-width: 78ch; }
.note { opacity: .75; font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; }
tr + tr:not(.same) > td { border-top: 1px solid var(--line); }
th { font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
                       white-space: nowrap; }
code { font: .85em ui-monospace, monospace; overflow-wrap: anywhere; }
figure { margin: .4rem 0 .6rem; }
figcaption { font-size: .85rem; opacity: .8; overflow-wrap: anywhere; }
figure img { max-width: 100%; border-radius: 4px; display: block; margin-top: .2rem; }
svg { width: 100%; height: auto; }
.codec { color: var(--codec); font-weight: 600; }
.frames { color: var(--frames); font-weight: 600; }
.none { color: var(--none); }
td span { white-space: nowrap; }
.question { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 11rem; overflow-y: auto;
            border-left: 3px solid var(--line); padding-left: .8rem; margin: .4rem 0; }
"""


class Mark(NamedTuple):
    """One line of an interval chart: label, middle, ends, class of its colour; whether it is part
    of the group above."""

    label: str
    middle: float
    low: float
    high: float
    kind: str
    is_part: bool = False


def page(title: str, body: str, style: str = "") -> str:
    """A whole page; ``style`` is CSS of pieces that are not of this module."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[int]) -> str:
    """A table; columns in ``numbers`` are flush right. Cells are HTML, the header is text. A row
    whose first cell is empty belongs to the one above."""

    def line(cells: Sequence[str], tag: str) -> str:
        marks = [' class="number"' if column in numbers else "" for column in range(len(cells))]
        pairs = zip(marks, cells, strict=True)
        return "".join(f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in pairs)

    body = "\n".join(f"<tr{'' if row[0] else ' class=same'}>{line(row, 'td')}</tr>" for row in rows)
    head = line([escape(cell) for cell in header], "th")
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def figure(picture: Image.Image, caption: str) -> str:
    """A picture inside the page."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        f'<img alt="{escape(caption)}" src="data:image/jpeg;base64,{data}"></figure>'
    )


def interval_chart(marks: Sequence[Mark], below: str, above: str) -> str:
    """Intervals on one axis through zero; both sides have the same room.

    Args:
        marks: one per line.
        below, above: what lies left and right of zero.
    """
    left, width, row, top = 260, 1060, 26, 26
    reach = max((max(abs(mark.low), abs(mark.high)) for mark in marks), default=0) * 1.08 or 1.0
    height = top + row * len(marks) + 26
    middle = left + (width - left) / 2

    def at(value: float) -> float:
        return middle + value / reach * (width - left - 20) / 2

    text = 'font-size="13" fill="currentColor"'
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="differences with intervals">',
        f'<line x1="{middle}" x2="{middle}" y1="{top - 6}" y2="{height - 22}" '
        'stroke="currentColor" opacity=".5"/>',
        f'<text x="{middle - 10}" y="14" text-anchor="end" {text}>{escape(below)}</text>',
        f'<text x="{middle + 10}" y="14" {text}>{escape(above)}</text>',
    ]
    for value in (-reach / 1.08, reach / 1.08):
        parts.append(
            f'<text x="{at(value):.1f}" y="{height - 6}" text-anchor="middle" {text} '
            f'opacity=".7">{value:+.1f}</text>'
        )
    for number, mark in enumerate(marks):
        y = top + row * number + row / 2
        colour = f'class="{mark.kind}" stroke="currentColor" fill="currentColor"'
        parts.append(
            f'<text x="{16 * mark.is_part}" y="{y + 4}" {text}>{escape(mark.label)}</text>'
            f'<line x1="{at(mark.low):.1f}" x2="{at(mark.high):.1f}" y1="{y}" y2="{y}" {colour} '
            f'stroke-width="3"/><circle cx="{at(mark.middle):.1f}" cy="{y}" r="5" {colour}/>'
        )
    return "\n".join([*parts, "</svg>"])
