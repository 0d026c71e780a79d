"""A picture of the native decoder as numpy arrays, without copies.

Axis legend: H, W rows and columns as coded but cropped, before rotation; x, y blocks of 16 x 16
pixels that cover the picture before cropping.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from cv_reader_native import FAR_REF, INTERLACED, Memory, Picture
from numpy.typing import NDArray

from cv_reader.backends.orientation import turn_pixels
from cv_reader.backends.pixels import AvPicture, ShownPicture, narrowed
from cv_reader.media.conversion import (
    Colors,
    Planes,
    are_planar,
    scaled_planes,
    sdr_planes,
    sdr_rgb,
)
from cv_reader.media.display import Display, Orientation
from cv_reader.media.frames import BLOCK_PX, CELL_PX, map_shape

if TYPE_CHECKING:
    from cv_reader_native._decoder import MapName

# Made once: every frame has them.
_UINT8, _UINT16 = np.dtype("u1"), np.dtype("u2")

_Scalar = TypeVar("_Scalar", bound=np.generic)

_HAS_RESIDUAL = np.uint8(1)
"""Bit of a block's state."""


@dataclass(frozen=True)
class Layout:
    """Layout of pictures in the decoder's memory: the same for all of a stream.

    Attributes:
        left, top: pixels to cut off.
        width, height: W and H.
        format: FFmpeg's name.
        bit_depth: bits of luma samples.
        blocks: columns and rows of blocks that the maps have.
    """

    left: int
    top: int
    width: int
    height: int
    format: str
    bit_depth: int
    blocks: tuple[int, int]

    @classmethod
    def of(cls, picture: Picture) -> "Layout":
        """Return the layout of one picture."""
        width, height, left, top, right, bottom, name, depth, *blocks = picture.layout
        return cls(
            left=left,
            top=top,
            width=width - left - right,
            height=height - top - bottom,
            format=name,
            bit_depth=depth,
            blocks=(blocks[0], blocks[1]),
        )

    @cached_property
    def refused_format(self) -> str | None:
        """Why pictures of this format have no exact maps, or None."""
        if not self.format.startswith(("yuv", "gray")):
            return f"its pixels are {self.format}, without a luma plane"
        if self.left % CELL_PX or self.top % CELL_PX:
            return (
                f"it is cropped by {self.left} pixels at the left and {self.top} at the top, "
                f"not by multiples of {CELL_PX}"
            )
        return None

    @cached_property
    def has_blocks(self) -> bool:
        """Whether blocks of 16 x 16 pixels begin where the cropped picture does."""
        return self.top % BLOCK_PX == 0 and self.left % BLOCK_PX == 0

    @cached_property
    def pixels(self) -> "View":
        """View of the residual map."""
        return self._view(1, ())

    @cached_property
    def vectors(self) -> "View":
        """View of the vectors."""
        return self._view(CELL_PX, (2,), lists=2)

    @cached_property
    def cells(self) -> "View":
        """View of the distances to references."""
        return self._view(CELL_PX, (), lists=2)

    @cached_property
    def bits(self) -> "View":
        """View of the bit counts."""
        return self._view(BLOCK_PX, (), item_bytes=4)

    @cached_property
    def qp(self) -> "View":
        """View of the quantisers, and of the states."""
        return self._view(BLOCK_PX, (), item_bytes=1)

    @cached_property
    def planes(self) -> list[tuple[tuple[int, int], int, int]]:
        """Rows and columns of each plane, and the first row and column that are shown."""
        components = VideoFormat(self.format, self.width, self.height).components
        # Chroma planes are a power of two smaller; cropping is by whole chroma samples.
        return [
            (
                (part.height, part.width),
                self.top * part.height // self.height,
                self.left * part.width // self.width,
            )
            for part in components
        ]

    def _view(
        self, side_px: int, tail: tuple[int, ...], lists: int = 0, item_bytes: int = 2
    ) -> "View":
        columns, rows = (count * (BLOCK_PX // side_px) for count in self.blocks)
        step = item_bytes * (tail[0] if tail else 1)
        shown = map_shape(self.height, self.width, side_px)
        inner = (item_bytes,) if tail else ()
        first = (self.top // side_px * columns + self.left // side_px) * step
        if lists:
            strides = (rows * columns * step, columns * step, step, *inner)
            return View((lists, *shown, *tail), first, strides)
        return View((*shown, *tail), first, (columns * step, step, *inner))


class View(NamedTuple):
    """What an array shows of a map."""

    shape: tuple[int, ...]
    first_byte: int
    strides: tuple[int, ...]


class NativePicture:
    """One decoded picture with its maps; has what ``cv_reader.media.coded.CodedPicture`` asks for.

    Attributes:
        picture: the decoder's.
        layout: layout of its maps.
        display: how the stream's pictures are shown.
        pts: the row of its packet.
        width: W.
        height: H.
        rotation: counter-clockwise turn to the shown picture, in degrees, as FFmpeg reports it.
        is_corrupt: damaged, incomplete, or predicted from a picture that is.
    """

    __slots__ = ("display", "height", "is_corrupt", "layout", "picture", "pts", "rotation", "width")

    def __init__(self, picture: Picture, layout: Layout, row: int, display: Display) -> None:
        """Wrap a picture; ``row`` is its packet's, ``display`` the stream's."""
        self.picture = picture
        self.layout = layout
        self.pts = row
        self.width = layout.width
        self.height = layout.height
        self.display = display
        self.rotation = -display.orientation.reported_degrees
        self.is_corrupt = picture.is_corrupt

    @property
    def pict_type(self) -> int:
        """FFmpeg's number of the picture type."""
        return self.picture.pict_type

    @property
    def refusal(self) -> str | None:
        """Why its maps cannot be given exactly, or None."""
        flags = self.picture.flags
        if flags & INTERLACED:
            return "it is field-coded (interlaced), and fields have no vectors per frame"
        if flags & FAR_REF:
            return "it refers to a picture more than 32767 frames away"
        return self.layout.refused_format

    @property
    def color(self) -> tuple[int, int]:
        """FFmpeg's numbers of matrix and range: the picture's, else the container's."""
        return self.display.colors.completed(*self.picture.color)

    def residual_y(self) -> NDArray[np.int16]:
        """Return the residual, int16 (H, W), in units of the stream's samples."""
        return self._map("residual", self.layout.pixels, np.int16)

    def motion(self) -> NDArray[np.int16]:
        """Return vectors, int16 (2, h, w, 2), in quarter pixels."""
        return self._map("motion", self.layout.vectors, np.int16)

    def motion_ref(self) -> NDArray[np.int16]:
        """Return distances to the references, int16 (2, h, w), in frames."""
        return self._map("distance", self.layout.cells, np.int16)

    def bits(self) -> NDArray[np.float32] | None:
        """Return bits of blocks, float32 (ceil(H / 16), ceil(W / 16)).

        None where cropping shifts the blocks.
        """
        layout = self.layout
        return self._map("bits", layout.bits, np.float32) if layout.has_blocks else None

    def qp(self) -> NDArray[np.uint8] | None:
        """Return quantisers of blocks, uint8, shape and None as of ``bits``."""
        layout = self.layout
        return self._map("qp", layout.qp, np.uint8) if layout.has_blocks else None

    def residual_blocks(self) -> NDArray[np.bool_] | None:
        """Return blocks with a residual: bool, the shape of ``bits``.

        None where blocks are laid out otherwise in the picture as shown.
        """
        layout = self.layout
        if not layout.has_blocks or self.display.orientation != Orientation():
            return None
        state = self._map("state", layout.qp, np.uint8)
        return (state & _HAS_RESIDUAL).view(np.bool_)

    def plane(self, number: int) -> NDArray[Any]:
        """Return the samples (rows, columns) of a plane, cropped; uint16 if deeper than 8 bit."""
        layout = self.layout
        shape, top, left = layout.planes[number]
        dtype = _UINT8 if layout.bit_depth == 8 else _UINT16
        memory, pitch = self.picture.plane(number)
        first, strides = top * pitch + left * dtype.itemsize, (pitch, dtype.itemsize)
        return np.ndarray(shape, dtype, cast(bytes, memory), first, strides)

    def planes(self) -> list[NDArray[Any]]:
        """Return all planes."""
        return [self.plane(number) for number in range(len(self.layout.planes))]

    def to_av(self) -> VideoFrame:
        """Return a copy of the cropped picture as a PyAV frame, for PyAV's converter."""
        layout = self.layout
        frame = VideoFrame(layout.width, layout.height, layout.format)
        frame.colorspace, frame.color_range = self.color
        for plane, samples in zip(frame.planes, self.planes(), strict=True):
            target = np.frombuffer(memoryview(plane), samples.dtype)
            target = target.reshape(-1, plane.line_size // samples.itemsize)
            target[: plane.height, : plane.width] = samples
        return frame

    def _map(self, name: "MapName", view: View, dtype: type[_Scalar]) -> NDArray[_Scalar]:
        memory: Memory | None = self.picture.map(name)
        if memory is None:
            raise ValueError("the picture was decoded without maps")
        return np.ndarray(view.shape, dtype, cast(bytes, memory), view.first_byte, view.strides)


class NativePixels(ShownPicture):
    """The pixels of one picture, as shown."""

    def __init__(self, picture: NativePicture) -> None:
        super().__init__((picture.width, picture.height), picture.display)
        self._picture = picture

    def rgb(self, size_px: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """uint8 (height_px, width_px, 3) or of another size, by the same conversion as every
        backend's."""
        return AvPicture(self._picture.to_av(), self._picture.display).rgb(size_px)

    def planes(self, luma_px: tuple[int, int], chroma_px: tuple[int, int]) -> Planes:
        """Return planes scaled to (width, height), without copying the picture first."""
        picture, display = self._picture, self._picture.display
        layout = picture.layout
        if not are_planar(layout.format):
            return AvPicture(picture.to_av(), display).planes(luma_px, chroma_px)
        sizes = display.turned(luma_px), display.turned(chroma_px)
        colors = Colors.named(layout.format, *picture.color)
        if display.tone_maps:
            named = display.colors._replace(matrix=picture.color[0])
            samples, depth = picture.planes(), layout.bit_depth
            rgb = sdr_rgb(samples, depth, named, is_full=colors.is_full, size_px=sizes[0])
            scaled, colors = sdr_planes(rgb, sizes[1])
        else:
            scaled = scaled_planes(picture.planes(), layout.bit_depth, *sizes)
        return Planes([turn_pixels(plane, display.orientation) for plane in scaled], colors)

    def luma(self) -> NDArray[np.uint8]:
        """uint8 (H, W), a read-only view where neither depth nor orientation need a copy."""
        samples = narrowed(self._picture.plane(0), self._picture.layout.bit_depth)
        return turn_pixels(samples, self._picture.display.orientation)
