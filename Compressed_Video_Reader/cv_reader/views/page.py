"""Pages that need no other file: one style, tables, figures, films.

Charts are in ``charts``; their colours come from the style here.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence

from PIL import Image

STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1060px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .3rem; overflow-wrap: anywhere }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem } p { max-width: 80ch; margin: 0 0 .6rem }
table { border-collapse: collapse; margin: .5rem 0 1rem; display: block; overflow-x: auto }
th, td { padding: .2rem 1.4rem .2rem 0; text-align: right; vertical-align: top }
td { white-space: nowrap } .facts td, td:first-child { white-space: normal }
td:first-child { min-width: 11.5rem; overflow-wrap: anywhere }
th:first-child, td:first-child { text-align: left } th { font-weight: 600; opacity: .75 }
.facts td { text-align: left } .facts td:first-child { opacity: .7; white-space: nowrap }
img { max-width: 100%; border-radius: 4px } figure { margin: 1rem 0 }
figcaption { font-size: .9rem; opacity: .8; margin-bottom: .3rem }
.side { display: flex; flex-wrap: wrap; gap: 0 1.5rem }
.map svg { max-width: 380px }
.key span { display: inline-block; width: .9em; height: .9em; margin: 0 .4em 0 1.2em }
.key span:first-child { margin-left: 0 }
svg { width: 100%; height: auto; display: block }
svg rect { shape-rendering: crispEdges }
svg .bar { fill: #1a73c8 } svg .band { stroke: currentColor; stroke-width: 1.2; opacity: .55 }
svg .axis { stroke: currentColor; opacity: .35 }
svg text { font: 12px system-ui, sans-serif; fill: currentColor }
"""

_FILM_SECONDS = 10.0
_FILM_COLOURS = 128
_FILM_QUALITY = 60
_LEAST_FRAME_MS = 20


def document(title: str, body: str) -> str:
    """Return a whole page; ``title`` is plain text, ``body`` is HTML."""
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        f"<style>{STYLE}</style><h1>{name}</h1>{body}</html>\n"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of plain texts with a header line."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in header)
    lines = ["".join(f"<td>{html.escape(text)}</td>" for text in row) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def facts_table(facts: dict[str, str]) -> str:
    """Return names and values, a line each."""
    lines = (
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
        for name, value in facts.items()
    )
    return f'<table class="facts">{"".join(lines)}</table>'


def figure(caption: str, kind: str, content: bytes) -> str:
    """Return a picture with its caption; ``kind`` is its media type."""
    text = html.escape(caption)
    data = base64.b64encode(content).decode()
    return (
        f"<figure><figcaption>{text}</figcaption>"
        f'<img alt="{text}" src="data:{kind};base64,{data}"></figure>'
    )


def picture_figure(caption: str, picture: Image.Image, quality: int = 88) -> str:
    """Return a picture as a JPEG with its caption."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return figure(caption, "image/jpeg", buffer.getvalue())


def _with_palette(picture: Image.Image) -> Image.Image:
    """Choose the colours from every third row and column: that halves the time."""
    size = (max(picture.width // 3, 1), max(picture.height // 3, 1))
    sample = picture.resize(size, Image.Resampling.NEAREST)
    palette = sample.quantize(_FILM_COLOURS, dither=Image.Dither.NONE)
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def film(
    pictures: Sequence[Image.Image], seconds: float = _FILM_SECONDS, kind: str = "GIF"
) -> bytes:
    """Return pictures of one size as a film that runs round in so many seconds.

    Args:
        pictures: at least one.
        seconds: length of the whole film.
        kind: ``GIF``, which every program shows, or ``WEBP``, a tenth of its size.
    """
    if kind == "GIF":
        pictures = [_with_palette(picture.convert("RGB")) for picture in pictures]
    first, *others = pictures
    buffer = io.BytesIO()
    duration = max(_LEAST_FRAME_MS, round(1000 * seconds / len(pictures)))
    options = {} if kind == "GIF" else {"quality": _FILM_QUALITY, "method": 1}
    first.save(
        buffer, kind, save_all=True, append_images=others, duration=duration, loop=0, **options
    )
    return buffer.getvalue()
