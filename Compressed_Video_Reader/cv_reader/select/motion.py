"""Motion vectors as speed: which lists are used, how blocks are joined, what the camera adds.

Axis letters: h, w cells of a motion map.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.media.frames import CELL_PX
from cv_reader.select.camera import camera_velocity
from cv_reader.select.percentiles import float_percentile

_PX_PER_QPEL = np.float32(0.25)
_ONE, _HALF = np.float32(1), np.float32(0.5)
_MIN_MOTION_SCALE = 1e-6


def whole_pixel_motion(
    motion: NDArray[np.int16], motion_ref: NDArray[np.int16]
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Return the motion that the reference implementation sees.

    Vectors of list 0 alone, cut to whole pixels towards 0, and not divided by the distance to their
    reference. A camera that sways by fractions of a pixel so does not move at all.

    Args:
        motion: int16 (lists, h, w, 2), in quarter pixels.
        motion_ref: int16 (lists, h, w).

    Returns:
        int16 (1, h, w, 2), in quarter pixels, and int16 (1, h, w), 1 where there is a vector.
    """
    exact = motion[:1]
    # A shift to the right rounds down: towards 0 for negative numbers once 3 is added.
    whole = (exact + ((exact >> 15) & 3)) >> 2 << 2
    has_vector = motion_ref[:1] != 0
    return whole * has_vector[..., None], has_vector.astype(np.int16)


def coarse_motion(
    motion: NDArray[np.int16], motion_ref: NDArray[np.int16]
) -> tuple[NDArray[np.int16], NDArray[np.int16], int]:
    """Return the lists of vectors in use, four cells merged while all such fours move as one.

    Encoders seldom choose blocks smaller than 8 pixels. Percentiles and sums do not change: every
    merged cell counts for four.

    Args:
        motion: int16 (2, h, w, 2).
        motion_ref: int16 (2, h, w).

    Returns:
        The maps of 0, 1 or 2 lists, and how many pixels a side of their cells has.
    """
    in_use = np.flatnonzero(motion_ref.any(axis=(1, 2)))
    lists = slice(in_use[0], in_use[-1] + 1) if len(in_use) else slice(0)
    vectors, references = motion[lists].view(np.uint32)[..., 0], motion_ref[lists]
    step_px = CELL_PX
    while (coarse := _halved(vectors)) is not None:
        coarse_references = _halved(references)
        if coarse_references is None:
            break
        vectors, references, step_px = coarse, coarse_references, 2 * step_px
    return vectors[..., None].view(np.int16), references, step_px


def _halved(cells: NDArray[Any]) -> NDArray[Any] | None:
    """One cell for each square of 2 x 2, of (lists, h, w), or None if not all are of one value."""
    height, width = cells.shape[1:]
    if not cells.size or height % 2 or width % 2:
        return None
    upper = cells[:, ::2]
    if not (upper == cells[:, 1::2]).all():
        return None
    if upper.strides[2] != cells.itemsize:
        upper = np.ascontiguousarray(upper)
    # The lower half of each pair's word: several times as fast as to copy every other cell.
    left = upper.view(f"u{2 * cells.itemsize}").astype(cells.dtype)
    return left if (left == upper[:, :, 1::2]).all() else None


def frame_velocity(motion: NDArray[np.int16], motion_ref: NDArray[np.int16]) -> NDArray[np.float32]:
    """Motion of the picture in pixels per frame, averaged over the reference lists in use.

    A vector divided by the signed distance to its reference is a velocity whichever way the
    reference is. Where only the direction of references is known the distance is +-1, so that
    distances do not scale anything.

    Args:
        motion: int16 (lists, h, w, 2), per list (x, y) in quarter pixels from block to reference.
        motion_ref: int16 (lists, h, w), signed distance to the reference in frames, 0 = no vector.

    Returns:
        float32 (2, h, w), x and y; 0 where no list has a vector.
    """
    velocity = np.zeros((2, *motion_ref.shape[1:]), np.float32)
    is_used = motion_ref != 0
    for vectors, distance, has_vector in zip(motion, motion_ref, is_used, strict=True):
        per_frame = has_vector * _PX_PER_QPEL
        per_frame /= distance.astype(np.float32) + ~has_vector
        for axis, component in enumerate(velocity):
            # Converted first: arithmetic of two types is slow.
            component += vectors[..., axis].astype(np.float32) * per_frame
    if len(is_used) == 2:
        velocity *= _ONE - is_used.all(axis=0) * _HALF
    return velocity


def motion_energy(
    velocity: NDArray[np.float32],
    compensate: str,
    percentile: float,
    times: int = 1,
    aspect: float = 1.0,
) -> NDArray[np.float32]:
    """Speed after taking out the camera's motion, over its percentile, clipped to 1.

    Args:
        velocity: float32 (2, h, w). Cells without a vector count as still.
        compensate: how the camera's motion is found; see ``camera``.
        percentile: in (0, 100].
        times: how many cells each one represents.
        aspect: width of a cell to its height, as shown.

    Returns:
        float32 (h, w) in [0, 1].
    """
    if not velocity.any():
        return np.zeros(velocity.shape[1:], np.float32)
    relative = velocity - camera_velocity(velocity, compensate, times, aspect)
    np.square(relative, out=relative)
    speed = np.add(relative[0], relative[1], out=relative[0])
    np.sqrt(speed, out=speed)
    scale = max(float_percentile(speed, percentile, times), _MIN_MOTION_SCALE)
    speed /= np.float32(scale)
    return np.minimum(speed, _ONE, out=speed)
