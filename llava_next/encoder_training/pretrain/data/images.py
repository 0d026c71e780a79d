"""Bytes of an image to patches: decoding, augmentation, cutting.

The reference crops 70 to 100 % of the area at an aspect of 0.8 to 1.25, resizes with a triangular
filter and flips half of the images; OCR images are resized and cropped in the middle only.
``max_size_px`` keeps each image's own shape instead, up to 1:2 and 2:1.

JPEG files are decoded at the smallest of libjpeg's scales that still holds the resized crop: this
halves the cost of megapixel images (``scripts/bench/pretrain_data.py`` compares decoders).
"""

import io
import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from encoder_training.pretrain.data.samples import BadSampleError
from onevision_encoder.patches import grid_positions, patchify
from run_kit.files import whole_pictures_only

MAX_PIXELS = 1 << 27
"""Images of more pixels are refused before they are decoded."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class ImageView:
    """How images become patches.

    Attributes:
        patch_size: side of a patch in pixels.
        size_px: side of the square that images are resized to; a multiple of ``patch_size``.
        max_size_px: keep the image's shape, at the area of a square of a side drawn from
            [size_px, max_size_px]; 0 makes squares of ``size_px``.
        augment: random crop and flip. Without it the middle is taken, at ``max_size_px``.
        flip: whether half of the augmented images are mirrored; text must not be.
        crop_area: smallest share of the area that a crop keeps.
        crop_aspect: a crop's largest change of aspect, either way.
        max_aspect: largest aspect of images that keep their shape, either way.
    """

    patch_size: int = 14
    size_px: int = 224
    max_size_px: int = 0
    augment: bool = True
    flip: bool = True
    crop_area: float = 0.7
    crop_aspect: float = 1.25
    max_aspect: float = 2.0

    def __post_init__(self) -> None:
        for name in ("size_px", "max_size_px"):
            value = getattr(self, name)
            if value % self.patch_size or value < (self.patch_size if name == "size_px" else 0):
                raise ValueError(
                    f"{name} must be a multiple of patch_size {self.patch_size}, got {value}"
                )
        if self.max_size_px and self.max_size_px < self.size_px:
            raise ValueError(f"max_size_px must be 0 or at least {self.size_px} (size_px)")
        if not 0 < self.crop_area <= 1 or self.crop_aspect < 1 or self.max_aspect < 1:
            raise ValueError("crop_area must be in (0, 1], crop_aspect and max_aspect at least 1")


def ocr_view(patch_size: int = 14, size_px: int = 448) -> ImageView:
    """Return the view of OCR images: resized and cropped in the middle, never mirrored."""
    return ImageView(patch_size=patch_size, size_px=size_px, augment=False, flip=False)


def image_tokens(
    data: bytes, view: ImageView, random: np.random.Generator, place: str
) -> tuple[Tensor, Tensor]:
    """Decode, augment and cut an image.

    Returns:
        patches uint8 (P, 3 * p * p) and positions int64 (P, 3), all at t = 0.

    Raises:
        BadSampleError: if it cannot be decoded.
    """
    pixels = torch.from_numpy(image_pixels(data, view, random, place))
    patches = patchify(pixels.permute(2, 0, 1)[None, :, None], view.patch_size)[0]
    rows, columns = (side // view.patch_size for side in pixels.shape[:2])
    return patches, grid_positions(torch.zeros(1, dtype=torch.int64), rows, columns)


def image_pixels(
    data: bytes, view: ImageView, random: np.random.Generator, place: str
) -> np.ndarray:
    """Return the augmented picture, uint8 (H, W, 3) RGB; see ``image_tokens``."""
    image = _open(data, place)
    box = _crop(image.size, view, random)
    size = _size(box, view, random)
    try:
        with whole_pictures_only():
            picture = _resized(image, box, size)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadSampleError(place, "broken image", f"cannot be decoded: {error}") from error
    pixels = np.array(picture)
    if view.augment and view.flip and random.random() < 0.5:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    return pixels


def _open(data: bytes, place: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadSampleError(place, "broken image", f"cannot be decoded: {error}") from error
    if image.width * image.height > MAX_PIXELS:
        raise BadSampleError(
            place, "image too large", f"must have at most {MAX_PIXELS} pixels, got {image.size}"
        )
    return image


def _crop(size: tuple[int, int], view: ImageView, random: np.random.Generator) -> Box:
    """Return left, top, right, bottom of what is kept, in pixels."""
    width, height = float(size[0]), float(size[1])
    if view.augment:
        area = width * height * random.uniform(view.crop_area, 1)
        limit = math.log(view.crop_aspect)
        change = math.exp(random.uniform(-limit, limit))
        # A square view crops towards a square, one that keeps shapes towards the image's own.
        aspect = change * (width / height if view.max_size_px else 1.0)
        width_px = min(math.sqrt(area * aspect), width)
        height_px = min(math.sqrt(area / aspect), height)
        left, top = random.uniform(0, width - width_px), random.uniform(0, height - height_px)
    else:
        most = view.max_aspect if view.max_size_px else 1.0
        width_px, height_px = min(width, height * most), min(height, width * most)
        left, top = (width - width_px) / 2, (height - height_px) / 2
    if view.max_size_px:
        kept_width, kept_height = (
            min(width_px, height_px * view.max_aspect),
            min(height_px, width_px * view.max_aspect),
        )
        left, top = left + (width_px - kept_width) / 2, top + (height_px - kept_height) / 2
        width_px, height_px = kept_width, kept_height
    return left, top, left + width_px, top + height_px


def _size(box: Box, view: ImageView, random: np.random.Generator) -> tuple[int, int]:
    """Return width and height in pixels, both multiples of the patch size."""
    if not view.max_size_px:
        return view.size_px, view.size_px
    side = view.max_size_px
    if view.augment:
        side = random.uniform(view.size_px, view.max_size_px)
    root = math.sqrt((box[2] - box[0]) / (box[3] - box[1]))
    width, height = (
        max(round(px / view.patch_size), 1) * view.patch_size for px in (side * root, side / root)
    )
    return width, height


def _resized(image: Image.Image, box: Box, size: tuple[int, int]) -> Image.Image:
    full_width, full_height = image.size
    wanted = (
        math.ceil(full_width * size[0] / (box[2] - box[0])),
        math.ceil(full_height * size[1] / (box[3] - box[1])),
    )
    if image.format == "JPEG":
        image.draft("RGB", wanted)
    scale_x, scale_y = image.width / full_width, image.height / full_height
    picture = image if image.mode == "RGB" else image.convert("RGB")
    scaled = (
        box[0] * scale_x,
        box[1] * scale_y,
        min(box[2] * scale_x, image.width),
        min(box[3] * scale_y, image.height),
    )
    return picture.resize(size, Image.Resampling.BILINEAR, box=scaled)
