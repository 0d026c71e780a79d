"""Films of selections: original, rebuilt and difference side by side, a row per selection."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cv_reader.select.rate_distortion.clip import Samples, SmallClip
from cv_reader.select.rate_distortion.places import FollowedClip
from cv_reader.views.rebuilt import Rebuilt, RebuiltScore, rebuilt_slots
from cv_reader.views.visualize import fitting, heat, label_font

_PANEL_PX, _GAP_PX, _LINE_PX = 280, 6, 18
_LABEL_PX = 2 * _LINE_PX + 2
_GROUND, _INK, _FAINT = (250, 250, 248), (40, 40, 44), (110, 110, 118)
_BRIGHT_LEVELS = 64
"""Difference, in grey levels, that has the brightest colour."""

_MAX_PICTURES = 64


def film_pictures(
    clip: SmallClip,
    scores: Sequence[tuple[str, RebuiltScore]],
    way: str,
    followed: FollowedClip | None = None,
) -> list[Image.Image]:
    """Return a picture per slot: for every selection the original, rebuilt, and the difference.

    Args:
        clip: the pictures.
        scores: names and scores.
        way: the name of a way to rebuild that all scores have.
        followed: the clip turned to places, for ways along the vectors.

    Returns:
        At most 64 pictures, evenly spread where there are more slots.
    """
    shown = {number * clip.num_slots // _MAX_PICTURES for number in range(_MAX_PICTURES)}
    if clip.num_slots <= _MAX_PICTURES:
        shown = set(range(clip.num_slots))
    rebuilt = [score.rebuilt[way] for _, score in scores]
    runs = [
        rebuilt_slots(followed if one.way.along and followed else clip, one.way, one.sources)
        for one in rebuilt
    ]
    pictures: list[Image.Image] = []
    for slot, rows in enumerate(zip(*runs, strict=True)):
        if slot in shown:
            names = [name for name, _ in scores]
            pictures.append(_moment(clip, slot, names, rebuilt, rows))
    return pictures


def _moment(
    clip: SmallClip,
    slot: int,
    names: Sequence[str],
    rebuilt: Sequence[Rebuilt],
    rows: Sequence[tuple[Samples, Samples]],
) -> Image.Image:
    original = _rgb(clip.luma[slot], clip.chroma[slot])
    scale = _PANEL_PX / max(original.size)
    width, height = (max(1, round(side * scale)) for side in original.size)
    step = height + _LABEL_PX + _GAP_PX
    full = 3 * (width + _GAP_PX) + _GAP_PX
    canvas = Image.new("RGB", (full, step * len(rows) + _GAP_PX), _GROUND)
    draw = ImageDraw.Draw(canvas)
    for number, (name, one, planes) in enumerate(zip(names, rebuilt, rows, strict=True)):
        top = number * step + _GAP_PX
        shown = fitting(name, full - 2 * _GAP_PX, 13)
        draw.text((_GAP_PX, top), shown, fill=_INK, font=label_font(13))
        note = f"{one.psnr_db:.1f} dB in all, slot {slot}"
        draw.text((_GAP_PX, top + _LINE_PX), note, fill=_FAINT, font=label_font(12))
        panels = (original, _rgb(*planes), _difference(clip.luma[slot], planes[0]))
        for column, panel in enumerate(panels):
            left = _GAP_PX + column * (width + _GAP_PX)
            canvas.paste(panel.resize((width, height)), (left, top + _LABEL_PX))
    return canvas


def _rgb(luma: Samples, chroma: Samples) -> Image.Image:
    planes = [Image.fromarray(plane) for plane in (luma, *chroma)]
    size = planes[0].size
    enlarged = [plane.resize(size, Image.Resampling.NEAREST) for plane in planes]
    return Image.merge("YCbCr", enlarged).convert("RGB")


def _difference(one: Samples, other: Samples) -> Image.Image:
    levels: NDArray[np.float32] = np.abs(one.astype(np.float32) - other)
    return Image.fromarray(heat(levels / np.float32(_BRIGHT_LEVELS)))
