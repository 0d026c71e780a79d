"""Block motion between two luma pictures, coarse to fine, in numpy.

Deterministic: integer arithmetic, and of equal costs the shorter vector wins.

Axis legend: H, W rows and columns of luma; y, x rows and columns of 16 x 16 blocks; A blocks that
are searched; K candidate vectors.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cv_reader.backends.squares import cut_squares
from cv_reader.media.frames import BLOCK_PX

_COARSE_SHIFTS = sorted(
    ((dy, dx) for dy in range(-4, 5) for dx in range(-4, 5)),
    key=lambda shift: (abs(shift[0]) + abs(shift[1]), shift),
)
"""Search range on pictures reduced 8 times: +-32 pixels, short vectors first."""

_FINE_SHIFTS = sorted(
    ((dy, dx) for dy in range(3) for dx in range(3)),
    key=lambda shift: (abs(shift[0] - 1) + abs(shift[1] - 1), shift),
)
"""Places in a window that is one pixel larger on each side, the middle first."""

_STILL = 1.0
"""Grey levels per pixel: blocks that change less are not searched."""

_MIN_GAIN = 0.5
_MIN_GAIN_SHARE = 0.125
"""A vector must beat staying by so many grey levels per pixel, and by this share of the cost."""

_INTRA_FACTOR = 1.5
_INTRA_OFFSET = 1.0
"""Intra where the cost exceeds factor x the mean deviation from the block's mean + offset."""


@dataclass(frozen=True, eq=False)
class Pyramid:
    """A luma picture with edges repeated to whole blocks, and reduced 2, 4 and 8 times."""

    levels: dict[int, NDArray[np.uint8]]

    @staticmethod
    def of(luma: NDArray[np.uint8]) -> "Pyramid":
        """Build from uint8 (H, W)."""
        height, width = luma.shape
        level = np.pad(luma, ((0, -height % BLOCK_PX), (0, -width % BLOCK_PX)), mode="edge")
        levels = {1: level}
        # Each level is the rounded mean of 2 x 2 of the one before; sums of four fit in 16 bits.
        for scale in (2, 4, 8):
            pairs = level[0::2].astype(np.uint16) + level[1::2]
            level = ((pairs[:, 0::2] + pairs[:, 1::2] + 2) >> 2).astype(np.uint8)
            levels[scale] = level
        return Pyramid(levels)


