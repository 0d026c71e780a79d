"""Predicting a picture's luma from other pictures, to see what prediction leaves over.

An approximation of what a decoder does: bilinear at quarter pixels in place of the codec's own
filter, and the mean of the neighbours in place of intra prediction.

Axis legend: H, W rows and columns of luma; h, w of 4 x 4 cells; C cells that move.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cv_reader.frames import CELL_PX, map_shape

_TAP_PX = CELL_PX + 1
"""Side of the reference area of a cell: one pixel more for the interpolation."""

_BLOCK_PX = 8
"""Side of the blocks that are predicted from their neighbours."""

_NO_NEIGHBOUR = 128


def residual(
    luma: NDArray[np.uint8],
    references: tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None],
    motion: NDArray[np.int16],
    motion_ref: NDArray[np.int16],
) -> NDArray[np.int16]:
    """Luma minus prediction.

    A cell with a vector is predicted from the reference of its list, with two vectors by their
    rounded mean. A cell without one, or whose reference is missing, is predicted by the mean of
    the row above and the column left of its 8 x 8 block (128 where it has neither).

    Args:
        luma: uint8 (H, W).
        references: uint8 (H, W) per list, or None where there is no such picture.
        motion: int16 (2, h, w, 2), quarter pixels.
        motion_ref: int16 (2, h, w), 0 = no vector.

    Returns:
        int16 (H, W).
    """
    height, width = luma.shape
    used = [
        refs != 0 if reference is not None else np.zeros_like(refs, dtype=np.bool_)
        for reference, refs in zip(references, motion_ref, strict=True)
    ]
    neither = ~(used[0] | used[1])
    prediction = _cells(_padded(neighbour_mean(luma)) if neither.any() else _padded(luma))
    predicted = np.zeros_like(neither)
    for reference, vectors, here in zip(references, motion, used, strict=True):
        if reference is None or not here.any():
            continue
        compensated = _cells(compensate(reference, vectors, here))
        if (here & predicted).any():
            mean = (prediction.astype(np.uint16) + compensated + 1) >> 1
            np.copyto(compensated, mean, casting="unsafe", where=_spread(here & predicted))
        np.copyto(prediction, compensated, where=_spread(here))
        predicted |= here
    pixels = prediction.reshape(motion.shape[1] * CELL_PX, motion.shape[2] * CELL_PX)
    return luma.astype(np.int16) - pixels[:height, :width]


def compensate(
    reference: NDArray[np.uint8], vectors: NDArray[np.int16], used: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Fetch each cell from where its vector points to, bilinear; beyond its border a picture goes
    on with its outermost pixels.

    Args:
        reference: uint8 (H, W).
        vectors: int16 (h, w, 2), quarter pixels, (x, y).
        used: bool (h, w), the cells that matter; the others take the pixels at their own place.

    Returns:
        uint8 (4 * h, 4 * w).
    """
    height, width = reference.shape
    fetched = _padded(reference)
    rows, columns = np.nonzero(used & vectors.any(axis=-1))
    if not len(rows):
        return fetched
    x, y = (vectors[rows, columns].astype(np.int32)).T
    # One cell beyond the border everything is constant: farther makes no difference.
    left = np.clip(columns * CELL_PX + (x >> 2), -_TAP_PX, width)
    top = np.clip(rows * CELL_PX + (y >> 2), -_TAP_PX, height)
    areas = sliding_window_view(np.pad(reference, _TAP_PX, mode="edge"), (_TAP_PX, _TAP_PX))
    area = areas[top + _TAP_PX, left + _TAP_PX].astype(np.uint16)
    across, down = (
        (x & 3).astype(np.uint16)[:, None, None],
        (y & 3).astype(np.uint16)[:, None, None],
    )
    area = area[:, :, :-1] * (4 - across) + area[:, :, 1:] * across
    area = area[:, :-1] * (4 - down) + area[:, 1:] * down
    _cells(fetched)[rows, :, columns] = (area + 8) >> 4
    return fetched


def neighbour_mean(luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Predict each 8 x 8 block by the rounded mean of the row above and the column left of it.

    Returns:
        uint8 (H, W), constant in each block; 128 in the first one.
    """
    height, width = luma.shape
    rows, columns = map_shape(height, width, _BLOCK_PX)
    full = np.pad(
        luma, ((0, rows * _BLOCK_PX - height), (0, columns * _BLOCK_PX - width)), mode="edge"
    )
    total = np.zeros((rows, columns), np.int32)
    count = np.zeros((rows, columns), np.int32)
    above = full[_BLOCK_PX - 1 : -1 : _BLOCK_PX].reshape(rows - 1, columns, _BLOCK_PX)
    left = full[:, _BLOCK_PX - 1 : -1 : _BLOCK_PX].reshape(rows, _BLOCK_PX, columns - 1)
    total[1:] += above.sum(axis=2, dtype=np.int32)
    total[:, 1:] += left.sum(axis=1, dtype=np.int32)
    count[1:] += _BLOCK_PX
    count[:, 1:] += _BLOCK_PX
    mean = np.where(count > 0, (total + count // 2) // np.maximum(count, 1), _NO_NEIGHBOUR)
    spread = mean.astype(np.uint8).repeat(_BLOCK_PX, axis=0).repeat(_BLOCK_PX, axis=1)
    return spread[:height, :width]


def _padded(luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A contiguous copy whose sides are multiples of the cell's."""
    height, width = luma.shape
    return np.pad(luma, ((0, -height % CELL_PX), (0, -width % CELL_PX)), mode="edge")


def _cells(luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """View (4 * h, 4 * w) as (h, 4, w, 4)."""
    return luma.reshape(luma.shape[0] // CELL_PX, CELL_PX, luma.shape[1] // CELL_PX, CELL_PX)


def _spread(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(h, w) to a shape that broadcasts over the pixels of the cells."""
    return cells[:, None, :, None]
