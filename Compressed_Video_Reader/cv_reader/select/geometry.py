"""The place of a frame in the padded square, and which source pixels each cell is made of.

A frame is scaled so that its longer side fills the square, centred, and padded with black. The
square is cut into cells; a cell is content only where it is entirely inside the picture.

Axis letters: g cells along one side of the square.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class AxisSampling:
    """How the cells along one axis add up the elements of a source map along it.

    ``sum(map[indices[starts[i]:starts[i + 1]]] * weights[...])`` is the sum over the pixels of cell
    ``first_cell + i`` of the bilinearly resized map.

    Attributes:
        first_cell: first cell that holds any of the picture.
        indices: intp (n,), elements of the map, grouped by cell.
        weights: float32 (n,), how often each counts.
        starts: intp (cells,), where each cell's group begins.
    """

    first_cell: int
    indices: NDArray[np.intp]
    weights: NDArray[np.float32]
    starts: NDArray[np.intp]

    @property
    def cells(self) -> slice:
        """The cells that hold any of the picture."""
        return slice(self.first_cell, self.first_cell + len(self.starts))

    def groups(self) -> list[tuple[int, int]]:
        """Begin and end of each cell's group."""
        ends = [*self.starts[1:].tolist(), len(self.indices)]
        return list(zip(self.starts.tolist(), ends, strict=True))


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """The place of a frame in the padded square; all lengths in pixels.

    Attributes:
        source_height_px: height of the frame as shown, in square pixels.
        source_width_px: width of it, in the same unit.
        num_rows: rows of samples of the frame, the unit of its maps; ``source_height_px`` where
            samples are square.
        num_columns: columns of samples of the frame.
    """

    source_height_px: int
    source_width_px: int
    num_rows: int
    num_columns: int
    square_px: int
    patch_px: int
    scale: float
    height_px: int
    width_px: int
    pad_top_px: int
    pad_left_px: int

    @property
    def grid(self) -> int:
        """g."""
        return self.square_px // self.patch_px

    @property
    def sample_aspect(self) -> float:
        """Width of a sample to its height, as shown."""
        return self.source_width_px * self.num_rows / (self.source_height_px * self.num_columns)

    @property
    def content(self) -> tuple[slice, slice]:
        """Rows and columns of the square that the picture covers."""
        return self.covered(1)

    def covered(self, step_px: int) -> tuple[slice, slice]:
        """Return rows and columns that the picture covers in a grid of ``step_px`` pixels."""

        def touched(pad_px: int, content_px: int) -> slice:
            return slice(pad_px // step_px, -(-(pad_px + content_px) // step_px))

        rows = touched(self.pad_top_px, self.height_px)
        return rows, touched(self.pad_left_px, self.width_px)

    def valid_cells(self) -> NDArray[np.bool_]:
        """Cells entirely inside the picture: bool (g, g)."""
        rows = self._inside(self.pad_top_px, self.height_px)
        columns = self._inside(self.pad_left_px, self.width_px)
        return rows[:, None] & columns[None, :]

    def _inside(self, pad_px: int, content_px: int) -> NDArray[np.bool_]:
        starts = np.arange(self.grid) * self.patch_px
        return (starts >= pad_px) & (starts + self.patch_px <= pad_px + content_px)

    def row_sampling(self, step_px: int = 1) -> AxisSampling:
        """Rows of a source map with one element per ``step_px`` samples."""
        return _axis_sampling(
            self.num_rows, self.height_px, self.pad_top_px, self.patch_px, step_px
        )

    def column_sampling(self, step_px: int = 1) -> AxisSampling:
        """Columns of a source map with one element per ``step_px`` samples."""
        return _axis_sampling(
            self.num_columns, self.width_px, self.pad_left_px, self.patch_px, step_px
        )

    def facts(self) -> dict[str, Any]:
        """Return the geometry as ``meta.json`` records it; ends of ranges are exclusive."""
        valid = self.valid_cells()
        rows, columns = np.flatnonzero(valid.any(axis=1)), np.flatnonzero(valid.any(axis=0))
        ranges: dict[str, int] = {
            "S_valid": int(valid.sum()),
            "hb_total": self.grid,
            "wb_total": self.grid,
        }
        if len(rows) and len(columns):
            ranges["valid_h_start"], ranges["valid_h_end"] = int(rows[0]), int(rows[-1]) + 1
            ranges["valid_w_start"], ranges["valid_w_end"] = int(columns[0]), int(columns[-1]) + 1
        return {
            "H0": self.source_height_px,
            "W0": self.source_width_px,
            "pad_info": {
                "scale": self.scale,
                "Hn": self.height_px,
                "Wn": self.width_px,
                "pad_top": self.pad_top_px,
                "pad_left": self.pad_left_px,
                "pad_bottom": self.square_px - self.height_px - self.pad_top_px,
                "pad_right": self.square_px - self.width_px - self.pad_left_px,
                "out_size": self.square_px,
                "H0": self.source_height_px,
                "W0": self.source_width_px,
            },
            "hb": self.grid,
            "wb": self.grid,
            "S_total": self.grid**2,
            "S_valid": ranges["S_valid"],
            "valid_ranges": ranges,
        }


def letterbox(
    height_px: int,
    width_px: int,
    *,
    square_px: int,
    patch_px: int,
    samples: tuple[int, int] | None = None,
) -> Letterbox:
    """Fit a frame into the padded square; sides are rounded half to even, at least 1 pixel.

    Args:
        height_px: height of the frame as shown, in square pixels.
        width_px: width of it, in the same unit.
        square_px: side of the square.
        patch_px: side of a cell.
        samples: rows and columns of the frame's samples, where these are not square.
    """
    num_rows, num_columns = samples or (height_px, width_px)
    scale = square_px / max(height_px, width_px)
    height, width = max(1, round(height_px * scale)), max(1, round(width_px * scale))
    return Letterbox(
        source_height_px=height_px,
        source_width_px=width_px,
        num_rows=num_rows,
        num_columns=num_columns,
        square_px=square_px,
        patch_px=patch_px,
        scale=scale,
        height_px=height,
        width_px=width,
        pad_top_px=(square_px - height) // 2,
        pad_left_px=(square_px - width) // 2,
    )


def _axis_sampling(
    source_px: int, content_px: int, pad_px: int, patch_px: int, step_px: int
) -> AxisSampling:
    """Bilinear weights (half-pixel centres, no antialias, clamped edges), summed per cell."""
    out = np.arange(content_px)
    centre = (out + 0.5) * (source_px / content_px) - 0.5
    centre = np.minimum(np.maximum(centre, 0), source_px - 1)
    low = np.floor(centre).astype(np.intp)
    high = np.minimum(low + 1, source_px - 1)
    share = centre - low
    # Nearest upsampling of the map to pixels: pixel y belongs to element y // step.
    elements = np.concatenate([low, high]) // step_px
    weights = np.concatenate([1 - share, share])
    cells = np.tile((out + pad_px) // patch_px, 2)
    first_cell = int(cells[0])
    width = int(elements.max()) + 1
    keys, inverse = np.unique((cells - first_cell) * width + elements, return_inverse=True)
    owners = keys // width
    return AxisSampling(
        first_cell=first_cell,
        indices=keys % width,
        weights=np.bincount(inverse, weights=weights).astype(np.float32),
        starts=np.searchsorted(owners, np.arange(int(owners[-1]) + 1)),
    )
