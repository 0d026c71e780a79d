"""Pictures before they become patches: reading, pixel formats, resizing.

Rules chosen here:
- Every resize is bicubic.
- Transparent pixels are laid over white: most transparent images are dark drawings or text made
  for white pages. 16-bit grey is scaled to 8 bits. EXIF orientation is applied.
"""

import base64
import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cv_reader.shards import file_bytes, is_file, is_plain, open_file
from run_kit.files import whole_pictures_only

MAX_PICTURE_PX = 178_956_970
"""Larger pictures are refused before they are decoded: Pillow's limit, which libraries change."""

_ORIENTATION = 0x0112
# What Pillow raises for files that are missing, truncated, damaged, or not images at all.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error)

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_NOTES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
"""Chunks that say nothing that is used: texts, and colour profiles."""
_MAX_FILE_BYTES = 1 << 30
_PPM_HEAD = re.compile(rb"P6\n(\d{1,6}) (\d{1,6})\n255\n")


class PictureBytes(NamedTuple):
    """The content of a picture file that is in memory, and what messages call it."""

    content: bytes
    name: str

    def __repr__(self) -> str:
        return f"the picture in {self.name}"

    __str__ = __repr__


Picture = Path | PictureBytes
"""A picture: a file, in a folder or in a shard, or the content of one."""


def load_image(path: str | Path | PictureBytes) -> Image.Image:
    """Read an image file, or the content of one, as upright 8-bit RGB.

    Raises:
        ValueError: if the file is missing, damaged, no image, of more than ``MAX_PICTURE_PX``
            pixels or of a pixel mode that has no 8-bit meaning; the message names the file.
    """
    with _named_errors(path), whole_pictures_only():
        try:
            return _read_rgb(path)
        except ValueError as error:
            return _read_rgb(_without_text(path, error))


def read_picture(source: Any) -> Image.Image:
    """Read a picture from any source, as upright 8-bit RGB.

    Args:
        source: a PIL image, uint8 pixels (H, W, 3) or (H, W), a path, the content of an image file
            (with a name for messages or without), or a ``data:`` URL of one.

    Raises:
        ValueError: if it holds no picture.
    """
    if isinstance(source, Image.Image):
        return to_rgb(source)
    if isinstance(source, bytes):
        return load_image_bytes(source)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim not in (2, 3):
            raise ValueError(
                f"pixels must be uint8 (H, W, 3) or (H, W), got {source.dtype} {source.shape}"
            )
        return to_rgb(Image.fromarray(source))
    if isinstance(source, str) and source.startswith("data:"):
        return load_image_bytes(decode_data_url(source))
    if isinstance(source, str | Path | PictureBytes):
        return load_image(source)
    raise ValueError(
        "a picture must be a PIL image, pixels, a path or the content of a file, got "
        f"{type(source).__name__}"
    )


def read_uncompressed(source: object) -> NDArray[np.uint8] | None:
    """Return the pixels of a ``.ppm`` file as assets have it, which takes no more than to read it.

    Returns:
        uint8 (H, W, 3), or None for any other source: ``read_picture`` reads it, or says what is
        wrong with it.
    """
    if not isinstance(source, Path) or source.suffix != ".ppm":
        return None
    try:
        size = file_bytes(source)
        if size > _MAX_FILE_BYTES:
            return None
        with open_file(source) as stream:
            content = stream.read(size)
    except (OSError, ValueError):
        return None
    head = _PPM_HEAD.match(content)
    if head is None:
        return None
    width, height = int(head[1]), int(head[2])
    is_whole = 0 < width * height <= MAX_PICTURE_PX
    if not is_whole or len(content) != head.end() + 3 * width * height:
        return None
    return np.frombuffer(content, np.uint8, offset=head.end()).reshape(height, width, 3)


def decode_data_url(url: str) -> bytes:
    """Return the content of a ``data:`` URL in base64.

    Raises:
        ValueError: if it is no such URL.
    """
    header, comma, content = url.partition(",")
    if not comma or not header.startswith("data:") or not header.endswith(";base64"):
        raise ValueError(f"a data URL must read data:TYPE;base64,CONTENT, got {url[:40]!r}")
    try:
        return base64.b64decode(content, validate=True)
    except ValueError as error:
        raise ValueError(f"the content of a data URL is no base64: {error}") from error


