"""Pictures of what is kept of a video: original, uniform sampling, temporal saliency, patches.

``show_video`` selects and keeps what the pictures need; ``strips`` lays slots side by side;
``animation`` runs through all slots, with the four panels side by side.

Axis letters: T slots, g cells along a side, S side of the square in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cv_reader.assets.make import pack_pictures, select_from_video
from cv_reader.reader import ReadOptions
from cv_reader.select.config import AssetConfig
from cv_reader.select.mosaics import arrange_rows, to_image
from cv_reader.select.percentiles import float_percentile

SHOWN_SLOTS = 16
COLUMNS = 8
TILE_PX, PANEL_PX, GAP_PX = 128, 260, 4
_MIN_PANEL_PX, _MAX_PICTURES = 164, 128
_BAR_PX, _LABEL_PX, _MARGIN_PX = 44, 20, 8

_BRIGHT_PERCENTILE = 99.5
"""Percentile of all cells from which values have the brightest colour."""
_MIN_BRIGHTEST = 1.0

_GROUND, _INK, _FAINT = (250, 250, 248), (40, 40, 44), (176, 178, 186)
_KEPT, _NOW, _UNIFORM = (26, 115, 200), (214, 228, 246), (214, 92, 52)
# Dark violet to yellow in equal steps of lightness, so that the map also reads in grey.
_HEAT_STOPS = np.array(
    [(13, 8, 60), (84, 20, 125), (155, 40, 120), (215, 75, 85), (250, 140, 45), (248, 225, 80)],
    np.float32,
)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class ShownVideo:
    """A video's slots, cropped to the picture.

    Attributes:
        tiles: T arrays uint8 (H, W, 3), the picture inside the square.
        saliency: float32 (T, g, g), energy of each cell over that of the brightest colour.
        kept: bool (T, g, g).
        content: rows and columns of the square that hold the picture, in pixels.
        frame_ids: int32 (T,).
        mosaics: uint8 (G, S, S, 3).
        config: the settings.
        facts: what ``meta.json`` records.
    """

    tiles: tuple[Pixels, ...]
    saliency: NDArray[np.float32]
    kept: NDArray[np.bool_]
    content: tuple[slice, slice]
    frame_ids: NDArray[np.int32]
    mosaics: Pixels
    config: AssetConfig
    facts: dict[str, Any]

    @property
    def kept_share(self) -> float:
        """Patches kept, of all patches of all slots."""
        return float(self.kept.mean())

    @property
    def saliency_name(self) -> str:
        """What the saliency shows, in few words."""
        names = {"topk": self.config.signal, "rate_distortion": "change since last slot"}
        return names.get(self.config.select, "none is looked at")

    @property
    def uniform_slots(self) -> list[int]:
        """Slots of as many evenly spread whole frames as the budget would hold."""
        last = self.config.sequence_length - 1
        return _spread(last, self.config.num_images)


def show_video(path: Path, config: AssetConfig, options: ReadOptions) -> ShownVideo:
    """Select from a video, and keep what the pictures need.

    Raises:
        VideoError, AssetError: as ``select_from_video``.
    """
    selection = select_from_video(path, config, options, keep_pictures=True)
    rows = arrange_rows(selection.rows, config)
    tiles: list[Pixels] = []
    for slot in range(config.sequence_length):
        square = selection.squares.get(slot)
        tiles.append(_rgb(to_image(square))[selection.box.content] if square else tiles[-1])
    kept = np.zeros((config.sequence_length, config.grid, config.grid), bool)
    kept[tuple(rows.T)] = True
    brightest = max(float_percentile(selection.scores, _BRIGHT_PERCENTILE), _MIN_BRIGHTEST)
    return ShownVideo(
        tiles=tuple(tiles),
        saliency=selection.scores / np.float32(brightest),
        kept=kept,
        content=selection.box.content,
        frame_ids=selection.frame_ids,
        mosaics=np.stack([_rgb(m) for m in pack_pictures(selection, rows, config)]),
        config=config,
        facts=selection.facts,
    )


def _rgb(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def heat(values: NDArray[np.float32]) -> Pixels:
    """Return colours of values in [0, 1]: uint8 (..., 3)."""
    place = np.clip(values, 0, 1) * (len(_HEAT_STOPS) - 1)
    low = np.minimum(place.astype(int), len(_HEAT_STOPS) - 2)
    share = (place - low)[..., None]
    return (_HEAT_STOPS[low] * (1 - share) + _HEAT_STOPS[low + 1] * share).astype(np.uint8)


def saliency_tile(shown: ShownVideo, slot: int) -> Pixels:
    """Return energies of a slot as colours, the frame's light and dark shining through."""
    colours = heat(_enlarged(shown, shown.saliency[slot]))
    grey = shown.tiles[slot].mean(axis=2, keepdims=True) / 255
    return (colours * (0.55 + 0.45 * grey)).astype(np.uint8)


