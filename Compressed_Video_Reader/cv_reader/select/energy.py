"""Energy of each cell of the padded square: how much of a frame is new there.

One implementation for training and evaluation. A frame's motion and residual are each divided by
their own 95th percentile and clipped to 1, mixed by weight, resized bilinearly to the square and
summed per cell. All of this but the clipping is linear, so cells are added up from the source maps
directly: the resized map never exists, and only elements that it would read are touched.

Axis letters: H, W source pixels; h, w elements of a coarser map; g cells along a side.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.errors import UnsupportedVideoError
from cv_reader.media.frames import BLOCK_PX, CELL_PX, CodecFrame
from cv_reader.select.camera import camera_velocity
from cv_reader.select.config import AssetConfig
from cv_reader.select.geometry import Letterbox
from cv_reader.select.percentiles import float_percentile, integer_percentile
from cv_reader.select.pooling import CellPool, SparseMap

_PX_PER_QPEL = np.float32(0.25)
_ONE, _HALF = np.float32(1), np.float32(0.5)
_MIN_RESIDUAL_SCALE = 1.0
_MIN_MOTION_SCALE = 1e-6

Scores = NDArray[np.float32]


def needs_signals(signal: str) -> bool:
    """Return whether a signal needs more than the decoded pixels."""
    return signal != "framediff"


class CellScorer:
    """Scores the cells of one video's frames, in increasing order of frames.

    Args:
        letterbox: where the frames lie in the square.
        config: names the signal, weights, percentiles and compensation.
    """

    def __init__(self, letterbox: Letterbox, config: AssetConfig) -> None:
        self._letterbox = letterbox
        self._config = config
        self._pools: dict[int, CellPool] = {}
        self._previous_luma: NDArray[np.uint8] | None = None
        self._guess = 0

    def score(self, frame: CodecFrame) -> Scores:
        """Sum of the mixed energy over the pixels of each cell: float32 (g, g), >= 0.

        Raises:
            UnsupportedVideoError: if the frame lacks what the signal needs.
        """
        return _SIGNALS[self._config.signal](self, frame)

    def reference(self, frame: CodecFrame) -> Scores:
        """Return motion and residual as the reference implementation mixes them.

        Its vectors are those of list 0 in whole pixels; the residual is the true one.
        """
        return self._mixed(self.reference_mv(frame), frame)

    def mv_residual(self, frame: CodecFrame) -> Scores:
        """Return motion and residual, mixed by weight."""
        return self._mixed(self.mv(frame), frame)

    def _mixed(self, motion: Scores, frame: CodecFrame) -> Scores:
        weight_mv, weight_residual = self._config.w_mv, self._config.w_res
        total = weight_mv + weight_residual
        scores = motion * np.float32(weight_mv / total)
        scores += self.residual(frame) * np.float32(weight_residual / total)
        return scores

    def mv(self, frame: CodecFrame) -> Scores:
        """Return motion relative to the camera."""
        return self._moving(*_motion_of(frame))

    def reference_mv(self, frame: CodecFrame) -> Scores:
        """Return motion relative to the camera, as the reference implementation sees it."""
        return self._moving(*whole_pixel_motion(*_motion_of(frame)))

    def _moving(self, motion: NDArray[np.int16], motion_ref: NDArray[np.int16]) -> Scores:
        motion, motion_ref, step_px = coarse_motion(motion, motion_ref)
        velocity = frame_velocity(motion, motion_ref)
        times = (step_px // CELL_PX) ** 2
        aspect = self._letterbox.sample_aspect
        if aspect != 1:
            # Vectors count samples; speed is that of the picture as shown.
            velocity[0] *= np.float32(aspect)
        config = self._config
        energy = motion_energy(velocity, config.mv_compensate, config.mv_pct, times, aspect)
        return self._pool(step_px).sums(energy)

    def residual(self, frame: CodecFrame) -> Scores:
        """What motion compensation could not predict."""
        if frame.residual_y is None:
            raise _lacking(frame, "residual")
        return self._magnitudes(SparseMap(frame.residual_y, frame.residual_blocks))

    def framediff(self, frame: CodecFrame) -> Scores:
        """Luma difference to the previous frame that was scored; the first frame scores 0."""
        luma = frame.luma()
        previous, self._previous_luma = self._previous_luma, luma
        if previous is None:
            return np.zeros((self._letterbox.grid, self._letterbox.grid), np.float32)
        return self._magnitudes(SparseMap(np.maximum(luma, previous) - np.minimum(luma, previous)))

    def bits(self, frame: CodecFrame) -> Scores:
        """Bits spent, where the backend counts them."""
        if frame.bits is None:
            raise _lacking(frame, "bits")
        scale = max(float_percentile(frame.bits, self._config.res_pct), _MIN_RESIDUAL_SCALE)
        return self._pool(BLOCK_PX).sums(np.minimum(frame.bits / np.float32(scale), _ONE))

    def _magnitudes(self, values: SparseMap) -> Scores:
        """Magnitudes divided by their percentile (at least 1) and clipped to 1."""
        percentile = integer_percentile(
            values.magnitudes, self._config.res_pct, self._guess, values.size
        )
        self._guess = int(percentile)
        return self._pool(1).clipped_sums(values, max(percentile, _MIN_RESIDUAL_SCALE))

    def _pool(self, step_px: int) -> CellPool:
        if step_px not in self._pools:
            self._pools[step_px] = CellPool(self._letterbox, step_px)
        return self._pools[step_px]


_SIGNALS: dict[str, Callable[[CellScorer, CodecFrame], Scores]] = {
    "reference": CellScorer.reference,
    "mv_residual": CellScorer.mv_residual,
    "mv": CellScorer.mv,
    "residual": CellScorer.residual,
    "framediff": CellScorer.framediff,
    "bits": CellScorer.bits,
}


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


def _motion_of(frame: CodecFrame) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    if frame.motion is None or frame.motion_ref is None:
        raise _lacking(frame, "motion")
    return frame.motion, frame.motion_ref


def coarse_motion(
    motion: NDArray[np.int16], motion_ref: NDArray[np.int16]
) -> tuple[NDArray[np.int16], NDArray[np.int16], int]:
    """The lists of vectors in use, by blocks of twice the size as long as all of these move as one.

    Encoders seldom choose blocks smaller than 8 pixels. Percentiles and sums do not change: every
    cell that is left stands for four.

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
    reference lies. Where only the direction of references is known the distance is +-1, so that
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
        times: how many cells each one stands for.
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


def _lacking(frame: CodecFrame, what: str) -> UnsupportedVideoError:
    return UnsupportedVideoError(
        f"frame {frame.index}",
        f"the backend gives no {what} for it; choose another --signal or --backend",
    )
