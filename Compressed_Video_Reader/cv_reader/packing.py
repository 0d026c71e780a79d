"""Kept cells into mosaics: slot ``m * g^2 + r * g + c`` is row r, column c of mosaic m.

Axis letters: N rows (G * g^2), G mosaics, g cells along a side, p side of a cell and S of the
square, in pixels.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cv_reader.geometry import Letterbox

if TYPE_CHECKING:
    from cv_reader.frames import CodecFrame, Picture


def sort_rows(rows: NDArray[np.int32], order: str) -> NDArray[np.int32]:
    """Rows (t, h, w) in the order of their slots.

    ``raster`` is lexicographic; ``zigzag`` runs odd h from right to left inside each t, so that
    neighbours in the mosaic are more often neighbours in the picture.
    """
    t, h, w = rows[:, 0], rows[:, 1], rows[:, 2]
    along = np.where(h % 2 == 1, -w, w) if order == "zigzag" else w
    return rows[np.lexsort((along, h, t))]


def square_frame(picture: "CodecFrame | Picture", box: Letterbox) -> NDArray[np.uint8]:
    """Scale a frame's pixels bicubically and centre them on black.

    Returns:
        uint8 (S, S, 4), RGB and a byte that says nothing: pixels are moved as whole words.
    """
    square = np.zeros((box.square_px, box.square_px, 4), np.uint8)
    square[box.content] = picture.rgbx((box.width_px, box.height_px))
    return square


class MosaicPacker:
    """Fills mosaics from square frames, one slot of time after the other, in any order.

    Args:
        rows: int32 (N, 3), sorted; row n is the origin of slot n.
        square_px: S.
        patch_px: p.
        num_images: G.
    """

    def __init__(
        self, rows: NDArray[np.int32], *, square_px: int, patch_px: int, num_images: int
    ) -> None:
        self._rows = rows
        self._grid = square_px // patch_px
        self.mosaics = np.zeros((num_images, square_px, square_px, 4), np.uint8)
        # A cell is p items, each a whole row of it.
        self._item = np.dtype(f"V{4 * patch_px}")
        self._shape = (-1, self._grid, patch_px, self._grid)

    def add(self, slot: int, square: NDArray[np.uint8]) -> None:
        """Copy the kept cells of time slot ``slot`` from its square frame (S, S, 4)."""
        numbers = np.flatnonzero(self._rows[:, 0] == slot)
        image, cell = np.divmod(numbers, self._grid**2)
        row, column = np.divmod(cell, self._grid)
        target, source = self._items(self.mosaics), self._items(square)[0]
        target[image, row, :, column] = source[self._rows[numbers, 1], :, self._rows[numbers, 2]]

    def _items(self, pixels: NDArray[np.uint8]) -> NDArray[np.void]:
        """(images, g, p, g) of rows of cells."""
        return pixels.reshape(-1).view(self._item).reshape(self._shape)


def write_mosaics(
    mosaics: NDArray[np.uint8], folder: Path, *, stem: str, quality: int
) -> tuple[Path, ...]:
    """Write ``{stem}_000.jpg`` and so on, 4:2:0.

    Args:
        mosaics: uint8 (G, S, S, 4), RGB and a byte that says nothing.
        folder: an existing folder.
        stem: of the file names, safe for paths.
        quality: 1..100.
    """
    paths = tuple(folder / f"{stem}_{index:03d}.jpg" for index in range(len(mosaics)))
    for path, mosaic in zip(paths, mosaics, strict=True):
        to_image(mosaic).save(path, quality=quality, subsampling="4:2:0")
    return paths


def to_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Pixels (height, width, 4) as Pillow holds them: no copy."""
    height, width = pixels.shape[:2]
    return Image.frombuffer("RGBX", (width, height), pixels, "raw", "RGBX", 0, 1)
