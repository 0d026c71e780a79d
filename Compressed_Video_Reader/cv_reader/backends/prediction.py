"""Predict a picture's luma from other pictures, to find the residual.

An approximation of what a decoder does: bilinear at quarter pixels in place of the codec's own
filter, and the mean of the neighbours in place of intra prediction.

Pictures are padded to whole blocks and seen as items of 8 pixels, so that blocks are chosen and
moved by the item.

Axis legend: H, W rows and columns of luma; y, x rows and columns of square blocks of 8 or 16
pixels; A blocks that move.
"""

import numpy as np
from numpy.typing import NDArray

from cv_reader.backends.squares import cut_squares

_ITEM_PX = 8
"""Pixels that are moved at once: one uint64."""

_INTRA_PX = 8
"""Side of the blocks that are predicted from their neighbours."""

_NO_NEIGHBOUR = 128
_EIGHT_TIMES = 0x0101010101010101
"""Times a byte: that byte eight times over."""


def residual(
    luma: NDArray[np.uint8],
    references: tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None],
    motion: NDArray[np.int16],
    used: NDArray[np.bool_],
    block_px: int,
) -> NDArray[np.int16]:
    """Return luma minus prediction.

    A block with a vector is predicted from the reference of its list, with two vectors by their
    rounded mean. A block without one, or whose reference is missing, is predicted by the mean of
    the row above and the column left of each 8 x 8 pixels (128 where there are neither).

    Args:
        luma: uint8 (H, W).
        references: uint8 (H, W) per list, or None where there is no such picture.
        motion: int16 (2, y, x, 2), quarter pixels, (x, y), from the block to its reference.
        used: bool (2, y, x), which blocks have a vector.
        block_px: side of the blocks, 8 or 16.

    Returns:
        int16 (H, W).
    """
    height, width = luma.shape
    full = _padded(luma, block_px)
    # Blocks are filled list by list; what has two predictions gets their mean.
    prediction = np.empty_like(full)
    done = np.zeros(used.shape[1:], np.bool_)
    for reference, vectors, chosen in zip(references, motion, used, strict=True):
        if reference is None or not chosen.any():
            continue
        fetched = compensate(_padded(reference, block_px), vectors, chosen, block_px)
        if (done & chosen).any():
            # The rounded mean of two bytes, without leaving bytes.
            half = np.right_shift(prediction ^ fetched, 1, dtype=np.uint8)
            mean = np.subtract(prediction | fetched, half, dtype=np.uint8)
            _copy(mean, prediction, done & chosen, block_px)
        _copy(fetched, prediction, chosen & ~done, block_px)
        done |= chosen
    if not done.all():
        _copy(neighbour_mean(full), prediction, ~done, block_px)
    return np.subtract(full[:height, :width], prediction[:height, :width], dtype=np.int16)


def compensate(
    reference: NDArray[np.uint8],
    vectors: NDArray[np.int16],
    chosen: NDArray[np.bool_],
    block_px: int,
) -> NDArray[np.uint8]:
    """Fetch blocks from where their vectors point to, bilinear.

    Args:
        reference: uint8 (H, W), whole blocks.
        vectors: int16 (y, x, 2), quarter pixels, (x, y).
        chosen: bool (y, x), the blocks that matter; others come out as they are in the reference.
        block_px: side of the blocks.

    Returns:
        uint8 (H, W).
    """
    # Only blocks that move are fetched; all others equal the reference.
    fetched = reference.copy()
    rows, columns = np.nonzero(chosen & vectors.any(axis=-1))
    moving = vectors[rows, columns].astype(np.int32)
    top, left = rows.astype(np.int32) * block_px, columns.astype(np.int32) * block_px
    # One pixel more than a block, for interpolation between it and its right and lower neighbour.
    area = cut_squares(
        reference, top + (moving[:, 1] >> 2), left + (moving[:, 0] >> 2), block_px + 1
    )
    blocks = area[:, :-1, :-1].copy()
    between = np.flatnonzero((moving & 3).any(axis=1))
    blocks[between] = _interpolate(area[between], moving[between] & 3)
    # Eight pixels at a time are stored as one number.
    items = blocks.view(np.uint64)
    lines = top[:, None] + np.arange(block_px)
    for part in range(block_px // _ITEM_PX):
        fetched.view(np.uint64)[lines, (left // _ITEM_PX + part)[:, None]] = items[:, :, part]
    return fetched


def neighbour_mean(luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Predict each 8 x 8 block by the rounded mean of the row above and the column left of it.

    Args:
        luma: uint8 (H, W), whole blocks.

    Returns:
        uint8 (H, W), constant in each block; 128 in the first one.
    """
    rows, columns = luma.shape[0] // _INTRA_PX, luma.shape[1] // _INTRA_PX
    # Sum the last row of the block above and the last column of the block to the left, where there
    # are such blocks.
    total = np.zeros((rows, columns), np.int32)
    count = np.zeros((rows, columns), np.int32)
    above = luma[_INTRA_PX - 1 : -1 : _INTRA_PX].reshape(rows - 1, columns, _INTRA_PX)
    left = luma[:, _INTRA_PX - 1 : -1 : _INTRA_PX].reshape(rows, _INTRA_PX, columns - 1)
    total[1:] += above.sum(axis=2, dtype=np.int32)
    total[:, 1:] += left.sum(axis=1, dtype=np.int32)
    count[1:] += _INTRA_PX
    count[:, 1:] += _INTRA_PX
    mean = np.where(count > 0, (total + count // 2) // np.maximum(count, 1), _NO_NEIGHBOUR)
    # A byte times 0x0101... fills the eight pixels of a row of the block.
    items = mean.astype(np.uint64) * np.uint64(_EIGHT_TIMES)
    return items.repeat(_INTRA_PX, axis=0).view(np.uint8)


def _interpolate(area: NDArray[np.uint8], fraction: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Bilinear at quarter pixels: (A, s + 1, s + 1) and (A, 2), (x, y), to (A, s, s)."""
    across, down = fraction.astype(np.uint16).T[:, :, None, None]
    wide = area.astype(np.uint16)
    mixed = wide[:, :, :-1] * (4 - across) + wide[:, :, 1:] * across
    mixed = mixed[:, :-1] * (4 - down) + mixed[:, 1:] * down
    return ((mixed + 8) >> 4).astype(np.uint8)


def _padded(luma: NDArray[np.uint8], block_px: int) -> NDArray[np.uint8]:
    """Return a contiguous copy padded to whole blocks, edges repeated."""
    height, width = luma.shape
    return np.pad(luma, ((0, -height % block_px), (0, -width % block_px)), mode="edge")


def _copy(
    source: NDArray[np.uint8], target: NDArray[np.uint8], chosen: NDArray[np.bool_], block_px: int
) -> None:
    """Copy the chosen blocks (y, x) of one picture into another."""
    rows, columns = chosen.shape
    shape = (rows, block_px, columns, block_px // _ITEM_PX)
    np.copyto(
        target.view(np.uint64).reshape(shape),
        source.view(np.uint64).reshape(shape),
        where=chosen[:, None, :, None],
    )
