"""Pictures for the study's page: what every arm keeps of a clip, the answer's cells framed."""

from collections.abc import Collection, Mapping
from html import escape

import numpy as np
from PIL import Image

from llava.eval.study.answers import TestData
from llava.eval.study.arms import ARMS, Shown
from llava.eval.study.clips import Clip
from llava.eval.study.drawing import Sizes
from llava.eval.study.results import Results
from llava.eval.study.scenes import KINDS, Cell
from run_kit.pages.page import figure

STRIPS_STYLE = """
.strips { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr));
          gap: 0 12px; }
.strips img { width: 100%; image-rendering: pixelated; }
"""


def mosaics_section(results: Results, data: TestData) -> str:
    """Show what arms keep of one clip for every kind: cells that show the answer are framed."""
    budget = results.budgets[0]
    parts = [
        "<h2>What is shown of a clip</h2>"
        f"<p>The {budget} mosaics of every arm, one clip for each kind of question. Framed in red: "
        "cells that show the answer.</p>"
    ]
    for kind in results.kinds:
        picked = next(
            (item for item in data if any(row.kind == kind for row in item[0].questions)), None
        )
        if picked is not None:
            parts.append(_of_kind(results, kind, *picked))
    return "\n".join(parts)


def _of_kind(
    results: Results, kind: str, clip: Clip, shown: Mapping[tuple[str, int], Shown]
) -> str:
    question = next(row for row in clip.questions if row.kind == kind)
    cells = frozenset[Cell]().union(*question.evidence)
    figures = [
        figure(_strip(what, cells, clip.sizes), ARMS[arm].title)
        for arm in results.arms
        if (what := shown.get((arm, results.budgets[0]))) is not None
    ]
    about = f"“{escape(KINDS[kind].text)}” {escape(question.answer)}"
    is_open = " open" if kind == results.kinds[0] else ""
    return (
        f"<details{is_open}><summary>{about}</summary>"
        f'<div class="strips">{"".join(figures)}</div></details>'
    )


def _strip(shown: Shown, cells: Collection[Cell], sizes: Sizes) -> Image.Image:
    """Return the mosaics side by side, the cells among ``cells`` framed."""
    rows = np.load(shown.positions, allow_pickle=False)
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in shown.images]
    strip = np.concatenate(pictures, 1).copy()
    for number, row in enumerate(map(tuple, rows.tolist())):
        if row in cells:
            mosaic, cell = divmod(number, sizes.cells)
            top, left = cell // sizes.grid, mosaic * sizes.grid + cell % sizes.grid
            _frame(strip, top * sizes.cell_px, left * sizes.cell_px, sizes.cell_px)
    return Image.fromarray(strip)


def _frame(picture: np.ndarray, top: int, left: int, side: int) -> None:
    box = picture[top : top + side, left : left + side]
    for edge in (box[:2], box[-2:], box[:, :2], box[:, -2:]):
        edge[:] = (255, 0, 0)
