"""How many patches an image gets, from its size in pixels alone.

Prompts are laid out, and samples measured, before any pixel is decoded. One sample's images are
sized together: several images share a budget, a single one has its own canvas.

Axis letters: p side of a patch in pixels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from llava.visual.config import VisualConfig
from llava.visual.pictures import fitted_size

MAX_ASPECT_RATIO = 200


class ImagePlan(NamedTuple):
    """What becomes of an image.

    Attributes:
        rows: patch rows.
        columns: patch columns.
        keeps_aspect: the image keeps its aspect on a black canvas of that size; otherwise it is
            resized to it.
    """

    rows: int
    columns: int
    keeps_aspect: bool


def plan_images(sizes_px: Sequence[tuple[int, int]], config: VisualConfig) -> list[ImagePlan]:
    """Decide the grid of every image of one sample.

    A single image follows ``image_aspect_ratio``. Several images follow ``multi_image``. Where
    their language tokens exceed ``max_image_tokens``, all grids shrink by one factor.

    Args:
        sizes_px: (width, height) of the images of the sample, upright.
        config: the preprocessing settings.

    Returns:
        One plan per image, rows and columns multiples of ``merge_side_patches``.

    Raises:
        ValueError: An image is empty, has an aspect ratio above 200 in mode ``native``, or there
            are more images than the budget has tokens.
    """
    at_base = len(sizes_px) > 1 and config.multi_image == "base"
    plans = [_plan_one(width, height, config, at_base=at_base) for width, height in sizes_px]
    if config.max_image_tokens and len(plans) > 1:
        return _within_budget(plans, config)
    return plans


def _plan_one(width_px: int, height_px: int, config: VisualConfig, *, at_base: bool) -> ImagePlan:
    """Return the plan of one image before any budget."""
    if min(width_px, height_px) < 1:
        raise ValueError(f"an image needs pixels, got {width_px} x {height_px}")
    mode, grid = config.image_aspect_ratio, config.patches_per_side
    if mode in ("square", "pad"):
        return ImagePlan(grid, grid, keeps_aspect=mode == "pad")
    if mode == "native" and not at_base:
        return _native_plan(width_px, height_px, config)
    side = grid * config.patch_size_px
    canvases = ((side, side),) if at_base else config.image_grid_pinpoints
    if not config.enlarge_small_images and _fits_inside(width_px, height_px, canvases):
        # A canvas would enlarge the picture: thousands of tokens without any more detail.
        return _native_plan(width_px, height_px, config)
    width, height = best_canvas(width_px, height_px, canvases, rule=config.canvas_rule)
    rows, columns = height // config.patch_size_px, width // config.patch_size_px
    merge = config.merge_side_patches
    return ImagePlan(-(-rows // merge) * merge, -(-columns // merge) * merge, keeps_aspect=True)


def _native_plan(width_px: int, height_px: int, config: VisualConfig) -> ImagePlan:
    """Return the plan of an image that is rounded to whole patches, and blocks of them."""
    rows, columns = _native_grid(width_px, height_px, config)
    merge = config.merge_side_patches
    return ImagePlan(_whole_blocks(rows, merge), _whole_blocks(columns, merge), keeps_aspect=False)


def _whole_blocks(patches: int, merge: int) -> int:
    """Return a number of patches cut to whole blocks of merged ones, at least one block."""
    return max(patches // merge, 1) * merge


def _fits_inside(width_px: int, height_px: int, canvases: Sequence[tuple[int, int]]) -> bool:
    """Return whether a canvas exceeds an image in both directions.

    False for aspect ratios above 200, which have no native grid.
    """
    if max(width_px, height_px) > MAX_ASPECT_RATIO * min(width_px, height_px):
        return False
    return any(width_px < width and height_px < height for width, height in canvases)


def _within_budget(plans: list[ImagePlan], config: VisualConfig) -> list[ImagePlan]:
    """Shrink the grids of one sample by one factor until their tokens fit the budget."""
    merge, budget = config.merge_side_patches, config.max_image_tokens * config.patches_per_token
    if len(plans) * config.patches_per_token > budget:
        raise ValueError(
            f"a sample may have at most {config.max_image_tokens} images, one token each "
            f"(max_image_tokens), got {len(plans)}; split the sample"
        )
    scale, shrunk = 1.0, plans
    while (patches := sum(plan.rows * plan.columns for plan in shrunk)) > budget:
        # Sides of one block cannot shrink, so the others must shrink further: correct the factor
        # by what is still too much. At most 0.99, so that every round changes it.
        scale *= min(math.sqrt(budget / patches), 0.99)
        shrunk = [
            plan._replace(
                rows=_whole_blocks(int(plan.rows * scale), merge),
                columns=_whole_blocks(int(plan.columns * scale), merge),
            )
            for plan in plans
        ]
    return shrunk


def best_canvas(
    width_px: int,
    height_px: int,
    canvases: Sequence[tuple[int, int]],
    *,
    rule: str = "most_detail",
) -> tuple[int, int]:
    """Return the canvas (width, height) that fits an image best.

    Rule ``most_detail``: first the most pixels of the image that survive (enlarging adds none);
    then the fewest canvas pixels, so a small image does not get a huge canvas; then the least black
    border, so its orientation is met; then the wider canvas. The order of the list never matters.

    Rule ``llava_next``, of published LLaVA-NeXT checkpoints: first the most pixels that survive,
    sides cut to whole pixels; then the fewest canvas pixels without a pixel of the image; then the
    canvas that the list names first.
    """
    if rule == "llava_next":
        return min(canvases, key=lambda canvas: _llava_next_cost(width_px, height_px, *canvas))

    def cost(canvas: tuple[int, int]) -> tuple[int, int, int, int]:
        width, height = fitted_size(width_px, height_px, *canvas)
        kept = min(width * height, width_px * height_px)
        area = canvas[0] * canvas[1]
        return -kept, area, area - width * height, -canvas[0]

    return min(canvases, key=cost)


def _llava_next_cost(
    width_px: int, height_px: int, canvas_width_px: int, canvas_height_px: int
) -> tuple[int, int]:
    """Return (minus the pixels that survive, canvas pixels without one of them)."""
    scale = min(canvas_width_px / width_px, canvas_height_px / height_px)
    fitted = int(width_px * scale) * int(height_px * scale)
    kept = min(fitted, width_px * height_px)
    return -kept, canvas_width_px * canvas_height_px - kept


def _native_grid(width_px: int, height_px: int, config: VisualConfig) -> tuple[int, int]:
    """Return an image's own size in whole patches, within the limits of mode ``native``."""
    aspect = max(width_px, height_px) / min(width_px, height_px)
    if aspect > MAX_ASPECT_RATIO:
        raise ValueError(
            f"mode 'native' takes aspect ratios up to {MAX_ASPECT_RATIO}, "
            f"got {width_px} x {height_px}; crop the image or use mode 'pad'"
        )
    patch = config.patch_size_px
    rows, columns = max(1, round(height_px / patch)), max(1, round(width_px / patch))
    area, pixels = rows * columns * patch * patch, width_px * height_px
    if area > config.native_max_pixels:
        shrink = math.sqrt(config.native_max_pixels / pixels) / patch
        return max(1, int(height_px * shrink)), max(1, int(width_px * shrink))
    if area < config.native_min_pixels:
        grow = math.sqrt(config.native_min_pixels / pixels) / patch
        return math.ceil(height_px * grow), math.ceil(width_px * grow)
    return rows, columns
