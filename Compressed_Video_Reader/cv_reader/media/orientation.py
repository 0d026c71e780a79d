"""Turning pictures, cell maps and vectors to the orientation in which a video is shown.

Axis legend: H, W rows and columns of the picture as coded; trailing axes are left alone.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cv_reader.media.frames import BLOCK_PX, CELL_PX, map_shape

_Scalar = TypeVar("_Scalar", bound=np.generic)


def turn_size(size_px: tuple[int, int], degrees: int) -> tuple[int, int]:
    """Width and height of a picture that is turned by a multiple of 90 degrees."""
    width, height = size_px
    return (height, width) if degrees % 180 else size_px


def turn_pixels(array: NDArray[_Scalar], degrees: int) -> NDArray[_Scalar]:
    """Turn rows and columns (the first two axes) clockwise by 0, 90, 180 or 270 degrees."""
    if degrees == 0:
        return array
    return np.ascontiguousarray(np.rot90(array, -degrees // 90))


def to_cells(
    blocks: NDArray[_Scalar], block_px: int, height_px: int, width_px: int
) -> NDArray[_Scalar]:
    """Repeat a map of larger blocks, (2, y, x, ...), over their 4 x 4 cells, (2, h, w, ...)."""
    rows, columns = map_shape(height_px, width_px, CELL_PX)
    times = block_px // CELL_PX
    return blocks.repeat(times, axis=1)[:, :rows].repeat(times, axis=2)[:, :, :columns]


def turn_cells(
    cells: NDArray[np.int16], degrees: int, height_px: int, width_px: int
) -> NDArray[np.int16]:
    """Turn a map of 4 x 4 pixel cells, int16 (2, h, w, ...), clockwise.

    Cells count from the top left corner before and after. Where a side is no multiple of 4 they do
    not lie on each other; a turned cell then takes the value at its second row and column.

    Args:
        height_px: H of the picture as coded.
        width_px: W of the picture as coded.
    """
    if degrees == 0:
        return cells
    turned = cells
    if degrees in (90, 180):
        turned = turned[:, _reversed(height_px)]
    if degrees in (180, 270):
        turned = turned[:, :, _reversed(width_px)]
    return turned if degrees % 180 == 0 else np.ascontiguousarray(turned.swapaxes(1, 2))


def turn_vectors(
    motion: NDArray[np.int16], degrees: int, height_px: int, width_px: int
) -> NDArray[np.int16]:
    """Turn a map of vectors, int16 (2, h, w, 2) with (x, y) last: the places and the vectors."""
    if degrees == 0:
        return motion
    x, y = motion[..., 0], motion[..., 1]
    turned = {90: (-y, x), 180: (-x, -y), 270: (y, -x)}[degrees]
    return turn_cells(np.stack(turned, axis=-1), degrees, height_px, width_px)


def turn_blocks(
    blocks: NDArray[_Scalar], degrees: int, height_px: int, width_px: int
) -> NDArray[_Scalar]:
    """Turn a map of 16 x 16 pixel blocks, (y, x), by the rule of ``turn_cells``."""
    if degrees == 0:
        return blocks
    turned = blocks
    if degrees in (90, 180):
        turned = turned[_reversed(height_px, BLOCK_PX)]
    if degrees in (180, 270):
        turned = turned[:, _reversed(width_px, BLOCK_PX)]
    return turned if degrees % 180 == 0 else np.ascontiguousarray(turned.T)


def _reversed(size_px: int, cell_px: int = CELL_PX) -> NDArray[np.int64]:
    """For each cell of a mirrored axis the cell it shows."""
    second = np.minimum(np.arange(0, size_px, cell_px) + 1, size_px - 1)
    return (size_px - 1 - second) // cell_px
