"""Adding up the cells of the padded square from a source map.

The map is resized bilinearly to the square and summed over the pixels of each cell. Both steps are
linear, so the sums are taken from the source map directly: the resized map never exists. Of integer
maps, nine tenths of which are usually zero, only the parts that are not zero are touched.

Axis letters: H, W rows and columns of a source map; g cells along a side; y, x parts of 8 rows by
8 bytes; m parts that are not all zero; k elements in a row of a part.
"""

from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from cv_reader.media.frames import BLOCK_PX
from cv_reader.select.geometry import AxisSampling, Letterbox

Integers = NDArray[np.int16] | NDArray[np.uint8]
Numbers = NDArray[np.intp]

_PART_ROWS = 8
_PART_BYTES = 8
_CHUNK_PARTS = 4096
"""Parts that are worked on at once: few enough for the processor's cache."""


class SparseMap:
    """The magnitudes of an integer map, where they are not zero.

    Attributes:
        size: elements of the map.
        magnitudes: integers (8, m * k), of the parts that hold anything but zeros.
        rows: intp (m,), y of each part.
        columns: intp (m,), x.
        width: k.
    """

    def __init__(self, values: Integers, blocks: NDArray[np.bool_] | None = None) -> None:
        """Find what is not zero.

        Args:
            values: int16 (above -32768) or uint8 (H, W).
            blocks: bool (ceil(H / 16), ceil(W / 16)), false where a block of 16 x 16 elements is
                known to be all zero; saves looking there, and changes nothing else.
        """
        self.size = values.size
        self.width = _PART_BYTES // values.itemsize
        items = _as_items(values)
        if blocks is None:
            self.rows, self.columns, found = _parts(items)
        else:
            self.rows, self.columns, found = _parts_in(items, blocks, BLOCK_PX * values.itemsize)
        magnitudes: Any = found.view(values.dtype)
        self.magnitudes: Integers = np.abs(magnitudes, out=magnitudes)


def _parts(items: NDArray[np.uint64]) -> tuple[Numbers, Numbers, NDArray[np.uint64]]:
    """y and x of the parts of a map that are not zero, and what they hold: (8, m)."""
    # OR of eight rows, eight bytes at a time: zero where the whole part is.
    held = np.bitwise_or.reduce(items.reshape(-1, _PART_ROWS, items.shape[1]), axis=1)
    rows, columns = _nonzero(held != 0)
    return rows, columns, _taken(items, rows, columns)


