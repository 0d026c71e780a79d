"""Pixels to visual segments: the one preprocessing that training and evaluation share.

An image, a stack of frames or the mosaics of a codec clip become patches in the encoder's own
layout, with their (t, h, w) positions. ``llava.visual.sizes`` decides how large an image becomes.
A frame or a padded image keeps its aspect on a black canvas, like the frames inside codec assets.

Frames and mosaics that are files are read one after another, each cut before the next is read. So a
clip needs the memory of one picture besides its patches; fresh memory for all of them would cost a
data worker more time than the cutting.

Axis letters: F frames, G mosaics, P patches, p side of a patch in pixels.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from llava.visual.batch import Normalisation, VisualSegment, normalise_bytes
from llava.visual.config import VisualConfig
from llava.visual.pictures import (
    Picture,
    fit_on_canvas,
    read_picture,
    read_uncompressed,
    resize,
    to_rgb,
)
from llava.visual.sizes import ImagePlan, plan_images
from llava.visual.time_marks import NO_TIMES, TimeMark, time_marks
from onevision_encoder.patches import grid_positions, uniform_slots


def normalised_patches(images: Sequence[Image.Image], config: VisualConfig) -> Tensor:
    """Return ``byte_patches`` normalised: float32 (P, 3 * p * p)."""
    patches = byte_patches(images, config.patch_size_px)
    return normalise_bytes(patches, Normalisation(config.image_mean, config.image_std))


def byte_patches(images: Sequence[Image.Image], patch_size_px: int) -> Tensor:
    """Cut images into patches, image after image, each in raster order.

    Args:
        images: 8-bit RGB, both sides whole multiples of the patch size.
        patch_size_px: p.

    Returns:
        uint8 (P, 3 * p * p), element order (channel, row, column) like a flattened convolution
        weight.

    Raises:
        ValueError: if there is no image, or the side of one is no multiple of the patch size.
    """
    patch = patch_size_px
    for image in images:
        if image.width % patch or image.height % patch:
            raise ValueError(
                f"image sides must be multiples of {patch} px, got {image.width} x {image.height}"
            )
    if not images:
        raise ValueError("patches need at least one image, got none")
    pictures = (np.asarray(to_rgb(image)) for image in images)
    return _cut(pictures, patch, sum(image.width * image.height for image in images) // patch**2)


def _cut(pictures: Iterable[NDArray[np.uint8]], patch: int, count: int) -> Tensor:
    """Cut pictures uint8 (H, W, 3) of whole patches, ``count`` in all; see ``byte_patches``."""
    cut = np.empty((count, 3, patch**2), np.uint8)
    start = 0
    for pixels in pictures:
        rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
        end = start + rows * columns
        # The bytes of a row of a patch move as one item; then channels are taken apart.
        items = pixels.reshape(-1).view(f"V{3 * patch}").reshape(rows, patch, columns)
        patches = items.transpose(0, 2, 1).copy().view(np.uint8)
        cut[start:end] = patches.reshape(-1, patch**2, 3).transpose(0, 2, 1)
        start = end
    return torch.from_numpy(cut.reshape(count, -1))


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


def image_visual(
    image: Image.Image, config: VisualConfig, plan: ImagePlan | None = None
) -> VisualSegment:
    """Make one image a segment at t = 0 behind one placeholder.

    Args:
        image: an image of any size and pixel format.
        config: the preprocessing settings.
        plan: its entry of ``plan_images`` where the sample has several images; None if it is the
            only one.
    """
    image = to_rgb(image)
    plan = plan_images([image.size], config)[0] if plan is None else plan
    width, height = plan.columns * config.patch_size_px, plan.rows * config.patch_size_px
    image = (fit_on_canvas if plan.keeps_aspect else resize)(image, width, height)
    positions = grid_positions(torch.zeros(1, dtype=torch.int64), plan.rows, plan.columns)
    return _segment([np.asarray(image)], 1, (plan.rows, plan.columns), positions, config)


def image_visuals(images: Sequence[Image.Image], config: VisualConfig) -> list[VisualSegment]:
    """Make each image of one sample a segment; they are sized together.

    Raises:
        ValueError: if one has no size that fits.
    """
    plans = plan_images([image.size for image in images], config)
    return [image_visual(image, config, plan) for image, plan in zip(images, plans, strict=True)]


def frames_visual(
    images: Sequence[Image.Image | Picture],
    config: VisualConfig,
    *,
    seconds: Sequence[float] | None = None,
) -> VisualSegment:
    """Make uniformly sampled frames ONE segment: t spread over the virtual time line.

    Each frame keeps its aspect on a black square of ``patches_per_side``, in every image mode,
    and has a placeholder of its own.

    Args:
        images: the frames, or their files, in order.
        config: the preprocessing settings.
        seconds: the time of each frame; needed where ``config`` has ``time_marks``.

    Raises:
        ValueError: if there are no frames, or more than ``virtual_frames``, or their times are
            needed and unknown.
    """
    if not 1 <= len(images) <= config.virtual_frames:
        raise ValueError(
            f"a stack must have 1 to {config.virtual_frames} frames, got {len(images)}"
        )
    grid = config.patches_per_side
    side = grid * config.patch_size_px
    squares = (np.asarray(fit_on_canvas(read_picture(image), side, side)) for image in images)
    slots = uniform_slots(len(images), config.virtual_frames)
    times = None if seconds is None else dict(zip(slots.tolist(), seconds, strict=True))
    positions = grid_positions(slots, grid, grid)
    return _segment(squares, len(images), (grid, grid), positions, config, _times(config, times))


def _times(config: VisualConfig, seconds: Mapping[int, float] | None) -> Mapping[int, float] | None:
    """Return the times of slots if the prompt shall tell them."""
    if not config.time_marks:
        return None
    if seconds is None:
        raise ValueError(NO_TIMES)
    return seconds


def codec_visual(
    mosaics: Sequence[Image.Image | Picture],
    positions: np.ndarray,
    config: VisualConfig,
    *,
    seconds: Mapping[int, float] | None = None,
) -> VisualSegment:
    """Make all mosaics of one codec clip ONE segment.

    Args:
        mosaics: G square images of one size, or their files.
        positions: integers (N, 3), rows (t, h, w): row ``g * grid**2 + r * grid + c`` is the cell
            at row r, column c of mosaic g, with ``grid = sqrt(N / G)``.
        config: gives patch size, mean and std.
        seconds: the time of each slot t; needed where ``config`` has ``time_marks``.

    Raises:
        ValueError: if a file cannot be read, mosaics and positions do not belong together, patches
            are merged whose cells are no neighbours in the video, or times are needed and unknown.
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
    check_blocks(positions, len(mosaics), config)
    squares = _mosaic_pixels(mosaics, grid, config.patch_size_px)
    rows = torch.from_numpy(positions.astype(np.int64))
    return _segment(squares, len(mosaics), (grid, grid), rows, config, _times(config, seconds))


