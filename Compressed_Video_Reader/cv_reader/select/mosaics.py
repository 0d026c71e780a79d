"""Kept cells into mosaics: slot ``m * g^2 + r * g + c`` is row r, column c of mosaic m.

Axis letters: N rows (G * g^2), G mosaics, g cells along a side, p side of a cell and S of the
square, in pixels.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cv_reader.media.conversion import NEUTRAL, Colors, jpeg_planes
from cv_reader.select.config import AssetConfig, mosaic_name
from cv_reader.select.geometry import Letterbox

if TYPE_CHECKING:
    from cv_reader.media.frames import CodecFrame, Picture


def sort_rows(rows: NDArray[np.int32], order: str) -> NDArray[np.int32]:
    """Put rows (t, h, w) into the order of their slots, cell by cell.

    ``raster`` is lexicographic; ``zigzag`` runs odd h from right to left inside each t, so that
    neighbours in the mosaic are more often neighbours in the picture.
    """
    t, h, w = rows[:, 0], rows[:, 1], rows[:, 2]
    return rows[np.lexsort((_along(h, w, order), h, t))]


def arrange_rows(rows: NDArray[np.int32], config: AssetConfig) -> NDArray[np.int32]:
    """Put the rows (t, h, w) of an asset into the order of its mosaics' slots.

    With ``block_cells`` 2 whole blocks are put into that order, and each takes 2 x 2 slots of its
    mosaic: neighbours inside such a block of the mosaic are neighbours in the picture.

    Args:
        rows: int32 (G * g^2, 3); whole blocks.
        config: order, grid and size of blocks.
    """
    block = config.block_cells
    if block == 1:
        return sort_rows(rows, config.order)
    t, h, w = rows[:, 0], rows[:, 1] // block, rows[:, 2] // block
    inside = rows[:, 1] % block * block + rows[:, 2] % block
    # A block that is kept twice has every cell twice: the first ones belong together.
    turn = _turns(np.stack([t, h, w, inside]))
    rows = rows[np.lexsort((inside, turn, _along(h, w, config.order), h, t))]
    # Blocks are in order; now write the cells row by row of the mosaic, across its blocks.
    side = config.grid // block
    blocks = rows.reshape(-1, side, side, block, block, 3)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(-1, 3)


def _along(h: NDArray[np.int32], w: NDArray[np.int32], order: str) -> NDArray[np.int32]:
    return np.where(h % 2 == 1, -w, w) if order == "zigzag" else w


def _turns(keys: NDArray[np.int32]) -> NDArray[np.intp]:
    """Return for each column of keys (k, N) how many equal ones come before it."""
    # After sorting, equal columns are neighbours: the turn is the distance to the first of them.
    order = np.lexsort(keys)
    ordered = keys[:, order]
    is_new = np.concatenate([[True], (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)])
    starts = np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))
    turns = np.empty(len(order), np.intp)
    turns[order] = np.arange(len(order)) - starts
    return turns


class Square(NamedTuple):
    """A frame in the padded square.

    Samples are held less those of black, so that zeros are black. Colour differences are at half
    the resolution, as the JPEG files will hold them, unless a cell's side is odd.

    Attributes:
        luma: uint8 (1, S, S).
        chroma: uint8 (2, s, s), blue and red difference.
        colors: what they mean.
    """

    luma: NDArray[np.uint8]
    chroma: NDArray[np.uint8]
    colors: Colors


def black_squares(
    count: int, square_px: int, patch_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Zeros for the samples of squares: uint8 (n, 1, S, S) and (n, 2, s, s)."""
    small_px = square_px if patch_px % 2 else square_px // 2
    luma = np.zeros((count, 1, square_px, square_px), np.uint8)
    return luma, np.zeros((count, 2, small_px, small_px), np.uint8)


