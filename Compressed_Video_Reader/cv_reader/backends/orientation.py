"""Turning and mirroring pictures, cell maps and vectors to the orientation that is shown.

Axis legend: H, W rows and columns of the picture as coded; trailing axes are left alone.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cv_reader.media.display import Orientation
from cv_reader.media.frames import BLOCK_PX, CELL_PX, map_shape

_Scalar = TypeVar("_Scalar", bound=np.generic)
_UPRIGHT = Orientation()


def turn_pixels(array: NDArray[_Scalar], orientation: Orientation) -> NDArray[_Scalar]:
    """Turn rows and columns (the first two axes) to the shown orientation."""
    if orientation == _UPRIGHT:
        return array
    rows, columns = orientation.flips
    turned = array[:: -1 if rows else 1, :: -1 if columns else 1]
    return np.ascontiguousarray(turned.swapaxes(0, 1) if orientation.swaps_sides else turned)


def to_cells(
    blocks: NDArray[_Scalar], block_px: int, height_px: int, width_px: int
) -> NDArray[_Scalar]:
    """Repeat a map of larger blocks, (2, y, x, ...), over their 4 x 4 cells, (2, h, w, ...)."""
    rows, columns = map_shape(height_px, width_px, CELL_PX)
    times = block_px // CELL_PX
    return blocks.repeat(times, axis=1)[:, :rows].repeat(times, axis=2)[:, :, :columns]


def turn_cells(
    cells: NDArray[np.int16], orientation: Orientation, height_px: int, width_px: int
) -> NDArray[np.int16]:
    """Turn a map of 4 x 4 pixel cells, int16 (2, h, w, ...), to the shown orientation.

    Cells count from the top left corner before and after. Where a side is no multiple of 4, old and
    new cells overlap; a new cell then takes the value at its second row and column.

    Args:
        height_px: H of the picture as coded.
        width_px: W of the picture as coded.
    """
    if orientation == _UPRIGHT:
        return cells
    turned = _flipped(cells, 1, CELL_PX, orientation, height_px, width_px)
    return np.ascontiguousarray(turned.swapaxes(1, 2)) if orientation.swaps_sides else turned


def turn_vectors(
    motion: NDArray[np.int16], orientation: Orientation, height_px: int, width_px: int
) -> NDArray[np.int16]:
    """Turn a map of vectors, int16 (2, h, w, 2) with (x, y) last: their places and directions."""
    if orientation == _UPRIGHT:
        return motion
    rows, columns = orientation.flips
    x, y = motion[..., 0], motion[..., 1]
    turned = (-x if columns else x, -y if rows else y)
    if orientation.swaps_sides:
        turned = turned[::-1]
    return turn_cells(np.stack(turned, axis=-1), orientation, height_px, width_px)


def turn_blocks(
    blocks: NDArray[_Scalar], orientation: Orientation, height_px: int, width_px: int
) -> NDArray[_Scalar]:
    """Turn a map of 16 x 16 pixel blocks, (y, x), by the rule of ``turn_cells``."""
    if orientation == _UPRIGHT:
        return blocks
    turned = _flipped(blocks, 0, BLOCK_PX, orientation, height_px, width_px)
    return np.ascontiguousarray(turned.T) if orientation.swaps_sides else turned


def _flipped(
    cells: NDArray[_Scalar],
    axis: int,
    cell_px: int,
    orientation: Orientation,
    height_px: int,
    width_px: int,
) -> NDArray[_Scalar]:
    """Reverse the rows (at ``axis``) and columns of a map of cells as the orientation asks."""
    rows, columns = orientation.flips
    if rows:
        cells = cells.take(_reversed(height_px, cell_px), axis)
    return cells.take(_reversed(width_px, cell_px), axis + 1) if columns else cells


def _reversed(size_px: int, cell_px: int) -> NDArray[np.int64]:
    """For each cell of a reversed axis the cell that it shows."""
    second = np.minimum(np.arange(0, size_px, cell_px) + 1, size_px - 1)
    return (size_px - 1 - second) // cell_px
