"""H.264 intra prediction written from the standard: which macroblocks does a residual explain?

A macroblock is explained when, for one way of partitioning it, every block has a prediction mode
with ``clip(prediction + residual) == decoded``. Which mode the stream chose is not needed.

Neighbours of a block of N samples are in one row ``edge``: left from bottom to top, the corner,
above from left to right; ``edge[N + k]`` is the corner for k = 0, the k-th sample above for k > 0,
and the -k-th sample on the left for k < 0.

Axis legend: pictures int (H, W), H and W multiples of 16; one slice, 8 bits.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.integer]
_LIMIT = 255


def explained_macroblocks(picture: Picture, residual: Picture) -> NDArray[np.bool_]:
    """Macroblocks that intra prediction and the residual reproduce, bool (H / 16, W / 16)."""
    rows, columns = picture.shape[0] // 16, picture.shape[1] // 16
    picture = picture.astype(np.int64)
    return np.array(
        [
            [_macroblock(picture, residual, 16 * row, 16 * column) for column in range(columns)]
            for row in range(rows)
        ]
    )


def _macroblock(picture: Picture, residual: Picture, top: int, left: int) -> bool:
    return any(
        all(
            _block(picture, residual, top + row, left + column, size)
            for row in range(0, 16, size)
            for column in range(0, 16, size)
        )
        for size in (16, 8, 4)
    )


def _block(picture: Picture, residual: Picture, top: int, left: int, size: int) -> bool:
    area = (slice(top, top + size), slice(left, left + size))
    return any(
        np.array_equal(np.clip(predicted + residual[area], 0, _LIMIT), picture[area])
        for predicted in _predictions(picture, top, left, size)
    )


def _predictions(picture: Picture, top: int, left: int, size: int) -> Iterator[Picture]:
    """The predictions of all modes that the neighbours allow."""
    edge, has_left, has_top = _edge(picture, top, left, size)
    has_corner = top > 0 and left > 0
    if size == 8:
        edge = _smoothed(edge, has_left, has_top, has_corner)
    above, at_left = edge[size + 1 : 2 * size + 1], edge[:size][::-1]
    if has_top:
        yield np.tile(above, (size, 1))
    if has_left:
        yield np.tile(at_left[:, None], (1, size))
    parts = [part for part, has in ((above, has_top), (at_left, has_left)) if has]
    count = size * len(parts)
    mean = (sum(int(part.sum()) for part in parts) + count // 2) // count if parts else 128
    yield np.full((size, size), mean)
    if size == 16:
        if has_corner:
            yield _plane(edge)
        return
    if has_top:
        yield from _down_left(edge, size)
    if has_corner:
        yield from _from_the_corner(edge, size)
    if has_left:
        yield _horizontal_up(at_left, size)


def _edge(picture: Picture, top: int, left: int, size: int) -> tuple[NDArray[np.int64], bool, bool]:
    """Neighbours, with samples beyond the last one above replaced by that one."""
    edge = np.zeros(3 * size + 1, np.int64)
    if left:
        edge[:size] = picture[top : top + size, left - 1][::-1]
    if top:
        row = picture[top - 1, left : left + 2 * size]
        above = np.full(2 * size, row[size - 1])
        if _has_top_right(top, left, size, picture.shape[1]):
            above[: len(row)] = row
        else:
            above[:size] = row[:size]
        edge[size + 1 :] = above
    if top and left:
        edge[size] = picture[top - 1, left - 1]
    return edge, left > 0, top > 0


def _has_top_right(top: int, left: int, size: int, width: int) -> bool:
    """Whether the blocks above and to the right have been decoded before."""
    if left + size >= width:
        return False
    row, column = top % 16 // size, left % 16 // size
    if row == 0:
        return top > 0
    if column == 16 // size - 1:
        return False
    # Inside a macroblock blocks follow each other in Z order, on every level.
    return _z_order(row - 1, column + 1) < _z_order(row, column)


def _z_order(row: int, column: int) -> int:
    return (row & 1) << 1 | (column & 1) | (row & 2) << 2 | (column & 2) << 1


def _smoothed(
    edge: NDArray[np.int64], has_left: bool, has_top: bool, has_corner: bool
) -> NDArray[np.int64]:
    """Filtered neighbours of an 8x8 block: section 8.3.2.2.1."""
    size = 8
    out = edge.copy()
    out[1:-1] = (edge[:-2] + 2 * edge[1:-1] + edge[2:] + 2) >> 2
    out[0] = (edge[1] + 3 * edge[0] + 2) >> 2
    out[-1] = (edge[-2] + 3 * edge[-1] + 2) >> 2
    if not has_corner:
        out[size - 1] = (3 * edge[size - 1] + edge[size - 2] + 2) >> 2
        out[size + 1] = (3 * edge[size + 1] + edge[size + 2] + 2) >> 2
    elif not (has_left and has_top):
        inner = edge[size - 1] if has_left else edge[size + 1]
        out[size] = (3 * edge[size] + inner + 2) >> 2
    return out


def _down_left(edge: NDArray[np.int64], size: int) -> Iterator[Picture]:
    """Diagonal down left, and vertical left."""
    above = np.append(edge[size + 1 :], edge[-1])
    y, x = np.mgrid[:size, :size]
    yield (above[x + y] + 2 * above[x + y + 1] + above[x + y + 2] + 2) >> 2
    place = x + (y >> 1)
    two = (above[place] + above[place + 1] + 1) >> 1
    three = (above[place] + 2 * above[place + 1] + above[place + 2] + 2) >> 2
    yield np.where(y % 2 == 0, two, three)


def _from_the_corner(edge: NDArray[np.int64], size: int) -> Iterator[Picture]:
    """Diagonal down right, vertical right, and horizontal down."""
    three = edge.copy()
    three[1:-1] = (edge[:-2] + 2 * edge[1:-1] + edge[2:] + 2) >> 2
    two = edge.copy()
    two[1:] = (edge[:-1] + edge[1:] + 1) >> 1
    y, x = np.mgrid[:size, :size]
    yield three[size + x - y]
    place = size + x - (y >> 1)
    upper = np.where(y % 2 == 0, two[place + 1], three[place])
    yield np.where(2 * x - y >= -1, upper, three[size + np.minimum(2 * x - y + 1, 0)])
    place = size - y + (x >> 1)
    lower = np.where(x % 2 == 0, two[place], three[place])
    yield np.where(2 * y - x >= -1, lower, three[size + np.maximum(x - 2 * y - 1, 0)])


def _horizontal_up(at_left: NDArray[np.int64], size: int) -> Picture:
    left = np.append(at_left, [at_left[-1]] * size)
    y, x = np.mgrid[:size, :size]
    place = y + (x >> 1)
    two = (left[place] + left[place + 1] + 1) >> 1
    three = (left[place] + 2 * left[place + 1] + left[place + 2] + 2) >> 2
    return np.where(x % 2 == 0, two, three)


def _plane(edge: NDArray[np.int64]) -> Picture:
    above, at_left = edge[17:33], edge[:16][::-1]
    steps = np.arange(1, 9)
    across = int((steps * (above[8:] - np.append(edge[16], above[:7])[::-1])).sum())
    down = int((steps * (at_left[8:] - np.append(edge[16], at_left[:7])[::-1])).sum())
    y, x = np.mgrid[:16, :16]
    base = 16 * int(above[15] + at_left[15])
    slope_x, slope_y = (5 * across + 32) >> 6, (5 * down + 32) >> 6
    return np.clip((base + slope_x * (x - 7) + slope_y * (y - 7) + 16) >> 5, 0, _LIMIT)
