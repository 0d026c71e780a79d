"""A picture of the native decoder as numpy arrays, without copies.

Axis legend: H, W rows and columns as coded but cropped, before rotation; x, y blocks of 16 x 16
pixels that cover the picture before cropping.
"""

from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from av.video.frame import VideoFrame
from cv_reader_native import FAR_REF, INTERLACED, MISSING_REF, Memory, Picture
from numpy.typing import NDArray

from cv_reader.backends.pixels import AvPicture, narrowed
from cv_reader.frames import BLOCK_PX, CELL_PX, map_shape
from cv_reader.orientation import turn_pixels

if TYPE_CHECKING:
    from cv_reader_native._decoder import MapName

_Scalar = TypeVar("_Scalar", bound=np.generic)

_CELLS = BLOCK_PX // CELL_PX


class NativePicture:
    """One decoded picture with its maps; has what ``cv_reader.coded.CodedPicture`` asks for."""

    def __init__(self, picture: Picture, row: int, rotation_degrees: int) -> None:
        """Wrap a picture; ``row`` is its packet's, ``rotation_degrees`` the container's."""
        self.picture = picture
        self.rotation_degrees = rotation_degrees
        self._row = row
        self._left, self._top, right, bottom = picture.crop
        width, height = picture.size
        self._width = width - self._left - right
        self._height = height - self._top - bottom

    @property
    def pts(self) -> int:
        """The row of its packet."""
        return self._row

    @property
    def width(self) -> int:
        """W."""
        return self._width

    @property
    def height(self) -> int:
        """H."""
        return self._height

    @property
    def rotation(self) -> int:
        """Counter-clockwise turn to the shown picture, in degrees."""
        return -self.rotation_degrees

    @property
    def pict_type(self) -> int:
        """FFmpeg's number."""
        return self.picture.pict_type

    @property
    def is_corrupt(self) -> bool:
        """Whether errors were concealed, blocks are missing, or a reference was."""
        flags = self.picture.flags
        is_partial = not flags & INTERLACED and self.picture.num_missing > 0
        return self.picture.is_corrupt or is_partial or bool(flags & MISSING_REF)

    @property
    def refusal(self) -> str | None:
        """Why its maps cannot be given exactly, or None."""
        if self.picture.flags & INTERLACED:
            return "it is field-coded (interlaced), and fields have no vectors per frame"
        if self.picture.flags & FAR_REF:
            return "it refers to a picture more than 32767 frames away"
        if not self.picture.format.startswith(("yuv", "gray")):
            return f"its pixels are {self.picture.format}, without a luma plane"
        if self._left % CELL_PX or self._top % CELL_PX:
            return (
                f"it is cropped by {self._left} pixels at the left and {self._top} at the top, "
                f"not by multiples of {CELL_PX}"
            )
        return None

    def residual_y(self) -> NDArray[np.int16]:
        """int16 (H, W), in units of the stream's samples."""
        rows, columns = self._blocks()
        plane = self._map("residual", (rows * BLOCK_PX, columns * BLOCK_PX), np.int16)
        return plane[self._top :, self._left :][: self._height, : self._width]

    def motion(self) -> NDArray[np.int16]:
        """int16 (2, h, w, 2), quarter pixels."""
        rows, columns = self._blocks()
        return self._cells(self._map("motion", (2, rows * _CELLS, columns * _CELLS, 2), np.int16))

    def motion_ref(self) -> NDArray[np.int16]:
        """int16 (2, h, w), frames."""
        rows, columns = self._blocks()
        return self._cells(self._map("distance", (2, rows * _CELLS, columns * _CELLS), np.int16))

    def bits(self) -> NDArray[np.float32] | None:
        """float32 (ceil(H / 16), ceil(W / 16)), or None where cropping shifts the blocks."""
        return self._cropped_blocks(self._map("bits", self._blocks(), np.float32))

    def qp(self) -> NDArray[np.uint8] | None:
        """uint8, same shape, likewise."""
        return self._cropped_blocks(self._map("qp", self._blocks(), np.uint8))

    def samples(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Luma samples (H, W), uint16 where deeper than 8 bit."""
        dtype = np.dtype(np.uint8 if self.picture.bit_depth == 8 else np.uint16)
        _, height = self.picture.size
        memory, pitch = self.picture.plane(0)
        rows = np.ndarray((height, pitch // dtype.itemsize), dtype, cast(bytes, memory))
        return rows[self._top :, self._left :][: self._height, : self._width]

    def to_av(self) -> VideoFrame:
        """The cropped picture as a frame of PyAV, a copy, for its converter."""
        frame = VideoFrame(self._width, self._height, self.picture.format)
        frame.colorspace, frame.color_range = self.picture.color
        for number, plane in enumerate(frame.planes):
            component = frame.format.components[number]
            memory, pitch = self.picture.plane(number)
            stored = np.frombuffer(cast(bytes, memory), np.uint8).reshape(-1, pitch)
            # Chroma planes are a power of two smaller; cropping is by whole chroma samples.
            top = self._top * component.height // self._height
            left = self._left * component.width // self._width
            depth = -(-component.bits // 8)
            row_bytes = component.width * depth
            target = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            target[: component.height, :row_bytes] = stored[
                top : top + component.height, left * depth : left * depth + row_bytes
            ]
        return frame

    def _blocks(self) -> tuple[int, int]:
        """(y, x)."""
        blocks = self.picture.blocks
        if blocks is None:
            raise ValueError("the picture was decoded without maps")
        return blocks[1], blocks[0]

    def _map(
        self, name: "MapName", shape: tuple[int, ...], dtype: type[_Scalar]
    ) -> NDArray[_Scalar]:
        memory: Memory | None = self.picture.map(name)
        return np.ndarray(shape, dtype, cast(bytes, memory))

    def _cells(self, cells: NDArray[np.int16]) -> NDArray[np.int16]:
        """Crop a map of cells, (2, y, x, ...)."""
        rows, columns = map_shape(self._height, self._width, CELL_PX)
        top, left = self._top // CELL_PX, self._left // CELL_PX
        return cells[:, top : top + rows, left : left + columns]

    def _cropped_blocks(self, blocks: NDArray[_Scalar]) -> NDArray[_Scalar] | None:
        if self._top % BLOCK_PX or self._left % BLOCK_PX:
            return None
        rows, columns = map_shape(self._height, self._width, BLOCK_PX)
        top, left = self._top // BLOCK_PX, self._left // BLOCK_PX
        return blocks[top : top + rows, left : left + columns]


class NativePixels:
    """The pixels of one picture, as shown."""

    def __init__(self, picture: NativePicture) -> None:
        self._picture = picture

    @property
    def height_px(self) -> int:
        """H as shown."""
        picture = self._picture
        return picture.width if picture.rotation_degrees % 180 else picture.height

    @property
    def width_px(self) -> int:
        """W as shown."""
        picture = self._picture
        return picture.height if picture.rotation_degrees % 180 else picture.width

    def rgb(self, size_px: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """uint8 (H, W, 3) or of another size, by the same conversion as every backend's."""
        return AvPicture(self._picture.to_av(), self._picture.rotation_degrees).rgb(size_px)

    def rgbx(self, size_px: tuple[int, int]) -> NDArray[np.uint8]:
        """uint8 (height, width, 4), likewise."""
        return AvPicture(self._picture.to_av(), self._picture.rotation_degrees).rgbx(size_px)

    def luma(self) -> NDArray[np.uint8]:
        """uint8 (H, W), a read-only view where neither depth nor rotation need a copy."""
        samples = narrowed(self._picture.samples(), self._picture.picture.bit_depth)
        return turn_pixels(samples, self._picture.rotation_degrees)
