"""H.265 intra prediction written from the standard: which blocks does a residual explain?

A transform block is explained when one of the 35 modes gives ``clip(prediction + residual) ==
decoded``; a block that is not is split into four, down to 4x4, as coding quadtrees are.

Neighbours of a block of N samples are in one row ``edge``: left from bottom to top (2 N), the
corner, above from left to right (2 N); ``edge[2 * N]`` is the corner.

Axis legend: pictures int (H, W), H and W multiples of the coding tree unit; one slice, 8 bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.integer]
_LIMIT = 255

_ANGLES = (32, 26, 21, 17, 13, 9, 5, 2, 0, -2, -5, -9, -13, -17, -21, -26)
_ANGLES = (*_ANGLES, -32, *_ANGLES[::-1])
"""Table 8-5, modes 2 to 34."""

_FILTER_THRESHOLDS = {8: 7, 16: 1, 32: 0}
"""Table 8-4: distance of a mode from the pure directions above which neighbours are filtered."""


@dataclass(kw_only=True)
class IntraOracle:
    """Checks one picture.

    Attributes:
        picture: decoded luma before any in-loop filter, int64 (H, W).
        residual: luma residual (H, W).
        is_intra: 4x4 cells to explain, bool (H / 4, W / 4).
        unit_px: side of a coding tree unit.
    """

    picture: NDArray[np.int64]
    residual: Picture
    is_intra: NDArray[np.bool_]
    unit_px: int = 32

    def explained(self) -> NDArray[np.bool_]:
        """Intra cells that are explained, bool (H / 4, W / 4)."""
        found = np.zeros_like(self.is_intra)
        height, width = self.picture.shape
        for top in range(0, height, self.unit_px):
            for left in range(0, width, self.unit_px):
                self._explain(top, left, self.unit_px, found)
        return found

    def _explain(self, top: int, left: int, size: int, found: NDArray[np.bool_]) -> None:
        cells = (slice(top // 4, (top + size) // 4), slice(left // 4, (left + size) // 4))
        if not self.is_intra[cells].any():
            return
        if size <= 32 and self.is_intra[cells].all() and self._block(top, left, size):
            found[cells] = True
        elif size > 4:
            half = size // 2
            for row, column in ((0, 0), (0, half), (half, 0), (half, half)):
                self._explain(top + row, left + column, half, found)

    def _block(self, top: int, left: int, size: int) -> bool:
        area = (slice(top, top + size), slice(left, left + size))
        return any(
            np.array_equal(np.clip(predicted + self.residual[area], 0, _LIMIT), self.picture[area])
            for predicted in predictions(self._edge(top, left, size))
        )

    def _edge(self, top: int, left: int, size: int) -> NDArray[np.int64]:
        """Neighbours, with substitutes for those that are not decoded yet: section 8.4.4.2.2."""
        steps = np.arange(2 * size)
        rows = np.concatenate([top + steps[::-1], np.full(2 * size + 1, top - 1)])
        columns = np.concatenate([np.full(2 * size + 1, left - 1), left + steps])
        height, width = self.picture.shape
        known = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
        known &= self.order[rows // 4, columns // 4] < self.order[top // 4, left // 4]
        if not known.any():
            return np.full(len(known), 128, np.int64)
        place = np.where(known, np.arange(len(known)), -1)
        place = np.maximum.accumulate(place)
        place[place < 0] = np.argmax(known)
        return self.picture[rows, columns][place]

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Place of each 4x4 cell in decoding order: coding tree unit, then Z order."""
        row, column = np.mgrid[: self.picture.shape[0] // 4, : self.picture.shape[1] // 4]
        size, width = self.unit_px // 4, self.picture.shape[1] // self.unit_px
        unit = (row // size) * width + column // size
        y, x = row % size, column % size
        inner = sum((x >> k & 1) << 2 * k | (y >> k & 1) << 2 * k + 1 for k in range(4))
        return unit * 256 + inner


def predictions(edge: NDArray[np.int64]) -> Iterator[Picture]:
    """The predictions of all 35 modes: sections 8.4.4.2.3 to 8.4.4.2.6."""
    size = len(edge) // 4
    plain, filtered = edge, edge.copy()
    filtered[1:-1] = (edge[:-2] + 2 * edge[1:-1] + edge[2:] + 2) >> 2
    variants = [filtered]
    if size == 32:
        variants.append(_strongly_smoothed(edge))
    yield _mean(plain)
    yield from map(_planar, [plain] if size == 4 else variants)
    for mode in range(2, 35):
        distance = min(abs(mode - 26), abs(mode - 10))
        is_filtered = size > 4 and distance > _FILTER_THRESHOLDS[size]
        for chosen in variants if is_filtered else [plain]:
            yield _angular(chosen, mode)


def _strongly_smoothed(edge: NDArray[np.int64]) -> NDArray[np.int64]:
    """Straight lines between corner and ends, where the neighbours are nearly straight."""
    first, corner, last = int(edge[0]), int(edge[64]), int(edge[-1])
    is_straight = (
        abs(corner + last - 2 * int(edge[64 + 32])) < 8
        and abs(corner + first - 2 * int(edge[64 - 32])) < 8
    )
    if not is_straight:
        return edge
    step = np.arange(1, 65)
    above = ((64 - step) * corner + step * last + 32) >> 6
    at_left = ((64 - step) * corner + step * first + 32) >> 6
    return np.concatenate([at_left[::-1], [corner], above])


def _mean(edge: NDArray[np.int64]) -> Picture:
    size = len(edge) // 4
    at_left, above = edge[size : 2 * size][::-1], edge[2 * size + 1 : 3 * size + 1]
    mean = (int(at_left.sum() + above.sum()) + size) // (2 * size)
    out = np.full((size, size), mean)
    if size < 32:
        out[0] = (above + 3 * mean + 2) >> 2
        out[:, 0] = (at_left + 3 * mean + 2) >> 2
        out[0, 0] = (int(at_left[0]) + 2 * mean + int(above[0]) + 2) >> 2
    return out


def _planar(edge: NDArray[np.int64]) -> Picture:
    size = len(edge) // 4
    at_left, above = edge[: 2 * size][::-1], edge[2 * size + 1 :]
    y, x = np.mgrid[:size, :size]
    across = (size - 1 - x) * at_left[y] + (x + 1) * above[size]
    down = (size - 1 - y) * above[x] + (y + 1) * at_left[size]
    return (across + down + size) // (2 * size)


def _angular(edge: NDArray[np.int64], mode: int) -> Picture:
    size = len(edge) // 4
    if mode < 18:
        # The same with above and left exchanged.
        return _vertical(edge[::-1], 36 - mode, size).T
    return _vertical(edge, mode, size)


def _vertical(edge: NDArray[np.int64], mode: int, size: int) -> Picture:
    angle, corner = _ANGLES[mode - 2], 2 * size
    reference = np.zeros(3 * size + 1, np.int64)
    reference[size:] = edge[corner : corner + 2 * size + 1]
    if angle < 0:
        inverse = round(8192 / angle)
        for place in range(size * angle >> 5, 0):
            reference[size + place] = edge[corner - ((place * inverse + 128) >> 8)]
    near, far, part = _steps(angle, size)
    out = ((32 - part) * reference[near] + part * reference[far] + 16) >> 5
    if mode == 26 and size < 32:
        at_left = edge[size:corner][::-1]
        out[:, 0] = np.clip(edge[corner + 1] + ((at_left - edge[corner]) >> 1), 0, _LIMIT)
    return out


@cache
def _steps(angle: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The two references on both sides of a sample, and its distance to the first in 32nds."""
    y, x = np.mgrid[:size, :size]
    whole, part = (y + 1) * angle >> 5, (y + 1) * angle & 31
    return size + x + whole + 1, np.minimum(size + x + whole + 2, 3 * size), part