def kept_tile(shown: ShownVideo, slot: int) -> Pixels:
    """Return a frame in which the cells that are not kept are washed out."""
    tile = shown.tiles[slot]
    washed = (tile.mean(axis=2, keepdims=True) * 0.12 + 214).astype(np.uint8)
    return np.where(_enlarged(shown, shown.kept[slot])[..., None], tile, washed)


def _enlarged(shown: ShownVideo, cells: NDArray[Any]) -> NDArray[Any]:
    """Cells (g, g) as pixels, cropped to the picture."""
    patch = shown.config.patch_size
    return cells.repeat(patch, axis=0).repeat(patch, axis=1)[shown.content]


def strip(tiles: Sequence[Pixels], tile_px: int = TILE_PX, columns: int = COLUMNS) -> Image.Image:
    """Return tiles side by side, each fitted into ``tile_px``."""
    pictures = [_fitted(tile, tile_px) for tile in tiles]
    width, height = pictures[0].size
    # Upright tiles leave room for twice as many.
    columns = min(columns * (2 if 5 * width <= 3 * tile_px else 1), len(pictures))
    rows = -(-len(pictures) // columns)
    step_x, step_y = width + GAP_PX, height + GAP_PX
    sheet = Image.new("RGB", (columns * step_x - GAP_PX, rows * step_y - GAP_PX), _GROUND)
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * step_x, number // columns * step_y))
    return sheet


def strips(shown: ShownVideo) -> list[tuple[str, Image.Image]]:
    """Return captions and pictures: the four panels in some of the slots, then the mosaics."""
    count = min(SHOWN_SLOTS, len(shown.tiles))
    slots = _spread(len(shown.tiles) - 1, count)
    uniform = shown.uniform_slots
    numbers = ", ".join(str(number) for number in shown.frame_ids[slots].tolist())
    picked = ", ".join(str(number) for number in shown.frame_ids[uniform].tolist())
    share = f"{100 * shown.kept_share:.3g} %"
    return [
        (
            f"Original: {count} of {len(shown.tiles)} frames ({numbers})",
            strip([shown.tiles[slot] for slot in slots]),
        ),
        (
            f"Uniform sampling: all patches of {len(uniform)} frames ({picked})",
            strip([shown.tiles[slot] for slot in uniform]),
        ),
        (
            f"Temporal saliency ({shown.saliency_name}), dark: none",
            strip([saliency_tile(shown, slot) for slot in slots]),
        ),
        (
            f"Codec patches: {share} of the patches of all {len(shown.tiles)} frames",
            strip([kept_tile(shown, slot) for slot in slots]),
        ),
        (
            f"Mosaics: what the encoder sees, {len(shown.mosaics)} images",
            strip(list(shown.mosaics)),
        ),
    ]


def sheet(shown: ShownVideo) -> Image.Image:
    """Return all strips with their captions on one picture."""
    parts = strips(shown)
    width = max(picture.width for _, picture in parts) + 2 * _MARGIN_PX
    step = _LABEL_PX + GAP_PX
    height = sum(picture.height + step + 2 * _MARGIN_PX for _, picture in parts) + _MARGIN_PX
    canvas = Image.new("RGB", (width, height), _GROUND)
    draw, top = ImageDraw.Draw(canvas), _MARGIN_PX
    for caption, picture in parts:
        shown_caption = fitting(caption, width - 2 * _MARGIN_PX, 15)
        draw.text((_MARGIN_PX, top), shown_caption, fill=_INK, font=label_font(15))
        canvas.paste(picture, (_MARGIN_PX, top + step))
        top += picture.height + step + 2 * _MARGIN_PX
    return canvas


def animation(shown: ShownVideo) -> list[Image.Image]:
    """Return one picture per slot: the four panels, and how many patches each slot keeps.

    Returns:
        At most 128 pictures, of evenly spread slots where there are more.
    """
    count = min(len(shown.tiles), _MAX_PICTURES)
    return [_moment(shown, slot) for slot in _spread(len(shown.tiles) - 1, count)]


def _moment(shown: ShownVideo, slot: int) -> Image.Image:
    past = [number for number in shown.uniform_slots if number <= slot]
    kept = int(shown.kept[slot].sum())
    frames = shown.frame_ids.tolist()
    panels = [
        ("Original", f"frame {frames[slot]}", shown.tiles[slot]),
        (
            "Uniform sampling",
            f"frame {frames[past[-1]]}, {len(past)} of {len(shown.uniform_slots)}",
            shown.tiles[past[-1]],
        ),
        ("Temporal saliency", shown.saliency_name, saliency_tile(shown, slot)),
        (
            "Codec patches",
            f"{kept} here, {100 * shown.kept_share:.3g} % in all",
            kept_tile(shown, slot),
        ),
    ]
    pictures = [_fitted(tile, PANEL_PX) for *_, tile in panels]
    panel_px = max(pictures[0].width, _MIN_PANEL_PX)
    width = len(panels) * (panel_px + _MARGIN_PX) + _MARGIN_PX
    top = 2 * _LABEL_PX + _MARGIN_PX
    bar_top = top + max(picture.height for picture in pictures) + _MARGIN_PX
    canvas = Image.new("RGB", (width, bar_top + _BAR_PX + _MARGIN_PX), _GROUND)
    draw = ImageDraw.Draw(canvas)
    title, note = label_font(15), label_font(12)
    for number, ((name, text, _), picture) in enumerate(zip(panels, pictures, strict=True)):
        left = _MARGIN_PX + number * (panel_px + _MARGIN_PX)
        draw.text((left, _MARGIN_PX), name, fill=_INK, font=title)
        draw.text((left, _MARGIN_PX + _LABEL_PX), text, fill=(110, 110, 118), font=note)
        canvas.paste(picture, (left + (panel_px - picture.width) // 2, top + _MARGIN_PX // 2))
    _draw_bars(draw, shown, slot, (_MARGIN_PX, bar_top, width - _MARGIN_PX, bar_top + _BAR_PX))
    return canvas


@cache
def label_font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of captions."""
    return ImageFont.load_default(size_px)


def fitting(text: str, width_px: int, size_px: int) -> str:
    """Return a caption as it is, or with dots for what is too wide at its end."""
    font, shown = label_font(size_px), text
    while len(shown) > 1 and font.getlength(shown) > width_px:
        text = text[:-1]
        shown = f"{text}..."
    return shown


def _draw_bars(
    draw: ImageDraw.ImageDraw, shown: ShownVideo, now: int, box: tuple[int, int, int, int]
) -> None:
    """Patches kept per slot; the slot shown is dark, a mark is under uniform samples."""
    left, top, right, bottom = box
    counts = shown.kept.sum(axis=(1, 2))
    # A first frame that is kept whole would press all others flat.
    full = max(int(np.sort(counts)[-2]), 1) if len(counts) > 1 else int(counts[0])
    step, base = (right - left) / len(counts), bottom - 6
    gap = 1 if step >= 3 else 0
    for slot, count in enumerate(counts.tolist()):
        height = round((base - top) * min(count / full, 1))
        begin, end = left + slot * step + gap, left + (slot + 1) * step - gap
        if slot == now:
            draw.rectangle((begin, top, end, base), fill=_NOW)
        draw.rectangle((begin, base - height, end, base), fill=_KEPT if slot == now else _FAINT)
        if slot in shown.uniform_slots:
            draw.rectangle((begin, base + 2, end, bottom), fill=_UNIFORM)


def _spread(last: int, count: int) -> list[int]:
    return [number * last // max(count - 1, 1) for number in range(count)]


def _fitted(tile: Pixels, side_px: int) -> Image.Image:
    height, width = tile.shape[:2]
    scale = side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(np.ascontiguousarray(tile)).resize(size, Image.Resampling.BICUBIC)
