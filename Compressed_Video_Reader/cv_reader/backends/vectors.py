"""Motion vectors as FFmpeg exports them, drawn onto a grid of 8 x 8 pixel blocks.

FFmpeg gives one record per block: its centre, its size, a vector in 1 / scale pixels from the block
to its reference, and the direction (source < 0: a past picture, list 0; > 0: a future one, list 1).
Partitions below 8 x 8 come out as one vector per 8 x 8 block.

Axis legend: V vectors, y and x rows and columns of 8 x 8 blocks.
"""

from typing import Any, cast

import numpy as np
from av.sidedata.motionvectors import MotionVectors
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from cv_reader.media.container import side_data
from cv_reader.media.frames import map_shape

VECTOR_PX = 8
"""The smallest block of an exported vector."""

_SIZE_STRIDE = 256

QPEL = 4
"""Quarter pixels per pixel."""

_RECORD = np.dtype(
    [
        ("source", "i4"),
        *((name, "u1") for name in ("w", "h")),
        *((name, "i2") for name in ("src_x", "src_y", "dst_x", "dst_y")),
        ("flags", "u8"),
        *((name, "i4") for name in ("motion_x", "motion_y")),
        ("motion_scale", "u2"),
    ],
    align=True,
)
"""FFmpeg's record."""


def read_vectors(frame: VideoFrame, path: str) -> NDArray[Any]:
    """Return FFmpeg's records of a picture, (V,) structured, a copy."""
    data = side_data(frame, "MOTION_VECTORS", path)
    if data is None:
        return np.zeros(0, _RECORD)
    return cast(MotionVectors, data).to_ndarray().copy()


def draw_vectors(
    vectors: NDArray[Any], height_px: int, width_px: int
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Draw records onto the 8 x 8 blocks of a picture; parts outside the picture are dropped.

    Args:
        vectors: (V,) records;
            blocks are multiples of 8 in size and place.

    Returns:
        motion int16 (2, y, x, 2), quarter pixels, (x, y); direction int16 (2, y, x): -1 where
        list 0 and 1 where list 1 is used, else 0.
    """
    rows, columns = map_shape(height_px, width_px, VECTOR_PX)
    motion = np.zeros((2, rows, columns, 2), np.int16)
    direction = np.zeros((2, rows, columns), np.int16)
    sizes = vectors["h"].astype(np.int32) * _SIZE_STRIDE + vectors["w"]
    for size in np.unique(sizes).tolist():
        block = vectors[(sizes == size) & (vectors["motion_scale"] > 0)]
        high_px, wide_px = divmod(size, _SIZE_STRIDE)
        top = (block["dst_y"].astype(np.int32) - high_px // 2) // VECTOR_PX
        left = (block["dst_x"].astype(np.int32) - wide_px // 2) // VECTOR_PX
        list_index, sign = (block["source"] > 0).astype(np.intp), np.sign(block["source"])
        values = _quarter_pixels(block)
        for y, x in np.ndindex(high_px // VECTOR_PX, wide_px // VECTOR_PX):
            inside = (top + y >= 0) & (top + y < rows) & (left + x >= 0) & (left + x < columns)
            place = (list_index[inside], top[inside] + y, left[inside] + x)
            motion[place] = values[inside]
            direction[place] = sign[inside]
    return motion, direction


def _quarter_pixels(block: NDArray[Any]) -> NDArray[np.int16]:
    """(V, 2): the vectors (x, y) in quarter pixels."""
    parts = np.stack([block["motion_x"], block["motion_y"]], axis=-1) * QPEL
    return (parts // block["motion_scale"][:, None].astype(np.int32)).astype(np.int16)
