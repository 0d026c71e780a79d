"""Pictures before they become patches: reading, pixel formats, resizing.

Rules chosen here:
- Every resize is bicubic.
- Transparent pixels are laid over white: most transparent images are dark drawings or text made
  for white pages. 16-bit grey is scaled to 8 bits. EXIF orientation is applied.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps

_ORIENTATION = 0x0112
# What Pillow raises for files that are missing, truncated, damaged, or not images at all.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error)


def load_image(path: str | Path) -> Image.Image:
    """Read an image file as upright 8-bit RGB.

    Pillow's limit on decoded size stays in force: a file that would unpack to more than
    ``2 * Image.MAX_IMAGE_PIXELS`` is refused.

    Raises:
        ValueError: if the file is missing, damaged, no image, too large or of a pixel mode that
            has no 8-bit meaning; the message names the file.
    """
    try:
        with _whole_files_only(), Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except Image.DecompressionBombError as error:
        raise ValueError(f"image {path} is too large: {error}") from error
    except _PILLOW_ERRORS as error:
        raise ValueError(f"image {path} cannot be read: {error}") from error


def read_image_size(path: str | Path) -> tuple[int, int]:
    """Upright (width, height) of an image file from its header; pixels are not decoded.

    Raises:
        ValueError: if the file is missing or no image; the message names the file.
    """
    try:
        with Image.open(path) as image:
            # A PNG may hold its orientation behind the pixels; only what was read so far counts.
            rotated = "exif" in image.info and image.getexif().get(_ORIENTATION, 1) >= 5
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise ValueError(f"image {path} is too large: {error}") from error
    except _PILLOW_ERRORS as error:
        raise ValueError(f"image {path} cannot be read: {error}") from error
    return (height, width) if rotated else (width, height)


@contextmanager
def _whole_files_only() -> Iterator[None]:
    """Pillow's switch for truncated files is global, and lmms-eval turns it on at import."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as upright 8-bit RGB: EXIF applied, transparency over white, 16-bit grey scaled.

    Raises:
        ValueError: for 32-bit pixel modes, whose range is not known.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # 65535 / 255 = 257. Pillow's own conversion would clip everything above 255 to white.
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"32-bit pixels (mode {image.mode}) have no known range; save as 8 bit")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def fitted_size(
    width_px: int, height_px: int, canvas_width_px: int, canvas_height_px: int
) -> tuple[int, int]:
    """The largest (width, height) of the same aspect that lies inside a canvas, at least 1 px."""
    scale = min(canvas_width_px / width_px, canvas_height_px / height_px)
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))


def resize(image: Image.Image, width_px: int, height_px: int) -> Image.Image:
    """Resize bicubically; an image that already has the size is not touched."""
    if image.size == (width_px, height_px):
        return image
    return image.resize((width_px, height_px), Image.Resampling.BICUBIC)


def fit_on_canvas(image: Image.Image, width_px: int, height_px: int) -> Image.Image:
    """Keep the aspect, centred on a black canvas; an image of the canvas size is not touched."""
    width, height = fitted_size(*image.size, width_px, height_px)
    if (width, height) == (width_px, height_px):
        return resize(image, width_px, height_px)
    canvas = Image.new("RGB", (width_px, height_px))
    offset = (width_px - width) // 2, (height_px - height) // 2
    canvas.paste(resize(image, width, height), offset)
    return canvas
