"""Pixels to visual segments: the one preprocessing that training and evaluation share.

An image, a stack of frames or the mosaics of a codec clip become patches in the encoder's own
layout, with their (t, h, w) positions. Sizes are known before any pixel is touched
(``image_grid``), so that prompts can be laid out first. A frame or a padded image keeps its aspect
on a black canvas, like the frames inside codec assets.

Axis letters: F frames, G mosaics, P patches, p side of a patch in pixels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llava.batch import VisualSegment
from llava.constants import CLIP_IMAGE_MEAN, CLIP_IMAGE_STD, VIRTUAL_FRAMES
from llava.pictures import fit_on_canvas, fitted_size, resize, to_rgb
from llava.positions import frame_positions, image_positions

IMAGE_MODES = ("square", "pad", "anyres", "native")
NATIVE_MIN_SIDE_PATCHES = 4
MAX_ASPECT_RATIO = 200


@dataclass(frozen=True, kw_only=True)
class VisualConfig:
    """How pixels become patches; saved with a checkpoint, equal in training and evaluation.

    Attributes:
        patch_size_px: side of an encoder patch.
        patches_per_side: grid of a square or padded image, and of each frame of a stack.
        image_aspect_ratio: one of ``IMAGE_MODES``: ``square`` distorts to the square, ``pad``
            keeps the aspect on a black square, ``anyres`` on the best-fitting pinpoint, ``native``
            rounds the image's own size to whole patches.
        image_grid_pinpoints: canvases of ``anyres`` as (width, height) in pixels.
        native_max_pixels: upper limit of ``native``; the lower one is 4 x 4 patches.
        virtual_frames: length of the virtual time line that frames are spread over.
        image_mean: per channel, on pixels scaled to 0..1.
        image_std: per channel, on pixels scaled to 0..1.

    Raises:
        ValueError: for a mode, size or pinpoint that cannot work.
    """

    patch_size_px: int = 14
    patches_per_side: int = 36
    image_aspect_ratio: str = "square"
    image_grid_pinpoints: tuple[tuple[int, int], ...] = ()
    native_max_pixels: int = 1600 * 1600
    virtual_frames: int = VIRTUAL_FRAMES
    image_mean: tuple[float, float, float] = CLIP_IMAGE_MEAN
    image_std: tuple[float, float, float] = CLIP_IMAGE_STD

    def __post_init__(self) -> None:
        for name in ("patch_size_px", "patches_per_side", "virtual_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.image_aspect_ratio not in IMAGE_MODES:
            raise ValueError(
                f"image_aspect_ratio must be one of {', '.join(IMAGE_MODES)}, "
                f"got {self.image_aspect_ratio!r}"
            )
        if self.image_aspect_ratio == "anyres" and not self.image_grid_pinpoints:
            raise ValueError("image_aspect_ratio 'anyres' needs image_grid_pinpoints, got none")
        patch = self.patch_size_px
        for width, height in self.image_grid_pinpoints:
            if min(width, height) < patch or width % patch or height % patch:
                raise ValueError(
                    f"image_grid_pinpoints must be multiples of the patch size {patch}, "
                    f"got ({width}, {height})"
                )
        if self.native_max_pixels < self.native_min_pixels:
            raise ValueError(
                f"native_max_pixels must be at least {self.native_min_pixels} "
                f"(4 x 4 patches), got {self.native_max_pixels}"
            )
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or min(self.image_std) <= 0:
            raise ValueError(
                "image_mean and image_std must have three values, image_std above 0, "
                f"got {self.image_mean} and {self.image_std}"
            )

    @property
    def native_min_pixels(self) -> int:
        """Smallest area of ``native``: 4 x 4 patches."""
        return (NATIVE_MIN_SIDE_PATCHES * self.patch_size_px) ** 2

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values; ``from_dict`` takes them back, also after JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VisualConfig":
        """Build from ``to_dict``'s values, lists standing for tuples.

        Raises:
            ValueError: for a name that is no setting.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown visual settings: {', '.join(unknown)}")
        return cls(**{name: _as_tuple(value) for name, value in values.items()})


def _as_tuple(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_as_tuple(item) for item in value)
    return value


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

    Raises:
        ValueError: for an empty image or, in mode ``native``, an aspect ratio above 200.
    """
    if min(width_px, height_px) < 1:
        raise ValueError(f"an image needs pixels, got {width_px} x {height_px}")
    if config.image_aspect_ratio == "anyres":
        width, height = best_pinpoint(width_px, height_px, config.image_grid_pinpoints)
        return height // config.patch_size_px, width // config.patch_size_px
    if config.image_aspect_ratio == "native":
        return _native_grid(width_px, height_px, config)
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
    return VisualSegment(
        patches=patchify([image], config),
        positions=image_positions(rows, columns),
        placeholder_tokens=(rows * columns,),
    )


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
    return VisualSegment(
        patches=patchify(squares, config),
        positions=frame_positions(len(images), grid, grid, config.virtual_frames),
        placeholder_tokens=(grid * grid,) * len(images),
    )


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
    return VisualSegment(
        patches=patchify(squares, config),
        positions=torch.from_numpy(positions.astype(np.int64)),
        placeholder_tokens=(cells,) * len(mosaics),
    )
