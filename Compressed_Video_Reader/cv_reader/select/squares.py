"""Squares of many slots, in memory or in a file without a name.

1024 squares of 576 pixels would take 510 MB of memory. In a file they take the rows that the
picture covers: 290 MB for 16:9. The system keeps the file in memory as long as it is not needed for
anything else.
"""

import tempfile
import weakref
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cv_reader.errors import OutputError
from cv_reader.media.conversion import Colors
from cv_reader.select.geometry import Letterbox
from cv_reader.select.mosaics import Square, black_squares

MAX_MEMORY_BYTES = 128 << 20
"""More squares than fit into so much memory are kept in a file."""

MAX_FILE_BYTES = 4 << 30
"""Such a file is not made any larger; the video is then decoded twice instead."""


def square_bytes(square_px: int, patch_px: int) -> int:
    """Return the memory of one square."""
    return sum(plane.nbytes for plane in black_squares(1, square_px, patch_px))


class SquareStore(Mapping[int, Square]):
    """Squares by slot.

    Args:
        box: place of the picture in them.
        num_squares: the most that will be put in.
        folder: where to make a file, if it comes to that; None = the system's temporary folder.
    """

    def __init__(self, box: Letterbox, num_squares: int, folder: Path | None = None) -> None:
        self._box = box
        self._colors: dict[int, Colors] = {}
        self._places: dict[int, int] = {}
        size = square_bytes(box.square_px, box.patch_px)
        self._in_memory = num_squares * size <= MAX_MEMORY_BYTES
        # One piece of memory for all: the system clears large pages much faster than small ones.
        count = num_squares if self._in_memory else 1
        self._luma, self._chroma = black_squares(count, box.square_px, box.patch_px)
        self._where = str(folder or tempfile.gettempdir())
        if not self._in_memory:
            self._item_bytes = sum(part.nbytes for part in self._parts(self._luma, self._chroma))
            with self._refusing():
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
            weakref.finalize(self, self._file.close)

    def planes(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return zeros (but for the picture's place) to draw the next square to."""
        place = len(self._places) if self._in_memory else 0
        return self._luma[place], self._chroma[place]

    def put(self, slot: int, square: Square) -> None:
        """Keep a square that was drawn to ``planes()``.

        Raises:
            OutputError: the file cannot be written.
        """
        place = len(self._places)
        if not self._in_memory:
            with self._refusing():
                self._file.seek(place * self._item_bytes)
                for part in self._parts(square.luma[None], square.chroma[None]):
                    data = part.data.cast("B")
                    while data:
                        data = data[self._file.write(data) :]
        self._places[slot], self._colors[slot] = place, square.colors

    def __getitem__(self, slot: int) -> Square:
        place = self._places[slot]
        if self._in_memory:
            return Square(self._luma[place], self._chroma[place], self._colors[slot])
        luma, chroma = black_squares(1, self._box.square_px, self._box.patch_px)
        with self._refusing():
            self._file.seek(place * self._item_bytes)
            for part in self._parts(luma, chroma):
                data = part.data.cast("B")
                while data:
                    data = data[self._file.readinto(data) or len(data) :]
        return Square(luma[0], chroma[0], self._colors[slot])

    @contextmanager
    def _refusing(self) -> Generator[None]:
        """Raise OutputError where the system refuses to make, write or read the file."""
        try:
            yield
        except OSError as error:
            found = OutputError.from_system(f"temporary file in {self._where}", error)
            raise found or error from error

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _parts(self, luma: NDArray[np.uint8], chroma: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Return the rows of one square's planes that the picture covers, each in one piece."""
        planes = [*luma[0], *chroma[0]]
        return [plane[self._box.covered(self._box.square_px // len(plane))[0]] for plane in planes]