def _mosaic_pixels(
    mosaics: Iterable[Image.Image | Picture], grid: int, patch_px: int
) -> Iterator[NDArray[np.uint8]]:
    """Read mosaics, one at a time, and bring them to one patch per cell: uint8 (side, side, 3)."""
    side = grid * patch_px
    sizes: set[tuple[int, int]] = set()
    for mosaic in mosaics:
        pixels = read_uncompressed(mosaic)
        is_ready = pixels is not None and pixels.shape[:2] == (side, side)
        image = None if is_ready else read_picture(mosaic)
        sizes.add((side, side) if image is None else image.size)
        if len(sizes) > 1:
            raise ValueError(f"the mosaics of a clip must have one size, got {sorted(sizes)}")
        if image is not None:
            pixels = np.asarray(resize_mosaic(image, grid, patch_px))
        assert pixels is not None
        yield pixels


def check_blocks(positions: np.ndarray, num_images: int, config: VisualConfig) -> None:
    """Refuse mosaics whose merged cells are no neighbours in their frame.

    A merging projector makes one token of each 2 x 2 cells of a mosaic. Assets whose cells were
    chosen one by one put cells of different places and frames side by side.

    Args:
        positions: integers (N, 3), rows (t, h, w), in raster order of each mosaic.
        num_images: mosaics G; N is G times a square number.
        config: says how many patches a side are merged; 1 checks nothing.

    Raises:
        ValueError: naming the first block, its positions and the remedy.
    """
    merge = config.merge_side_patches
    if merge == 1:
        return
    grid = math.isqrt(len(positions) // num_images)
    if grid % merge:
        raise ValueError(
            f"the grid of a mosaic must be a multiple of the {merge} patches that are merged, got "
            f"{grid}; choose another square or cell size for the assets"
        )
    order = block_order(num_images, grid, grid, merge).numpy()
    blocks = positions.astype(np.int64)[order].reshape(-1, merge * merge, 3)
    inner = [(0, row, column) for row in range(merge) for column in range(merge)]
    wrong = (blocks - blocks[:, :1] != np.array(inner)).any(axis=(1, 2)).nonzero()[0]
    if len(wrong):
        mosaic, block = divmod(int(wrong[0]), (grid // merge) ** 2)
        raise ValueError(
            f"the projector spatial_merge joins {merge} x {merge} cells, which must be neighbours "
            f"in one frame, but {len(wrong)} of {len(blocks)} blocks are not: block {block} of "
            f"mosaic {mosaic} has (t, h, w) {blocks[wrong[0]].tolist()}; it needs assets made with "
            f"block_cells = {merge} (add --block_cells {merge} --overwrite to cv_reader stage1 and "
            "run stage2 again; for evaluation, to cv_reader precompute), or use the projector "
            "mlp2x_gelu"
        )


def _segment(
    images: Iterable[NDArray[np.uint8]],
    num_images: int,
    grid: tuple[int, int],
    positions: Tensor,
    config: VisualConfig,
    seconds: Mapping[int, float] | None = None,
) -> VisualSegment:
    """Images of one size with their raster positions as a segment, blocks of patches together.

    ``grid`` is patch rows and columns of each image.
    """
    merge = config.merge_side_patches
    patches = _cut(images, config.patch_size_px, num_images * math.prod(grid))
    if merge > 1:
        order = block_order(num_images, *grid, merge)
        patches, positions = patches[order], positions[order]
    marks: tuple[TimeMark, ...] = ()
    if seconds is not None:
        marks = time_marks(positions[:: config.patches_per_token, 0].tolist(), seconds)
    return VisualSegment(
        time_marks=marks,
        patches=patches,
        positions=positions,
        placeholder_tokens=(math.prod(grid) // config.patches_per_token,) * num_images,
        patches_per_token=config.patches_per_token,
        normalisation=Normalisation(config.image_mean, config.image_std),
    )


def token_slots(slots: np.ndarray, num_images: int, config: VisualConfig) -> list[int]:
    """Return t of each visual token of a codec clip.

    Args:
        slots: integers (N,), t of each cell in raster order of each mosaic.
        num_images: mosaics G.
        config: says which cells are merged.
    """
    if config.merge_side_patches > 1:
        grid = math.isqrt(len(slots) // num_images)
        slots = slots[block_order(num_images, grid, grid, config.merge_side_patches).numpy()]
    return slots[:: config.patches_per_token].tolist()


def block_order(images: int, rows: int, columns: int, merge: int) -> Tensor:
    """Where the patches of raster order go, so that each merge x merge block is consecutive.

    Returns:
        int64 (images * rows * columns,): raster numbers, image after image, blocks in raster
        order, within a block row by row.
    """
    numbers = torch.arange(images * rows * columns)
    blocks = numbers.view(images, rows // merge, merge, columns // merge, merge)
    return blocks.transpose(2, 3).flatten()
