"""Adding up the cells of the padded square from a source map.

The map is resized bilinearly to the square and summed over the pixels of each cell. Both steps are
linear, so the sums are taken from the source map directly: the resized map never exists, and only
elements that it would read are touched. Of integer maps, nine tenths of which are usually zero,
only the parts that are not zero are.

Axis letters: H, W rows and columns of a source map; g cells along a side; y, x parts of 8 rows by
8 bytes; n elements along one axis that the square reads.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.geometry import Letterbox

Integers = NDArray[np.int16] | NDArray[np.uint8]

_PART_ROWS = 8
_PART_BYTES = 8
_BAND_ROWS = 128
"""Rows that are worked on at once: few enough for the processor's cache and for gaps to show."""


class SparseMap:
    """The magnitudes of an integer map, of which only what is not zero is touched.

    Args:
        values: int16 (above -32768) or uint8 (H, W).
    """

    def __init__(self, values: Integers) -> None:
        self.size = values.size
        self.dtype = values.dtype
        self._items = _as_items(values)
        width = self._items.shape[1]
        parts = self._items.reshape(-1, _PART_ROWS, width)
        self.occupied: NDArray[np.bool_] = np.bitwise_or.reduce(parts, axis=1) != 0
        """bool (y, x): the parts that hold anything but zeros."""

    def magnitudes(self) -> Integers:
        """All magnitudes of occupied parts; what is left out is zero."""
        rows, columns = np.nonzero(self.occupied)
        lines = rows * _PART_ROWS + np.arange(_PART_ROWS)[:, None]
        return self._magnitudes(self._items[lines, columns])

    def pick(
        self, lines: NDArray[np.intp], first: int, last: int
    ) -> tuple[NDArray[np.intp], Integers]:
        """Magnitudes of some rows, without the columns of parts that are empty in all of them.

        Args:
            lines: intp (n,), rows of the map.
            first: first row of parts that they lie in.
            last: last row of parts.

        Returns:
            intp (k,), the columns of parts, and integers (n, k * elements of a part's row).
        """
        columns = np.flatnonzero(self.occupied[first : last + 1].any(axis=0))
        return columns, self._magnitudes(self._items[lines[:, None], columns])

    def _magnitudes(self, items: NDArray[np.uint64]) -> Any:
        values = items.view(self.dtype)
        return np.abs(values, out=values)


def _as_items(values: Integers) -> NDArray[np.uint64]:
    """(rows, x) of 8 bytes each, in whole parts; a view where the map allows it."""
    height, width = values.shape
    per_item = _PART_BYTES // values.itemsize
    is_whole = height % _PART_ROWS == 0 and width % per_item == 0
    is_aligned = values.ctypes.data % _PART_BYTES == 0 and values.strides[0] % _PART_BYTES == 0
    if not (is_whole and is_aligned and values.strides[1] == values.itemsize):
        whole = (height + -height % _PART_ROWS, width + -width % per_item)
        padded = np.zeros(whole, values.dtype)
        padded[:height, :width] = values
        return padded.view(np.uint64)
    return values.view(np.uint64)


@dataclass(frozen=True, eq=False)
class _Band:
    """Neighbouring rows of cells, and the rows of the map that they are made of.

    Attributes:
        cells: which rows of cells.
        lines: intp (n,), rows of the map, grouped by cell.
        weights: float32 (n, 1).
        starts: intp (cells,), where each cell's rows begin.
        first: row of parts of the first line.
        last: of the last.
    """

    cells: slice
    lines: NDArray[np.intp]
    weights: NDArray[np.float32]
    starts: NDArray[np.intp]
    first: int
    last: int


class CellPool:
    """Cell sums of maps of one size.

    Args:
        box: where the frame lies in the square.
        step_px: source pixels per element of the maps.
    """

    def __init__(self, box: Letterbox, step_px: int) -> None:
        self._grid = box.grid
        self._rows, self._columns = box.row_sampling(step_px), box.column_sampling(step_px)
        self._bands = self._cut_bands()

    def _cut_bands(self) -> list[_Band]:
        rows, bands = self._rows, list[_Band]()
        groups = rows.groups()
        tops = rows.indices[rows.starts]
        cell = 0
        while cell < len(groups):
            end = max(cell + 1, int(np.searchsorted(tops, tops[cell] + _BAND_ROWS)))
            begin, stop = groups[cell][0], groups[end - 1][1]
            lines = rows.indices[begin:stop]
            bands.append(
                _Band(
                    cells=slice(cell, end),
                    lines=lines,
                    weights=rows.weights[begin:stop, None],
                    starts=rows.starts[cell:end] - begin,
                    first=int(lines[0]) // _PART_ROWS,
                    last=int(lines[-1]) // _PART_ROWS,
                )
            )
            cell = end
        return bands

    def sums(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cell sums of a map (H, W): float32 (g, g)."""
        picked = values[self._rows.indices]
        picked *= self._rows.weights[:, None]
        return self._join(np.add.reduceat(picked, self._rows.starts, axis=0))

    def clipped_sums(self, values: SparseMap, ceiling: float) -> NDArray[np.float32]:
        """Cell sums of ``min(magnitude / ceiling, 1)``: float32 (g, g)."""
        per_item = _PART_BYTES // values.dtype.itemsize
        width = values.occupied.shape[1]
        strips = np.zeros((len(self._rows.starts), width, per_item), np.float32)
        limit = np.float32(ceiling)
        for band in self._bands:
            columns, magnitudes = values.pick(band.lines, band.first, band.last)
            if not len(columns):
                continue
            clipped = magnitudes.astype(np.float32)
            np.minimum(clipped, limit, out=clipped)
            clipped *= band.weights
            added = np.add.reduceat(clipped, band.starts, axis=0)
            strips[band.cells, columns] = added.reshape(len(added), -1, per_item)
        sums = self._join(strips.reshape(len(strips), -1))
        sums /= limit
        return sums

    def _join(self, strips: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows of cells (cells, W) to cells (g, g)."""
        columns = self._columns
        weighted = strips[:, columns.indices]
        weighted *= columns.weights
        sums = np.zeros((self._grid, self._grid), np.float32)
        sums[self._rows.cells, columns.cells] = np.add.reduceat(weighted, columns.starts, axis=1)
        return sums
