"""Pixels to visual segments: the one preprocessing that training and evaluation share.

An image, a stack of frames or the mosaics of a codec clip become patches in the encoder's own
layout, with their (t, h, w) positions. Sizes are known before any pixel is touched
(``image_grid``), so that prompts can be laid out first. A frame or a padded image keeps its aspect
on a black canvas, like the frames inside codec assets.

Axis letters: F frames, G mosaics, P patches, p side of a patch in pixels.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llava.visual.batch import VisualSegment
from llava.visual.config import IMAGE_MODES, VisualConfig
from llava.visual.pictures import fit_on_canvas, fitted_size, resize, to_rgb
from llava.visual.positions import frame_positions, image_positions

__all__ = [
    "IMAGE_MODES",
    "VisualConfig",
    "best_pinpoint",
    "codec_segment",
    "frames_segment",
    "image_grid",
    "image_segment",
    "patchify",
    "resize_mosaic",
]

MAX_ASPECT_RATIO = 200


def patchify(images: Sequence[Image.Image], config: VisualConfig) -> Tensor:
    """Cut images into normalised patches, image after image, each in raster order.

    Args:
        images: 8-bit RGB, both sides whole multiples of the patch size.
        config: gives patch size, mean and std.

    Returns:
        float32 (P, 3 * p * p), element order (channel, row, column) like a flattened
        convolution weight.

    Raises:
        ValueError: if there is no image, or a side is no multiple of the patch size.
    """
    patch = config.patch_size_px
    blocks: list[np.ndarray] = []
    for image in images:
        if image.width % patch or image.height % patch:
            raise ValueError(
                f"image sides must be multiples of {patch} px, got {image.width} x {image.height}"
            )
        pixels = np.asarray(image.convert("RGB"))
        pixels = pixels.reshape(image.height // patch, patch, image.width // patch, patch, 3)
        blocks.append(pixels.transpose(0, 2, 4, 1, 3).reshape(-1, 3, patch * patch))
    if not blocks:
        raise ValueError("patchify needs at least one image, got none")
    std = torch.tensor(config.image_std).view(1, 3, 1)
    mean = torch.tensor(config.image_mean).view(1, 3, 1)
    patches = torch.from_numpy(np.concatenate(blocks)).to(torch.float32)
    return patches.div_(255).sub_(mean).div_(std).flatten(1)


def image_grid(width_px: int, height_px: int, config: VisualConfig) -> tuple[int, int]:
    """Grid (rows, columns) in patches that an image of this size gets, without reading pixels.

    Where patches are merged, canvases grow to whole blocks and native sizes shrink to them.

    Raises:
        ValueError: for an empty image or, in mode ``native``, an aspect ratio above 200.
    """
    if min(width_px, height_px) < 1:
        raise ValueError(f"an image needs pixels, got {width_px} x {height_px}")
    merge = config.merge_side_patches
    if config.image_aspect_ratio == "anyres":
        width, height = best_pinpoint(width_px, height_px, config.image_grid_pinpoints)
        rows, columns = height // config.patch_size_px, width // config.patch_size_px
        return -(-rows // merge) * merge, -(-columns // merge) * merge
    if config.image_aspect_ratio == "native":
        rows, columns = _native_grid(width_px, height_px, config)
        return max(rows // merge, 1) * merge, max(columns // merge, 1) * merge
    return config.patches_per_side, config.patches_per_side


def best_pinpoint(
    width_px: int, height_px: int, pinpoints: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """The canvas (width, height) that fits an image best.

    First the most pixels of the image that survive (upscaling adds none); then the fewest canvas
    pixels, so a small image does not land on a huge canvas; then the least black border, so its
    orientation is met; then the wider canvas. The order of the list never matters.
    """

    def cost(canvas: tuple[int, int]) -> tuple[int, int, int, int]:
        width, height = fitted_size(width_px, height_px, *canvas)
        kept = min(width * height, width_px * height_px)
        area = canvas[0] * canvas[1]
        return -kept, area, area - width * height, -canvas[0]

    return min(pinpoints, key=cost)


def _native_grid(width_px: int, height_px: int, config: VisualConfig) -> tuple[int, int]:
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


def resize_mosaic(image: Image.Image, grid_patches: int, patch_size_px: int) -> Image.Image:
    """Bring a mosaic to one encoder patch per cell: one bicubic resize, none if already there.

    Args:
        image: square, its side a whole multiple of ``grid_patches``.
        grid_patches: cells per side of the mosaic (square_size / patch_size of the assets).
        patch_size_px: patch of the encoder.

    Raises:
        ValueError: if the mosaic is not square or its cells are not whole pixels.
    """
    if image.width != image.height or image.width % grid_patches:
        raise ValueError(
            f"a mosaic must be square with a side that is a multiple of its grid {grid_patches}, "
            f"got {image.width} x {image.height} px; images and positions do not belong together"
        )
    side = grid_patches * patch_size_px
    return resize(image, side, side)


def image_segment(image: Image.Image, config: VisualConfig) -> VisualSegment:
    """One image in the configured mode: one segment at t = 0 behind one placeholder."""
    image = to_rgb(image)
    rows, columns = image_grid(*image.size, config)
    width, height = columns * config.patch_size_px, rows * config.patch_size_px
    keep_aspect = config.image_aspect_ratio in ("pad", "anyres")
    image = (fit_on_canvas if keep_aspect else resize)(image, width, height)
    return _segment([image], image_positions(rows, columns), config)


def frames_segment(images: Sequence[Image.Image], config: VisualConfig) -> VisualSegment:
    """Uniformly sampled frames as ONE segment: t spread over the virtual time line.

    Each frame keeps its aspect on a black square of ``patches_per_side``, whatever the image mode,
    and stands behind a placeholder of its own.

    Raises:
        ValueError: if there are no frames, or more than ``virtual_frames``.
    """
    if not 1 <= len(images) <= config.virtual_frames:
        raise ValueError(
            f"a stack must have 1 to {config.virtual_frames} frames, got {len(images)}"
        )
    grid = config.patches_per_side
    side = grid * config.patch_size_px
    squares = [fit_on_canvas(to_rgb(image), side, side) for image in images]
    positions = frame_positions(len(images), grid, grid, config.virtual_frames)
    return _segment(squares, positions, config)


def codec_segment(
    mosaics: Sequence[Image.Image], positions: np.ndarray, config: VisualConfig
) -> VisualSegment:
    """All mosaics of one codec clip as ONE segment.

    Args:
        mosaics: G square images of one size.
        positions: integers (N, 3), rows (t, h, w): row ``g * grid**2 + r * grid + c`` is the cell
            at row r, column c of mosaic g, with ``grid = sqrt(N / G)``.
        config: gives patch size, mean and std.

    Raises:
        ValueError: if mosaics and positions do not belong together.
    """
    if positions.dtype.kind not in "iu" or positions.ndim != 2:
        raise ValueError(
            f"positions must be integers (N, 3), got {positions.dtype} {positions.shape}"
        )
    cells, rest = divmod(len(positions), max(1, len(mosaics)))
    grid = math.isqrt(cells)
    if not mosaics or rest or not cells or grid * grid != cells:
        raise ValueError(
            f"positions must have grid x grid rows per mosaic, got {len(positions)} rows "
            f"for {len(mosaics)} mosaics"
        )
    sizes = sorted({mosaic.size for mosaic in mosaics})
    if len(sizes) > 1:
        raise ValueError(f"the mosaics of a clip must have one size, got {sizes}")
    squares = [resize_mosaic(to_rgb(image), grid, config.patch_size_px) for image in mosaics]
    if grid % config.merge_side_patches:
        raise ValueError(
            f"the grid of a mosaic must be a multiple of the {config.merge_side_patches} patches "
            f"that are merged, got {grid}; choose another square or cell size for the assets"
        )
    return _segment(squares, torch.from_numpy(positions.astype(np.int64)), config)


def _segment(
    images: Sequence[Image.Image], positions: Tensor, config: VisualConfig
) -> VisualSegment:
    """Images of one size with their raster positions as a segment, blocks of patches together."""
    patch, merge = config.patch_size_px, config.merge_side_patches
    rows, columns = images[0].height // patch, images[0].width // patch
    patches = patchify(images, config)
    if merge > 1:
        order = block_order(len(images), rows, columns, merge)
        patches, positions = patches[order], positions[order]
    return VisualSegment(
        patches=patches,
        positions=positions,
        placeholder_tokens=(rows * columns // config.patches_per_token,) * len(images),
        patches_per_token=config.patches_per_token,
    )


def block_order(images: int, rows: int, columns: int, merge: int) -> Tensor:
    """Where the patches of raster order go, so that each merge x merge block is consecutive.

    Returns:
        int64 (images * rows * columns,): raster numbers, image after image, blocks in raster
        order, within a block row by row.
    """
    numbers = torch.arange(images * rows * columns)
    blocks = numbers.view(images, rows // merge, merge, columns // merge, merge)
    return blocks.transpose(2, 3).flatten()