def square_frame(
    picture: "CodecFrame | Picture",
    box: Letterbox,
    out: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None,
) -> Square:
    """Scale a frame's pixels bicubically and centre them on black.

    Args:
        picture: picture of the size that ``box`` was made for.
        box: its place in the square.
        out: one of ``black_squares`` to write to.
    """
    if out is None:
        luma, chroma = (planes[0] for planes in black_squares(1, box.square_px, box.patch_px))
    else:
        luma, chroma = out
    inner = [plane[box.covered(box.square_px // len(plane))] for plane in (*luma, *chroma)]
    sizes = [plane.shape[::-1] for plane in inner[:2]]
    samples, colors = picture.planes(*sizes)
    blacks = (colors.black_luma, NEUTRAL, NEUTRAL)
    for target, values, black in zip(inner, samples, blacks, strict=True):
        np.subtract(values, np.uint8(black), out=target)
    return Square(luma, chroma, colors)


class MosaicPacker:
    """Fills mosaics from square frames, one slot of time after the other, in any order.

    Rows are ordered by time, so that with ascending slots only one or two mosaics are in memory.

    Args:
        rows: int32 (N, 3), arranged; row n is the origin of slot n.
        square_px: S.
        patch_px: p.
    """

    def __init__(self, rows: NDArray[np.int32], *, square_px: int, patch_px: int) -> None:
        self._rows = rows
        self._square_px, self._patch_px = square_px, patch_px
        self._grid = square_px // patch_px
        self._started: dict[int, _Mosaic] = {}
        self._num_done = 0

    def add(self, slot: int, square: Square) -> list[Image.Image]:
        """Copy the kept cells of time slot ``slot`` from its square frame.

        Returns:
            The mosaics that are complete with it, of mode YCbCr, in order: those that an earlier
            one has to wait for come with that one.
        """
        # The number of a row is its place: g^2 cells a mosaic, from left to right and downwards.
        numbers = np.flatnonzero(self._rows[:, 0] == slot)
        images, cells = np.divmod(numbers, self._grid**2)
        for image in np.unique(images).tolist():
            mosaic = self._started.get(image)
            if mosaic is None:
                mosaic = self._started[image] = _Mosaic.empty(self._square_px, self._patch_px)
            here = images == image
            mosaic.put(square, self._rows[numbers[here], 1:], cells[here])
        done: list[Image.Image] = []
        while (mosaic := self._started.get(self._num_done)) and not mosaic.num_missing:
            done.append(mosaic.image())
            del self._started[self._num_done]
            self._num_done += 1
        return done


@dataclass(eq=False)
class _Mosaic:
    """A mosaic that is being filled.

    Attributes:
        planes: zeros of one square, as ``black_squares`` gives them.
        grid: g.
        num_missing: cells that are still to come.
        cells: numbers of the cells that have come, keyed by the colours of their frames.
    """

    planes: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    grid: int
    num_missing: int
    cells: dict[Colors, list[NDArray[np.intp]]]

    @classmethod
    def empty(cls, square_px: int, patch_px: int) -> "_Mosaic":
        grid = square_px // patch_px
        return cls(black_squares(1, square_px, patch_px), grid, grid**2, {})

    def put(self, square: Square, places: NDArray[np.int32], cells: NDArray[np.intp]) -> None:
        """Copy cells.

        Args:
            square: the frame that they come from.
            places: int32 (n, 2), row and column of each cell in the frame.
            cells: intp (n,), its number in the mosaic.
        """
        # All cells at once, as rows of cells, which numpy moves as whole items.
        row, column = np.divmod(cells, self.grid)
        for planes, source in zip(self.planes, square[:2], strict=True):
            items = self._items(source)
            self._items(planes)[:, row, :, column] = items[:, places[:, 0], :, places[:, 1]]
        self.cells.setdefault(square.colors, []).append(cells)
        self.num_missing -= len(cells)

    def image(self) -> Image.Image:
        """Return the mosaic, of mode YCbCr."""
        luma, chroma = (planes[0] for planes in self.planes)
        (colors, _), *others = self.cells.items()
        mosaic = to_image(Square(luma, chroma, colors))
        # Colours seldom change within a video.
        for colors, cells in others:
            mask = np.zeros(self.grid**2, np.uint8)
            mask[np.concatenate(cells)] = 255
            side = len(luma[0]) // self.grid
            mask = mask.reshape(self.grid, self.grid).repeat(side, axis=0).repeat(side, axis=1)
            mosaic.paste(to_image(Square(luma, chroma, colors)), mask=Image.fromarray(mask))
        return mosaic

    def _items(self, planes: NDArray[np.uint8]) -> NDArray[np.void]:
        """(planes, g, rows of a cell, g) of rows of cells, which are moved as a whole."""
        count, side = planes.shape[-3], planes.shape[-1] // self.grid
        items = planes.reshape(-1).view(np.dtype(f"V{side}"))
        return items.reshape(count, self.grid, side, self.grid)


def to_image(square: Square) -> Image.Image:
    """Return a square as an image of mode YCbCr, which is what a JPEG file holds."""
    luma = square.luma[0] + np.uint8(square.colors.black_luma)
    luma, chroma = jpeg_planes(luma, square.chroma + np.uint8(NEUTRAL), square.colors)
    planes = [Image.fromarray(plane) for plane in (luma, *chroma)]
    size = planes[0].size
    return Image.merge("YCbCr", [plane.resize(size, Image.Resampling.NEAREST) for plane in planes])


def write_mosaics(
    mosaics: Iterable[Image.Image], folder: Path, *, stem: str, quality: int
) -> tuple[Path, ...]:
    """Write ``{stem}_000.jpg`` and so on, 4:2:0; at quality 0 uncompressed as ``{stem}_000.ppm``.

    Args:
        mosaics: G images; each is written before the next is asked for.
        folder: an existing folder.
        stem: stem of the file names, safe for paths.
        quality: 0..100.
    """
    paths: list[Path] = []
    for index, mosaic in enumerate(mosaics):
        # Encoded in memory: Pillow's own writing hides why a disk refuses.
        content = io.BytesIO()
        if quality:
            mosaic.save(content, "JPEG", quality=quality, subsampling="4:2:0")
        else:
            mosaic.convert("RGB").save(content, "PPM")
        path = folder / mosaic_name(stem, index, quality)
        path.write_bytes(content.getvalue())
        paths.append(path)
    return tuple(paths)