def _parts_in(
    items: NDArray[np.uint64], blocks: NDArray[np.bool_], block_bytes: int
) -> tuple[Numbers, Numbers, NDArray[np.uint64]]:
    """Return the same as ``_parts``, for the parts in some blocks only."""
    row_bytes = items.shape[1] * _PART_BYTES
    # The widest words of which a row of the map is made, and a row of a block.
    word_bytes = gcd(row_bytes, items.strides[0], block_bytes)
    words = items.view(f"V{word_bytes}")
    # Spread the flags of blocks to parts of 8 rows and to words; cut what the map does not have.
    here = blocks.repeat(BLOCK_PX // _PART_ROWS, axis=0)[: len(items) // _PART_ROWS]
    here = here.repeat(block_bytes // word_bytes, axis=1)[:, : words.shape[1]]
    rows, columns = _nonzero(here)
    # A block may hold zeros in most of its parts: of what was read, keep the parts that do not.
    held = _taken(words, rows, columns).view(np.uint64)
    numbers = np.flatnonzero(np.bitwise_or.reduce(held, axis=0))
    word, inside = np.divmod(numbers, word_bytes // _PART_BYTES)
    columns = columns[word] * (word_bytes // _PART_BYTES) + inside
    return rows[word], columns, held.take(numbers, axis=1)


def _nonzero(flags: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """``numpy.nonzero`` of a matrix, several times as fast."""
    return np.divmod(np.flatnonzero(flags), flags.shape[1])


def _taken(items: NDArray[Any], rows: Numbers, columns: Numbers) -> NDArray[Any]:
    """Items of parts: (8, n)."""
    # A flat view of the map, gaps between its rows included, so that one take() gathers all.
    step = items.strides[0] // items.itemsize
    flat = as_strided(items, (step * (len(items) - 1) + items.shape[1],), (items.itemsize,))
    lines = np.arange(_PART_ROWS)[:, None] * step
    return flat.take(rows * (_PART_ROWS * step) + columns + lines, mode="clip")


def _as_items(values: Integers) -> NDArray[np.uint64]:
    """(rows, x) of 8 bytes each, in whole parts; a view where the map allows it."""
    height, width = values.shape
    per_item = _PART_BYTES // values.itemsize
    is_whole = height % _PART_ROWS == 0 and width % per_item == 0
    is_aligned = values.ctypes.data % _PART_BYTES == 0 and values.strides[0] % _PART_BYTES == 0
    is_forward = values.strides[1] == values.itemsize and values.strides[0] > 0
    if not (is_whole and is_aligned and is_forward):
        # Zeros at the lower and right edge change no sum.
        whole = (height + -height % _PART_ROWS, width + -width % per_item)
        padded = np.zeros(whole, values.dtype)
        padded[:height, :width] = values
        return padded.view(np.uint64)
    return values.view(np.uint64)


@dataclass(frozen=True, eq=False)
class _Shares:
    """What parts give to the cells that they touch along an axis; c such cells at most.

    Attributes:
        cells: intp (c, parts), first, second, ... cell of each.
        weights: float32 (c, elements of a part, parts), how often each element counts there.
        is_any: bool (c, parts), whether there is such a cell.
    """

    cells: Numbers
    weights: NDArray[Any]
    is_any: NDArray[np.bool_]


def _shares(sampling: AxisSampling, num_elements: int, length: int) -> _Shares:
    """Return the shares of parts of ``length`` elements."""
    num_cells, num_parts = len(sampling.starts), -(-num_elements // length)
    # The weight of every element in every cell, which is small: one axis at a time.
    dense = np.zeros((num_cells, num_parts * length), np.float32)
    sizes = np.diff(sampling.starts, append=len(sampling.indices))
    dense[np.arange(num_cells).repeat(sizes), sampling.indices] = sampling.weights
    weights = dense.reshape(num_cells, num_parts, length)
    touched = weights.any(axis=2)
    # The cells that a part touches follow each other: the first one and their number say which.
    counts: Numbers = touched.sum(axis=0)
    number = np.arange(int(counts.max()))[:, None]
    cells = np.minimum(touched.argmax(axis=0) + number, num_cells - 1)
    is_any = number < counts
    mine = weights[cells, np.arange(num_parts)] * is_any[..., None]
    return _Shares(cells + sampling.first_cell, mine.transpose(0, 2, 1).copy(), is_any)


class CellPool:
    """Cell sums of maps of one size.

    Args:
        box: place of the frame in the square.
        step_px: source pixels per element of the maps.
    """

    def __init__(self, box: Letterbox, step_px: int) -> None:
        self._grid = box.grid
        self._height, self._width = box.num_rows, box.num_columns
        self._rows, self._columns = box.row_sampling(step_px), box.column_sampling(step_px)
        self._shares: dict[int, tuple[_Shares, _Shares]] = {}

    def sums(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cell sums of a map (H, W): float32 (g, g)."""
        # Rows first, then columns: each is a weighted gather and a sum over runs of equal cells.
        picked = values[self._rows.indices]
        picked *= self._rows.weights[:, None]
        strips = np.add.reduceat(picked, self._rows.starts, axis=0)
        columns = self._columns
        weighted = strips[:, columns.indices]
        weighted *= columns.weights
        sums = np.zeros((self._grid, self._grid), np.float32)
        sums[self._rows.cells, columns.cells] = np.add.reduceat(weighted, columns.starts, axis=1)
        return sums

    def clipped_sums(self, values: SparseMap, ceiling: float) -> NDArray[np.float32]:
        """Cell sums of ``min(magnitude / ceiling, 1)``: float32 (g, g)."""
        sums = np.zeros(self._grid**2)
        for first in range(0, len(values.rows), _CHUNK_PARTS):
            chunk = slice(first, first + _CHUNK_PARTS)
            width = values.width
            held = values.magnitudes[:, first * width : (first + _CHUNK_PARTS) * width]
            clipped = np.minimum(held.astype(np.float32), np.float32(ceiling))
            self._add(sums, clipped, values.rows[chunk], values.columns[chunk])
        return np.float32(sums / ceiling).reshape(self._grid, self._grid)

    def _add(
        self, sums: NDArray[np.float64], values: NDArray[np.float32], y: Numbers, x: Numbers
    ) -> None:
        """Add parts, float32 (8, m * k), to the cells (g * g,) that they touch."""
        width = values.shape[1] // len(y)
        rows, columns = self._shares_of(width)
        items = values.view(_words(width))
        strips: list[NDArray[np.float32]] = []
        first_cells: list[Numbers] = []
        places: list[Numbers] = []
        # Down: the sum of a part's rows for the first cell that it touches, for the second, ...
        for cells, weights, is_any in zip(rows.cells, rows.weights, rows.is_any, strict=True):
            parts = np.flatnonzero(is_any[y])
            held = items if len(parts) == len(y) else items.take(parts, axis=1)
            weighted = held.view(np.float32) * weights.take(y[parts], axis=1).view(np.float32)
            strips.append(np.add.reduce(weighted, axis=0))
            first_cells.append(cells[y[parts]] * self._grid)
            places.append(x[parts])
        # Across: the same for columns, with parts along memory; bincount() then adds up, in
        # float64, what falls into one cell.
        place = np.concatenate(places)
        across = np.ascontiguousarray(np.concatenate(strips).reshape(-1, width).T)
        across = np.add.reduce(across * columns.weights.take(place, axis=2), axis=1)
        index = columns.cells.take(place, axis=1) + np.concatenate(first_cells)
        sums += np.bincount(index.ravel(), across.ravel(), len(sums))

    def _shares_of(self, width: int) -> tuple[_Shares, _Shares]:
        """Return shares of rows, weights in words of k equal ones (c, 8, parts); and of columns."""
        if width not in self._shares:
            rows = _shares(self._rows, self._height, _PART_ROWS)
            words = rows.weights.repeat(width, axis=2).view(_words(width))
            columns = _shares(self._columns, self._width, width)
            self._shares[width] = replace(rows, weights=words), columns
        return self._shares[width]


def _words(width: int) -> np.dtype[np.void]:
    """Return the type of a row of a part in float32, which is moved as a whole."""
    return np.dtype(f"V{4 * width}")
