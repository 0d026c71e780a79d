"""What stock FFmpeg (as PyAV brings it) says about a file: pictures, and H.264 motion vectors.

Axis legend: pictures (H, W); h4, w4 = ceil(H / 4), ceil(W / 4).
"""

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags2
from numpy.typing import NDArray

_TYPES = "?IPBSipb"


@dataclass(frozen=True)
class ExportedMotion:
    """One picture's exported vectors, spread over 4x4 cells.

    Attributes:
        pict_type: I, P or B.
        vectors: int16 (2, h4, w4, 2), lists L0 and L1, (x, y) in quarter pixels.
        direction: int8 (2, h4, w4), -1 past (list 0), 1 future (list 1), 0 none.
        hits: int16 (2, h4, w4), how many exported blocks cover a cell.
        is_certain: bool (2, h4, w4), the cells that the export speaks of: of an 8x8 block it gives
            the first part alone.
    """

    pict_type: str
    vectors: NDArray[np.int16]
    direction: NDArray[np.int8]
    hits: NDArray[np.int16]
    is_certain: NDArray[np.bool_]


def decoded_luma(path: Path, *, skip_loop_filter: bool = False) -> list[NDArray[np.integer]]:
    """Every picture's luma in presentation order, uint8 or (above 8 bit) uint16 (H, W)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        if skip_loop_filter:
            stream.codec_context.options = {"skip_loop_filter": "all"}
        return [luma_plane(frame) for frame in container.decode(stream)]


def decoded_rgb(path: Path) -> list[NDArray[np.uint8]]:
    """Every picture in presentation order, uint8 (H, W, 3)."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def luma_plane(frame: av.VideoFrame) -> NDArray[np.integer]:
    """The stored luma samples of a planar YUV or grey picture."""
    plane = frame.planes[0]
    depth = frame.format.components[0].bits
    dtype = np.dtype("u1" if depth == 8 else "<u2")
    rows = np.frombuffer(plane, dtype).reshape(plane.height, plane.line_size // dtype.itemsize)
    return rows[: frame.height, : frame.width].copy()


def exported_motion(path: Path) -> Iterator[ExportedMotion]:
    """The vectors that stock FFmpeg exports for each picture, decoded by one thread."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.flags2 |= Flags2.export_mvs
        for number, frame in enumerate(container.decode(stream)):
            yield _spread(frame)
            if number % 64 == 63:
                gc.collect()  # side data keeps pictures alive in a reference cycle


def _spread(frame: av.VideoFrame) -> ExportedMotion:
    grid = (2, -(-frame.height // 4), -(-frame.width // 4))
    vectors, hits = np.zeros((*grid, 2), np.int16), np.zeros(grid, np.int16)
    direction, certain = np.zeros(grid, np.int8), np.zeros(grid, np.bool_)
    exported = frame.side_data.get("MOTION_VECTORS")
    for vector in [] if exported is None else exported.to_ndarray():
        side = 1 if vector["source"] > 0 else 0
        top = (int(vector["dst_y"]) - int(vector["h"]) // 2) // 4
        left = (int(vector["dst_x"]) - int(vector["w"]) // 2) // 4
        block = (
            side,
            slice(max(top, 0), top + int(vector["h"]) // 4),
            slice(max(left, 0), left + int(vector["w"]) // 4),
        )
        assert vector["motion_scale"] == 4
        vectors[block] = vector["motion_x"], vector["motion_y"]
        direction[block] = 1 if side else -1
        hits[block] += 1
        if vector["w"] == vector["h"] == 8:
            block = (side, slice(top, top + 1), slice(left, left + 1))
        certain[block] = True
    return ExportedMotion(_TYPES[int(frame.pict_type)], vectors, direction, hits, certain)
