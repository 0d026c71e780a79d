"""Build a self-contained HTML page: frame and style, tables, pictures."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from run_kit.pages import charts

STYLE = """
:root { color-scheme: light dark; --line: #8884; --shade: #0003; --codec: #1a73c8;
        --frames: #b3541e; --none: #6f6f6f; }
@media (prefers-color-scheme: dark) {
  :root { --shade: #fff4; --codec: #62a8ee; --frames: #e58a54; --none: #a2a2a2; }
}
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1140px; margin: 2rem auto;
       padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.4rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { max-width: 78ch; }
.note { opacity: .75; font-size: .9rem; }
/* Shades at the edges show that a table is wider than the page; at its ends the page hides them. */
.wide { overflow-x: auto;
        background: linear-gradient(90deg, Canvas 40%, transparent) left / 2rem 100% local,
                    linear-gradient(270deg, Canvas 40%, transparent) right / 2rem 100% local,
                    linear-gradient(90deg, var(--shade), transparent) left / .7rem 100% scroll,
                    linear-gradient(270deg, var(--shade), transparent) right / .7rem 100% scroll;
        background-repeat: no-repeat; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .2rem .75rem .2rem 0; text-align: left; vertical-align: top; }
tr + tr:not(.same) > td { border-top: 1px solid var(--line); }
th { font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
                       white-space: nowrap; }
code { font: .85em ui-monospace, monospace; overflow-wrap: anywhere; }
figure { margin: .4rem 0 .6rem; }
figcaption { font-size: .85rem; opacity: .8; overflow-wrap: anywhere; }
figure img { max-width: 100%; border-radius: 4px; display: block; margin-top: .2rem; }
svg { width: 100%; height: auto; }
td:first-child, td span { white-space: nowrap; }
td .words { white-space: normal; display: inline-block; min-width: 8rem; }
tr.group > td { padding-top: .5rem; }
.in1 { padding-left: 1em; } .in2 { padding-left: 2em; }
small { opacity: .7; font-size: .8em; }
.codec { color: var(--codec); }
.frames { color: var(--frames); }
.none { color: var(--none); }
.badge { font-size: .78em; font-weight: 600; border: 1px solid currentColor; border-radius: .7em;
         padding: 0 .5em; white-space: nowrap; }
.question { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 11rem; overflow-y: auto;
            border-left: 3px solid var(--line); padding-left: .8rem; margin: .4rem 0; }
@media (max-width: 640px) {
  body { margin: 1rem auto; }
  table { font-size: .9rem; }
  td:first-child { white-space: normal; } td:first-child > div { min-width: 8rem; }
}
"""


def page(title: str, body: str) -> str:
    """Return a whole page; ``body`` is HTML, ``title`` is text."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{charts.STYLE}</style>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[int]) -> str:
    """Return a table.

    Args:
        header: text of each column.
        rows: HTML of each cell; a row of one cell is a heading of those below it, without lines
            between them; a row whose first cell is empty belongs to the one above.
        numbers: columns that are aligned right.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        marks = [' class="number"' if column in numbers else "" for column in range(len(cells))]
        pairs = zip(marks, cells, strict=True)
        return "".join(f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in pairs)

    has_headings = any(len(row) == 1 for row in rows)

    def whole(row: Sequence[str]) -> str:
        if len(row) == 1:
            return f'<tr class="group"><td colspan="{len(header)}">{row[0]}</td></tr>'
        is_same = has_headings or not row[0]
        return f"<tr{' class=same' if is_same else ''}>{line(row, 'td')}</tr>"

    body = "\n".join(map(whole, rows))
    head = line([escape(cell) for cell in header], "th")
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def figure(picture: Image.Image, caption: str) -> str:
    """Return a picture stored inside the page, with its caption as text."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        f'<img alt="{escape(caption)}" src="data:image/jpeg;base64,{data}"></figure>'
    )