def load_image_bytes(content: bytes, name: str = "of a message") -> Image.Image:
    """Read the content of an image file as ``load_image`` does; ``name`` is for errors.

    Raises:
        ValueError: as ``load_image``.
    """
    with _named_errors(name), whole_pictures_only():
        return _read_rgb(io.BytesIO(content))


def _read_rgb(source: str | Path | PictureBytes | io.BytesIO) -> Image.Image:
    with _opened(source) as image:
        _check_kind(image)
        image.load()
        return to_rgb(image)


def read_image_size(path: str | Path | PictureBytes) -> tuple[int, int]:
    """Return upright (width, height) of an image file from its header, without decoding pixels.

    Raises:
        ValueError: if the file is missing, no image or too large; the message names the file.
    """
    with _named_errors(path):
        try:
            return _read_size(path)
        except ValueError as error:
            return _read_size(_without_text(path, error))


def _read_size(source: str | Path | PictureBytes | io.BytesIO) -> tuple[int, int]:
    with _opened(source) as image:
        _check_kind(image)
        # A PNG may hold its orientation behind the pixels; only what was read so far counts.
        rotated = "exif" in image.info and image.getexif().get(_ORIENTATION, 1) >= 5
        width, height = image.size
    return (height, width) if rotated else (width, height)


def _opened(source: str | Path | PictureBytes | io.BytesIO) -> Image.Image:
    """Open a picture in a folder, a shard (``SHARD.tar#KEY/FILE``), a store or in memory."""
    if isinstance(source, PictureBytes):
        return Image.open(io.BytesIO(source.content))
    if isinstance(source, io.BytesIO) or is_plain(source):
        return Image.open(source)
    return Image.open(open_file(source))


def _check_kind(image: Image.Image) -> None:
    if image.format == "EPS":
        raise OSError("PostScript is a program, and is not run; save it as PNG")
    if image.width * image.height > MAX_PICTURE_PX:
        raise Image.DecompressionBombError(
            f"{image.width} x {image.height} pixels, the limit is {MAX_PICTURE_PX} in all"
        )


def _without_text(path: str | Path | PictureBytes, error: ValueError) -> io.BytesIO:
    """Return a PNG file without its texts and profiles, of which Pillow refuses large ones.

    Image generators store whole workflows there; viewers ignore them.

    Raises:
        ValueError: the given error of Pillow, if the file is no PNG.
    """
    if isinstance(path, PictureBytes):
        content = memoryview(path.content)
    elif not is_file(path) or file_bytes(path) > _MAX_FILE_BYTES:
        raise error
    else:
        with open_file(path) as stream:
            content = memoryview(stream.read())
    if content[:8] != _PNG_SIGNATURE:
        raise error
    kept, start = [content[:8]], 8
    while start + 12 <= len(content):
        size = int.from_bytes(content[start : start + 4], "big")
        if bytes(content[start + 4 : start + 8]) not in _PNG_NOTES:
            kept.append(content[start : start + 12 + size])
        start += 12 + size
    return io.BytesIO(b"".join(kept))


@contextmanager
def _named_errors(path: str | Path | PictureBytes) -> Iterator[None]:
    """Turn Pillow's errors into one that names the file."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ValueError(f"image {path} is too large: {error}") from error
    except UnidentifiedImageError as error:  # its text names an object in memory
        raise ValueError(f"image {path} cannot be read: it is not a picture") from error
    except _PILLOW_ERRORS as error:
        raise ValueError(f"image {path} cannot be read: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as upright 8-bit RGB; one that is so already is returned itself.

    EXIF orientation is applied, transparency laid over white, and 16-bit grey scaled.

    Raises:
        ValueError: The image has a 32-bit pixel mode, whose range is not known.
    """
    image.load()
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # 65535 / 255 = 257. Pillow's own conversion would clip everything above 255 to white.
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"32-bit pixels (mode {image.mode}) have no known range; save as 8 bit")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def fitted_size(
    width_px: int, height_px: int, canvas_width_px: int, canvas_height_px: int
) -> tuple[int, int]:
    """Return the largest (width, height) of the same aspect inside a canvas, at least 1 px."""
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
