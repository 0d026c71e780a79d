"""The sampled frames, reduced to 8 luma samples along a side of a cell.

Eight samples show what a cell shows, and 64 slots of a 16:9 video need 4.4 MB. Only the cells that
are entirely picture are held; they always form a rectangle. Colours are those of JPEG files
(BT.601, 0..255), so that videos of any matrix and range compare.

Axis letters: T slots, h and w rows and columns of content cells.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cv_reader.errors import AssetError
from cv_reader.media.conversion import NEUTRAL, jpeg_planes
from cv_reader.select.geometry import Letterbox
from cv_reader.select.mosaics import Square

LUMA_PX, CHROMA_PX = 8, 4
"""Samples along a side of a cell."""

CHROMA_WEIGHT = 4
"""How much a colour difference counts relative to a luma sample: it covers so many of them."""

CELL_WEIGHT = LUMA_PX**2 + 2 * CHROMA_WEIGHT * CHROMA_PX**2
"""What the samples of a cell count together: luma and each colour difference alike."""

MAX_CLIP_BYTES = 1 << 30

Samples = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class SmallClip:
    """The content of every slot, reduced.

    Attributes:
        luma: uint8 (T, 8 h, 8 w).
        chroma: uint8 (T, 2, 4 h, 4 w), blue and red difference.
        rows: rows of the grid that are content.
        columns: columns of the grid that are content.
        grid: cells along a side of the square.
    """

    luma: Samples
    chroma: Samples
    rows: slice
    columns: slice
    grid: int

    @property
    def num_slots(self) -> int:
        """Return T."""
        return len(self.luma)

    @property
    def height(self) -> int:
        """Return h, rows of content cells."""
        return self.rows.stop - self.rows.start

    @property
    def width(self) -> int:
        """Return w, columns of content cells."""
        return self.columns.stop - self.columns.start

    def valid(self) -> NDArray[np.bool_]:
        """Return which cells of the square are content: bool (g, g)."""
        cells = np.zeros((self.grid, self.grid), np.bool_)
        cells[self.rows, self.columns] = True
        return cells


def empty_clip(box: Letterbox, num_slots: int) -> SmallClip:
    """Return a black clip of a picture's content cells, to be filled by ``put_square``.

    Raises:
        AssetError: if it would need more than a GiB.
    """
    valid = box.valid_cells()
    places = np.argwhere(valid)
    rows, columns = _span(places[:, 0]), _span(places[:, 1])
    height, width = rows.stop - rows.start, columns.stop - columns.start
    size = num_slots * height * width * (LUMA_PX**2 + 2 * CHROMA_PX**2)
    if size > MAX_CLIP_BYTES:
        raise AssetError(
            f"{num_slots} slots of {height} x {width} cells need {size} bytes, more than "
            f"{MAX_CLIP_BYTES}; use fewer slots or larger patches"
        )
    return SmallClip(
        luma=np.zeros((num_slots, LUMA_PX * height, LUMA_PX * width), np.uint8),
        chroma=np.zeros((num_slots, 2, CHROMA_PX * height, CHROMA_PX * width), np.uint8),
        rows=rows,
        columns=columns,
        grid=box.grid,
    )


def put_square(clip: SmallClip, slot: int, square: Square) -> None:
    """Reduce a frame's content by area and write it to a slot.

    Args:
        clip: written to.
        slot: which.
        square: the frame in the padded square, of the geometry that the clip was made for.
    """
    if not clip.height or not clip.width:
        return
    luma = _reduced(square.luma[0], clip, LUMA_PX) + np.uint8(square.colors.black_luma)
    chroma = np.stack([_reduced(plane, clip, CHROMA_PX) for plane in square.chroma])
    clip.luma[slot], clip.chroma[slot] = jpeg_planes(luma, chroma, square.colors)


def changes(clip: SmallClip) -> NDArray[np.float32]:
    """Return how much each cell differs from the slot before, in grey levels (root of the mean
    square): float32 (T, g, g), 0 in slot 0 and outside the picture."""
    found = np.zeros((clip.num_slots, clip.grid, clip.grid), np.float32)
    shape = (clip.height, clip.width)
    for slot in range(1, clip.num_slots if all(shape) else 0):
        squares = np.zeros(shape, np.float32)
        for samples, side, weight in (
            (clip.luma[:, None], LUMA_PX, 1),
            (clip.chroma, CHROMA_PX, CHROMA_WEIGHT),
        ):
            step = samples[slot].astype(np.float32) - samples[slot - 1]
            cells = step.reshape(-1, clip.height, side, clip.width, side)
            squares += weight * np.square(cells).sum(axis=(0, 2, 4))
        found[slot, clip.rows, clip.columns] = np.sqrt(squares / np.float32(CELL_WEIGHT))
    return found


def _reduced(plane: Samples, clip: SmallClip, side: int) -> Samples:
    """Reduce the content of a plane of the square to ``side`` samples per cell.

    Colour differences are held less 128, where values around it wrap: they are turned back before.
    """
    per_cell = plane.shape[0] // clip.grid
    rows = slice(clip.rows.start * per_cell, clip.rows.stop * per_cell)
    columns = slice(clip.columns.start * per_cell, clip.columns.stop * per_cell)
    content = plane[rows, columns]
    size = (clip.width * side, clip.height * side)
    if side == CHROMA_PX:
        content = content ^ np.uint8(NEUTRAL)
    if per_cell == 2 * side:
        return _halved(content)
    image = Image.fromarray(np.ascontiguousarray(content))
    return np.asarray(image.resize(size, Image.Resampling.BOX))


def _halved(samples: Samples) -> Samples:
    """Return what Pillow's ``BOX`` gives of half the size, in a third of the time: means of two
    neighbours across, then of two down, each rounded up at halves."""
    pairs = samples.view(np.uint16)
    across = pairs & np.uint16(255)
    across += pairs >> np.uint16(8)
    across += np.uint16(1)
    across >>= np.uint16(1)
    down = across[::2] + across[1::2]
    down += np.uint16(1)
    down >>= np.uint16(1)
    return down.astype(np.uint8)


def _span(places: NDArray[np.intp]) -> slice:
    return slice(int(places.min()), int(places.max()) + 1) if len(places) else slice(0, 0)