def block_motion(
    current: Pyramid, previous: Pyramid
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Find where each block of a picture was in the picture before.

    Returns:
        vectors int16 (y, x, 2), whole pixels (x, y) from the block to its source; inter bool
        (y, x), False where the block is better explained by its own mean.
    """
    # Most blocks of most videos do not change; only the others are searched.
    still_cost = _block_sums(_difference(current.levels[1], previous.levels[1]))
    rows, columns = np.nonzero(still_cost > _STILL * BLOCK_PX**2)
    vectors = np.zeros((*still_cost.shape, 2), np.int16)
    inter = np.ones(still_cost.shape, np.bool_)
    if len(rows):
        searched = _Searched(rows, columns)
        found = _coarse(current.levels[8], previous.levels[8])[rows, columns]
        # A vector of one level is twice as long on the next.
        for scale in (4, 2, 1):
            found = searched.refine(current, previous, scale, found * 2)
        moves, inter[rows, columns] = searched.judge(current, previous, found)
        vectors[rows, columns] = np.where(moves[:, None], found[:, ::-1], 0)
    return vectors, inter


def _coarse(current: NDArray[np.uint8], previous: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Full search of 2 x 2 pixel blocks, each with its four neighbours: int32 (y, x, 2), (y, x)."""
    height, width = current.shape
    reach = max(shift[0] for shift in _COARSE_SHIFTS)
    wide = np.pad(previous, reach, mode="edge")
    costs = np.empty((len(_COARSE_SHIFTS), height // 2, width // 2), np.uint16)
    for cost, (dy, dx) in zip(costs, _COARSE_SHIFTS, strict=True):
        shifted = wide[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
        difference = _difference(current, shifted)
        # A block of 16 pixels is 2 x 2 pixels here, too little to be told from others: the four
        # blocks around it count with a quarter of its weight.
        pairs = difference[0::2].astype(np.uint16) + difference[1::2]
        own = pairs[:, 0::2] + pairs[:, 1::2]
        around = np.pad(own, 1, mode="edge")
        cost[:] = own * 4 + around[:-2, 1:-1] + around[2:, 1:-1]
        cost += around[1:-1, :-2] + around[1:-1, 2:]
    return np.array(_COARSE_SHIFTS, np.int32)[costs.argmin(axis=0)]


@dataclass(frozen=True, eq=False)
class _Searched:
    """The blocks that are searched, (A,) rows and columns."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    def refine(
        self, current: Pyramid, previous: Pyramid, scale: int, vectors: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """Try the eight neighbours of each vector (A, 2), (y, x), on reduced pictures."""
        side, step = _side_and_step(scale)
        blocks = self.cut(current, scale, np.zeros_like(vectors), side)[::step, ::step]
        # One window, a pixel larger on each side, holds the nine places that are compared.
        windows = self.cut(previous, scale, vectors - 1, side + 2)
        costs = np.stack(
            [
                _costs(blocks, windows[dy : dy + side : step, dx : dx + side : step])
                for dy, dx in _FINE_SHIFTS
            ]
        )
        return vectors + np.array(_FINE_SHIFTS, np.int32)[costs.argmin(axis=0)] - 1

    def judge(
        self, current: Pyramid, previous: Pyramid, vectors: NDArray[np.int32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which vectors are worth taking, and which blocks beat their own mean."""
        side, step = _side_and_step(1)
        blocks, stayed, moved = (
            self.cut(pyramid, 1, offset, side)[::step, ::step]
            for pyramid, offset in (
                (current, np.zeros_like(vectors)),
                (previous, np.zeros_like(vectors)),
                (previous, vectors),
            )
        )
        pixels = blocks.shape[0] * blocks.shape[1]
        staying, moving = _costs(blocks, stayed), _costs(blocks, moved)
        gain = staying - moving
        moves = (gain > _MIN_GAIN * pixels) & (gain > _MIN_GAIN_SHARE * staying)
        # Intra, as an encoder would choose it: the block's own mean explains it about as well.
        total = blocks.sum(axis=(0, 1), dtype=np.int32)
        mean = ((total + pixels // 2) // pixels).astype(np.uint8)
        deviation = _costs(blocks, np.broadcast_to(mean, blocks.shape))
        cost = np.where(moves, moving, staying)
        return moves, cost <= _INTRA_FACTOR * deviation + _INTRA_OFFSET * pixels

    def cut(
        self, pyramid: Pyramid, scale: int, offsets: NDArray[np.int32], size_px: int
    ) -> NDArray[np.uint8]:
        """Return reduced pixels at the blocks' corners plus (y, x): uint8 (size, size, A).

        The blocks come last, so that what follows runs along memory.
        """
        side = BLOCK_PX // scale
        top = self.rows.astype(np.int32) * side + offsets[:, 0]
        left = self.columns.astype(np.int32) * side + offsets[:, 1]
        squares = cut_squares(pyramid.levels[scale], top, left, size_px)
        return np.ascontiguousarray(squares.transpose(1, 2, 0))


def _side_and_step(scale: int) -> tuple[int, int]:
    """Side of a block at a scale, and its sampling: at full size every other pixel is enough."""
    return BLOCK_PX // scale, 2 if scale == 1 else 1


def _difference(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Absolute difference."""
    return np.maximum(left, right) - np.minimum(left, right)


def _costs(blocks: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Sum of absolute differences of each square, (s, s, A) with s <= 16: int32 (A,)."""
    return _difference(blocks, others).sum(axis=(0, 1), dtype=np.uint16).astype(np.int32)


def _block_sums(values: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Sum over each 16 x 16 block: int32 (y, x)."""
    height, width = values.shape
    bands = values.reshape(height // BLOCK_PX, BLOCK_PX, width).sum(axis=1, dtype=np.uint16)
    return bands.reshape(len(bands), width // BLOCK_PX, BLOCK_PX).sum(axis=2, dtype=np.int32)
