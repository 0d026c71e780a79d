"""Energy of each cell of the padded square: how much of a frame is new there.

One implementation for training and evaluation. A frame's motion and residual are each divided by
their own 95th percentile and clipped to 1, mixed by weight, resized bilinearly to the square and
summed per cell. All of this but the clipping is linear, so cells are added up from the source maps
directly: the resized map never exists, and only elements that it would read are touched.

Axis letters: H, W source pixels; h, w elements of a coarser map; g cells along a side.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cv_reader.asset_config import AssetConfig
from cv_reader.camera import camera_velocity
from cv_reader.errors import UnsupportedVideoError
from cv_reader.frames import BLOCK_PX, CELL_PX, CodecFrame
from cv_reader.geometry import AxisSampling, Letterbox
from cv_reader.percentiles import float_percentile, integer_percentile

_PX_PER_QPEL = np.float32(0.25)
_ONE, _HALF = np.float32(1), np.float32(0.5)
_MIN_RESIDUAL_SCALE = 1.0
_MIN_MOTION_SCALE = 1e-6

Scores = NDArray[np.float32]


def needs_signals(signal: str) -> bool:
    """Whether a signal needs more than the decoded pixels."""
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
        self._samplings: dict[int, tuple[AxisSampling, AxisSampling]] = {}
        self._previous_luma: NDArray[np.uint8] | None = None
        self._guess = 0

    def score(self, frame: CodecFrame) -> Scores:
        """Sum of the mixed energy over the pixels of each cell: float32 (g, g), >= 0.

        Raises:
            UnsupportedVideoError: if the frame lacks what the signal needs.
        """
        return _SIGNALS[self._config.signal](self, frame)

    def mv_residual(self, frame: CodecFrame) -> Scores:
        """Motion and residual, mixed by weight."""
        weight_mv, weight_residual = self._config.w_mv, self._config.w_res
        total = weight_mv + weight_residual
        scores = self.mv(frame) * np.float32(weight_mv / total)
        scores += self.residual(frame) * np.float32(weight_residual / total)
        return scores

    def mv(self, frame: CodecFrame) -> Scores:
        """Motion relative to the camera."""
        if frame.motion is None or frame.motion_ref is None:
            raise _lacking(frame, "motion")
        velocity = frame_velocity(frame.motion, frame.motion_ref)
        energy = motion_energy(velocity, self._config.mv_compensate, self._config.mv_pct)
        return self._sum_cells(energy, CELL_PX)

    def residual(self, frame: CodecFrame) -> Scores:
        """What motion compensation could not predict."""
        if frame.residual_y is None:
            raise _lacking(frame, "residual")
        return self._magnitudes(np.abs(frame.residual_y))

    def framediff(self, frame: CodecFrame) -> Scores:
        """Luma difference to the previous frame that was scored; the first frame scores 0."""
        luma = frame.luma()
        previous, self._previous_luma = self._previous_luma, luma
        if previous is None:
            return np.zeros((self._letterbox.grid, self._letterbox.grid), np.float32)
        return self._magnitudes(np.maximum(luma, previous) - np.minimum(luma, previous))

    def bits(self, frame: CodecFrame) -> Scores:
        """Bits spent, where the backend counts them."""
        if frame.bits is None:
            raise _lacking(frame, "bits")
        scale = max(float_percentile(frame.bits, self._config.res_pct), _MIN_RESIDUAL_SCALE)
        return self._sum_cells(np.minimum(frame.bits / np.float32(scale), 1), BLOCK_PX)

    def _magnitudes(self, magnitudes: NDArray[np.int16] | NDArray[np.uint8]) -> Scores:
        """Integers (H, W), >= 0, divided by their percentile (at least 1) and clipped to 1."""
        percentile = integer_percentile(magnitudes, self._config.res_pct, self._guess)
        self._guess = int(percentile)
        scale = max(percentile, _MIN_RESIDUAL_SCALE)
        return self._sum_cells(magnitudes, 1, ceiling=scale)

    def _sum_cells(
        self,
        values: NDArray[np.int16] | NDArray[np.uint8] | NDArray[np.float32],
        step_px: int,
        ceiling: float = 1.0,
    ) -> Scores:
        """Cell sums of ``min(values / ceiling, 1)``, resized to the square."""
        box = self._letterbox
        if step_px not in self._samplings:
            self._samplings[step_px] = (box.row_sampling(step_px), box.column_sampling(step_px))
        rows, columns = self._samplings[step_px]
        strips = np.empty((len(rows.starts), values.shape[1]), np.float32)
        # Row of cells by row of cells: what is worked on stays in the processor's cache.
        for strip, (start, end) in zip(strips, rows.groups(), strict=True):
            picked = values[rows.indices[start:end]].astype(np.float32)
            np.minimum(picked, np.float32(ceiling), out=picked)
            picked *= rows.weights[start:end, None]
            strip[:] = picked.sum(axis=0)
        sums = np.add.reduceat(strips[:, columns.indices] * columns.weights, columns.starts, axis=1)
        scores = np.zeros((box.grid, box.grid), np.float32)
        scores[rows.cells, columns.cells] = sums / np.float32(ceiling)
        return scores


_SIGNALS: dict[str, Callable[[CellScorer, CodecFrame], Scores]] = {
    "mv_residual": CellScorer.mv_residual,
    "mv": CellScorer.mv,
    "residual": CellScorer.residual,
    "framediff": CellScorer.framediff,
    "bits": CellScorer.bits,
}


def frame_velocity(motion: NDArray[np.int16], motion_ref: NDArray[np.int16]) -> NDArray[np.float32]:
    """Motion of the picture in pixels per frame, averaged over the reference lists in use.

    A vector divided by the signed distance to its reference is a velocity whichever way the
    reference lies. Where only the direction of references is known the distance is +-1, so that
    distances do not scale anything.

    Args:
        motion: int16 (2, h, w, 2), per list (x, y) in quarter pixels from block to reference.
        motion_ref: int16 (2, h, w), signed distance to the reference in frames, 0 = no vector.

    Returns:
        float32 (2, h, w), x and y; 0 where no list has a vector.
    """
    velocity = np.zeros((2, *motion_ref.shape[1:]), np.float32)
    lists = [index for index in range(2) if motion_ref[index].any()]
    for index in lists:
        distance = motion_ref[index].astype(np.float32)
        unused = distance == 0
        distance[unused] = np.inf  # a vector over an infinite time is no motion
        per_frame = np.divide(_PX_PER_QPEL, distance)
        velocity[0] += motion[index, :, :, 0] * per_frame
        velocity[1] += motion[index, :, :, 1] * per_frame
    if len(lists) == 2:
        velocity *= np.where((motion_ref[0] != 0) & (motion_ref[1] != 0), _HALF, _ONE)
    return velocity


def motion_energy(
    velocity: NDArray[np.float32], compensate: str, percentile: float
) -> NDArray[np.float32]:
    """Speed after taking out the camera's motion, over its percentile, clipped to 1.

    Args:
        velocity: float32 (2, h, w). Cells without a vector count as still.
        compensate: how the camera's motion is found; see ``camera``.
        percentile: in (0, 100].

    Returns:
        float32 (h, w) in [0, 1].
    """
    if not velocity.any():
        return np.zeros(velocity.shape[1:], np.float32)
    relative = velocity - camera_velocity(velocity, compensate)
    speed = np.sqrt(relative[0] ** 2 + relative[1] ** 2)
    scale = max(float_percentile(speed, percentile), _MIN_MOTION_SCALE)
    return np.minimum(speed / np.float32(scale), _ONE)


def _lacking(frame: CodecFrame, what: str) -> UnsupportedVideoError:
    return UnsupportedVideoError(
        f"frame {frame.index}",
        f"the backend gives no {what} for it; choose another --signal or --backend",
    )
