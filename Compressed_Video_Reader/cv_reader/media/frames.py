"""What a reader gives: the index of a video, and one record per decoded frame.

Axis legend: N frames of the video, H and W rows and columns of samples as shown (cropped, mirrored
and turned), h and w rows and columns of their 4 x 4 cells, ceil(H / 4) and ceil(W / 4).

Maps and ``luma()`` count samples. Where samples are not square (anamorphic video), ``rgb()`` and
the size of the video are in square pixels instead: the shape that a player shows.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cv_reader.media.conversion import Planes
from cv_reader.media.display import Display

CELL_PX = 4
"""Side of a cell of the motion maps."""

BLOCK_PX = 16
"""Side of a block of the bit and quantiser maps."""

_AT_ONCE_PX = 1 << 21
_MAX_AT_ONCE = 16

MAP_FIELDS = ("motion", "residual_y", "bits", "qp")
"""The fields of a frame whose exactness depends on the backend."""


class Picture(Protocol):
    """The pixels of one frame, converted when asked for."""

    @property
    def height_px(self) -> int:
        """Height as shown, in square pixels."""
        ...

    @property
    def width_px(self) -> int:
        """Width as shown, in square pixels."""
        ...

    @property
    def num_rows(self) -> int:
        """Rows as shown."""
        ...

    @property
    def num_columns(self) -> int:
        """Columns as shown."""
        ...

    def rgb(self, size_px: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """uint8 (height_px, width_px, 3), or of another (width, height)."""
        ...

    def planes(self, luma_px: tuple[int, int], chroma_px: tuple[int, int]) -> Planes:
        """Return planes scaled to (width, height), colours as in the stream; HDR as SDR."""
        ...

    def luma(self) -> NDArray[np.uint8]:
        """uint8 (H, W)."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class FrameReach:
    """What it takes to decode each frame, from its packets.

    Attributes:
        start: int32 (N,), the key packet to decode from, a number in file order; never decreasing.
        references: int32 (N,), pictures from there to the frame that others refer to, the frame
            itself included if it is one.
        is_reference: bool (N,), False where its packet says that nothing refers to it.
    """

    start: NDArray[np.int32]
    references: NDArray[np.int32]
    is_reference: NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class VideoIndex:
    """Every frame of a video in presentation order, known from its packets.

    Attributes:
        path: the file as the caller wrote it.
        codec_name: FFmpeg's name of the format, such as ``h264``.
        width_px: width as shown, in square pixels.
        height_px: height as shown, in square pixels.
        num_columns: W; ``width_px`` where samples are square.
        num_rows: H.
        rotation_degrees: clockwise turn from the coded to the shown picture: 0, 90, 180 or 270.
        num_frames: N, at least 1.
        pts_seconds: float64 (N,), never decreasing; the container's own time, so that the first
            may differ from 0.
        pts_exactness: ``exact``: the container's presentation times; ``approximate``: made from
            decoding times, from times that repeat, or from those of joined files, each of which
            begins where the one before ends; ``estimated``: frame number / frame rate.
        is_key: bool (N,), the packet's key flag.
        packet_bytes: int32 (N,), size of the coded picture.
        duration_seconds: time from the start of the first frame to the end of the last.
        frame_rate: average, in frames per second.
        size_bytes: size of the file.
        mtime_ns: modification time of the file.
        stream_index: number of the video stream among all streams of the file.
        display: how pictures are shown: orientation, shape of samples, colours.
        reach: what it takes to decode each frame.
    """

    path: str
    codec_name: str
    width_px: int
    height_px: int
    num_columns: int
    num_rows: int
    rotation_degrees: int
    num_frames: int
    pts_seconds: NDArray[np.float64]
    is_key: NDArray[np.bool_]
    packet_bytes: NDArray[np.int32]
    duration_seconds: float
    frame_rate: float
    size_bytes: int
    mtime_ns: int
    reach: FrameReach = field(repr=False)
    pts_exactness: str = "exact"
    stream_index: int = 0
    display: Display = Display()

    def __post_init__(self) -> None:
        for name, dtype in (("pts_seconds", "f8"), ("is_key", "?"), ("packet_bytes", "i4")):
            array: NDArray[np.generic] = getattr(self, name)
            _check_map(name, array, (self.num_frames,), np.dtype(dtype))
            array.setflags(write=False)

    @property
    def shown(self) -> dict[str, Any]:
        """How pictures are shown, ready for JSON; see ``Display.facts``."""
        return {
            "stream": self.stream_index,
            **self.display.facts((self.num_columns, self.num_rows)),
        }

    def __repr__(self) -> str:
        return (
            f"VideoIndex({self.path!r}, {self.codec_name}, {self.width_px}x{self.height_px}, "
            f"rotation {self.rotation_degrees}, {self.num_frames} frames, "
            f"{self.duration_seconds:.3f} s, {self.frame_rate:.3f} frames/s)"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class CodecFrame:
    """One frame, with what the codec knows about it; all maps as shown (cropped and turned).

    Attributes:
        index: presentation-order number, from 0.
        pts_seconds: the container's time.
        duration_seconds: until the next frame.
        pict_type: ``I``, ``P`` or ``B``, as decoded.
        is_key: the packet's key flag.
        packet_bytes: size of the coded picture.
        picture: the pixels; ``rgb()`` and ``luma()`` convert them when called.
        motion: int16 (2, h, w, 2), per list (L0, L1) the vector (x, y) in quarter pixels from the
            block to its reference; zero where ``motion_ref`` is 0.
        motion_ref: int16 (2, h, w), signed distance in frames to the reference; 0 = no vector. A
            backend whose motion is called ``direction`` gives only the sign: -1 past, 1 future.
        residual_y: int16 (H, W), the luma that prediction did not explain.
        bits: float32 (ceil(H / 16), ceil(W / 16)), bits spent per block, or None.
        qp: uint8, same shape, quantiser, or None.
        residual_blocks: bool, same shape, false where ``residual_y`` is known to be zero, or None
            where nothing is known; saves looking.

    ``motion``, ``motion_ref`` and ``residual_y`` are None together, where only pixels were asked
    for.
    """

    index: int
    pts_seconds: float
    duration_seconds: float
    pict_type: str
    is_key: bool
    packet_bytes: int
    picture: Picture = field(repr=False)
    motion: NDArray[np.int16] | None = None
    motion_ref: NDArray[np.int16] | None = None
    residual_y: NDArray[np.int16] | None = None
    bits: NDArray[np.float32] | None = None
    qp: NDArray[np.uint8] | None = None
    residual_blocks: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.pict_type not in ("I", "P", "B"):
            raise ValueError(f"pict_type must be I, P or B, got {self.pict_type!r}")
        if not (self.motion is None) == (self.motion_ref is None) == (self.residual_y is None):
            raise ValueError("motion, motion_ref and residual_y must be given together or not")
        for name, shape, dtype in _map_rules(self.picture.num_rows, self.picture.num_columns):
            array: NDArray[np.generic] | None = getattr(self, name)
            if array is not None:
                _check_map(name, array, shape, dtype)

    def rgb(self, size_px: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return the pixels as shown, by the matrix and range that the stream declares; HDR as SDR.

        Args:
            size_px: (width, height) to scale to, bicubically and in the same step as the colours,
                which costs a third of scaling afterwards; None = as shown.

        Returns:
            uint8 (height, width, 3).
        """
        return self.picture.rgb(size_px)

    def planes(self, luma_px: tuple[int, int], chroma_px: tuple[int, int]) -> Planes:
        """Return samples scaled bicubically to (width, height), colours as the stream holds them.

        A third of the cost of ``rgb(size_px)``, where ``chroma_px`` is half of ``luma_px``.
        """
        return self.picture.planes(luma_px, chroma_px)

    def luma(self) -> NDArray[np.uint8]:
        """Return coded luma, turned as shown: uint8 (H, W), the stored values of the samples (of
        HDR too), those of more than 8 bit rounded."""
        return self.picture.luma()

    def __repr__(self) -> str:
        maps = ", ".join(
            f"{name} {'None' if array is None else array.shape}"
            for name, array in (
                ("motion", self.motion),
                ("residual_y", self.residual_y),
                ("bits", self.bits),
                ("qp", self.qp),
            )
        )
        return (
            f"CodecFrame({self.index}, {self.pts_seconds:.4f} s, {self.pict_type}"
            f"{' key' if self.is_key else ''}, {self.packet_bytes} bytes, "
            f"{self.picture.width_px}x{self.picture.height_px}, {maps})"
        )


def frames_at_once(width_px: int, height_px: int) -> int:
    """Return how many pictures of a size are decoded, or worked on, one after the other.

    Alternating per frame evicts the processor's caches, which slows small pictures down.
    """
    return max(1, min(_AT_ONCE_PX // (width_px * height_px), _MAX_AT_ONCE))


def map_shape(height_px: int, width_px: int, cell_px: int) -> tuple[int, int]:
    """Return rows and columns of cells that cover a picture; the last ones may be partial."""
    return -(-height_px // cell_px), -(-width_px // cell_px)


@lru_cache
def _map_rules(
    height_px: int, width_px: int
) -> tuple[tuple[str, tuple[int, ...], "np.dtype[np.generic]"], ...]:
    """Name, shape and type of each map of a frame."""
    cells = map_shape(height_px, width_px, CELL_PX)
    blocks = map_shape(height_px, width_px, BLOCK_PX)
    return (
        ("motion", (2, *cells, 2), np.dtype("i2")),
        ("motion_ref", (2, *cells), np.dtype("i2")),
        ("residual_y", (height_px, width_px), np.dtype("i2")),
        ("bits", blocks, np.dtype("f4")),
        ("qp", blocks, np.dtype("u1")),
        ("residual_blocks", blocks, np.dtype("?")),
    )


def _check_map(
    name: str, array: NDArray[np.generic], shape: tuple[int, ...], dtype: "np.dtype[np.generic]"
) -> None:
    """Raise ValueError unless the array has the shape and the type."""
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name} must be {dtype} {shape}, got {array.dtype} {array.shape}")
