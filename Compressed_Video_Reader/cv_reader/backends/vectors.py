"""Motion vectors as FFmpeg exports them, drawn onto the grid of 4 x 4 pixel cells.

FFmpeg gives one record per block: its centre, its size, a vector in 1 / scale pixels from the block
to its reference, and the direction (source < 0: a past picture, list 0; > 0: a future one, list 1).
Partitions below 8 x 8 come out as one vector per 8 x 8 block.

Axis legend: V vectors, h and w rows and columns of cells.
"""

from typing import Any, cast

import numpy as np
from av.sidedata.motionvectors import MotionVectors
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from cv_reader.container import side_data
from cv_reader.frames import CELL_PX, map_shape

QPEL = 4
"""Quarter pixels per pixel."""

_RECORD = np.dtype(
    [
        *((name, "i4") for name in ("source", "w", "h", "motion_x", "motion_y", "motion_scale")),
        *((name, "i2") for name in ("dst_x", "dst_y")),
    ]
)
"""The fields that are read, for pictures without a vector."""


def read_vectors(frame: VideoFrame, path: str) -> NDArray[Any]:
    """FFmpeg's records of a picture, (V,) structured, a copy."""
    data = side_data(frame, "MOTION_VECTORS", path)
    if data is None:
        return np.zeros(0, _RECORD)
    return cast(MotionVectors, data).to_ndarray().copy()


def draw_vectors(
    vectors: NDArray[Any], height_px: int, width_px: int
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Draw records onto the cells of a picture; parts of blocks outside of it are dropped.

    Args:
        vectors: (V,) records with source, w, h, dst_x, dst_y, motion_x, motion_y, motion_scale.

    Returns:
        motion int16 (2, h, w, 2), quarter pixels, (x, y); motion_ref int16 (2, h, w): -1 where
        list 0 and 1 where list 1 is used, else 0.
    """
    rows, columns = map_shape(height_px, width_px, CELL_PX)
    motion = np.zeros((2, rows, columns, 2), np.int16)
    motion_ref = np.zeros((2, rows, columns), np.int16)
    vectors = vectors[vectors["motion_scale"] > 0]
    for size in np.unique(vectors[["w", "h"]]):
        block = vectors[(vectors["w"] == size["w"]) & (vectors["h"] == size["h"])]
        high, wide = int(size["h"]) // CELL_PX, int(size["w"]) // CELL_PX
        top = (block["dst_y"] - int(size["h"]) // 2) // CELL_PX
        left = (block["dst_x"] - int(size["w"]) // 2) // CELL_PX
        y, x = np.broadcast_arrays(
            top[:, None, None] + np.arange(high)[:, None], left[:, None, None] + np.arange(wide)
        )
        inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
        which = np.broadcast_to(np.arange(len(block))[:, None, None], y.shape)[inside]
        place = ((block["source"] > 0).astype(np.intp)[which], y[inside], x[inside])
        motion[place] = _quarter_pixels(block)[which]
        motion_ref[place] = np.sign(block["source"])[which]
    return motion, motion_ref


def _quarter_pixels(block: NDArray[Any]) -> NDArray[np.int16]:
    """(V, 2): the vectors (x, y) in quarter pixels."""
    parts = np.stack([block["motion_x"], block["motion_y"]], axis=-1) * QPEL
    return (parts // block["motion_scale"][:, None].astype(np.int32)).astype(np.int16)
