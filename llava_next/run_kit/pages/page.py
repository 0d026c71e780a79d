"""Build a self-contained HTML page: frame and style, tables, pictures."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from run_kit.pages import charts

STYLE = """
:root { color-scheme: light dark; --line: #8884; --codec: #1a73c8; --frames: #b3541e;
        --none: #808080; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1140px; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.4rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { max-width: 78ch; }
.note { opacity: .75; font-size: .9rem; }
.wide { overflow-x: auto; }
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
small { opacity: .7; font-size: .8em; }
.codec { color: var(--codec); }
.frames { color: var(--frames); }
.none { color: var(--none); }
.badge { font-size: .78em; font-weight: 600; border: 1px solid currentColor; border-radius: .7em;
         padding: 0 .5em; white-space: nowrap; }
.question { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 11rem; overflow-y: auto;
            border-left: 3px solid var(--line); padding-left: .8rem; margin: .4rem 0; }
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
        rows: HTML of each cell; a row whose first cell is empty belongs to the one above.
        numbers: columns that are aligned right.
    """

    def line(cells: Sequence[str], tag: str) -> str:
        marks = [' class="number"' if column in numbers else "" for column in range(len(cells))]
        pairs = zip(marks, cells, strict=True)
        return "".join(f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in pairs)

    body = "\n".join(f"<tr{'' if row[0] else ' class=same'}>{line(row, 'td')}</tr>" for row in rows)
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
