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

from cv_reader.errors import UnsupportedVideoError
from cv_reader.media.frames import BLOCK_PX, CELL_PX, CodecFrame
from cv_reader.select.config import PIXEL_SIGNALS, AssetConfig
from cv_reader.select.geometry import Letterbox
from cv_reader.select.motion import (
    coarse_motion,
    frame_velocity,
    motion_energy,
    whole_pixel_motion,
)
from cv_reader.select.percentiles import float_percentile, integer_percentile
from cv_reader.select.pooling import CellPool, SparseMap

_ONE = np.float32(1)
_MIN_RESIDUAL_SCALE = 1.0
_MOST_RESIDUAL = 255.0
_TEXTURE = 4.0

SUMMED = ("bits_between", "residual_between")
"""Signals that sum over all pictures between slots."""

Scores = NDArray[np.float32]


def needs_signals(signal: str) -> bool:
    """Return whether a signal needs more than the decoded pixels."""
    return signal not in ("framediff", *PIXEL_SIGNALS)


class CellScorer:
    """Scores the cells of one video's frames, in increasing order of frames.

    Args:
        letterbox: place of the frames in the square.
        config: names the signal, weights, percentiles and compensation.
    """

    def __init__(self, letterbox: Letterbox, config: AssetConfig) -> None:
        self._letterbox = letterbox
        self._config = config
        self._pools: dict[int, CellPool] = {}
        self._previous_luma: NDArray[np.uint8] | None = None
        self._guess = 0
        self._passed = np.zeros((letterbox.grid, letterbox.grid), np.float32)

    def score(self, frame: CodecFrame) -> Scores:
        """Sum of the mixed energy over the pixels of each cell: float32 (g, g), >= 0.

        Raises:
            UnsupportedVideoError: if the frame lacks what the signal needs.
        """
        return SCORES[self._config.signal](self, frame)

    def reference(self, frame: CodecFrame) -> Scores:
        """Return motion and residual as the reference implementation mixes them.

        Its vectors are those of list 0 in whole pixels; the residual is the true one.
        """
        return self._mixed(self.reference_mv(frame), frame)

    def textured(self, frame: CodecFrame) -> Scores:
        """Return ``mv_residual`` whose motion counts only where a block is coded or textured.

        An encoder skips a flat block with any predicted vector: that is no evidence of motion.
        """
        motion, motion_ref = _motion_of(frame)
        if frame.residual_y is None:
            raise _lacking(frame, "residual")
        is_evident = _coded_blocks(frame.residual_y) | textured_blocks(frame.luma())
        cells = BLOCK_PX // CELL_PX
        height, width = motion_ref.shape[1:]
        # A flag per block becomes one per cell of the motion; at the edge blocks may be cut.
        here = is_evident.repeat(cells, axis=0).repeat(cells, axis=1)[:height, :width]
        return self._mixed(self._moving(motion * here[..., None], motion_ref * here), frame)

    def intra_shown(self, frame: CodecFrame) -> Scores:
        """Return ``reference``, but of intra pictures the luma difference to the slot before.

        An intra picture has a residual everywhere, whether or not anything is new in it.
        """
        differences = self.framediff(frame)
        return differences if frame.pict_type == "I" else self.reference(frame)

    def pass_by(self, frame: CodecFrame) -> None:
        """Add what a frame between two slots holds, for the signals that sum over all frames."""
        if self._config.signal not in SUMMED:
            return
        if self._config.signal == "bits_between":
            if frame.bits is None:
                raise _lacking(frame, "bits")
            found = self._pool(BLOCK_PX).sums(frame.bits)
        else:
            if frame.residual_y is None:
                raise _lacking(frame, "residual")
            values = SparseMap(frame.residual_y, frame.residual_blocks)
            found = self._pool(1).clipped_sums(values, _MOST_RESIDUAL) * np.float32(_MOST_RESIDUAL)
        if frame.pict_type != "I":
            self._passed += found

    def summed(self, frame: CodecFrame) -> Scores:
        """Return what all pictures since the last slot spent, intra pictures left out.

        Bits, or magnitudes of the residual, are not divided by a percentile: a slot in which
        nothing happens keeps nothing.
        """
        self.pass_by(frame)
        found, self._passed = self._passed, np.zeros_like(self._passed)
        return found

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
        # Percentiles are of cells of 4 x 4: a coarser map counts each element several times.
        times = (step_px // CELL_PX) ** 2
        aspect = self._letterbox.sample_aspect
        if aspect != 1:
            # Vectors count samples; speed is that of the picture as shown.
            velocity[0] *= np.float32(aspect)
        config = self._config
        energy = motion_energy(velocity, config.mv_compensate, config.mv_pct, times, aspect)
        return self._pool(step_px).sums(energy)

    def residual(self, frame: CodecFrame) -> Scores:
        """Return the energy of the residual, which motion compensation could not predict."""
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


SCORES: dict[str, Callable[[CellScorer, CodecFrame], Scores]] = {
    "reference": CellScorer.reference,
    "mv_residual": CellScorer.mv_residual,
    "mv": CellScorer.mv,
    "residual": CellScorer.residual,
    "framediff": CellScorer.framediff,
    "bits": CellScorer.bits,
    "textured": CellScorer.textured,
    "intra_shown": CellScorer.intra_shown,
    "bits_between": CellScorer.summed,
    "residual_between": CellScorer.summed,
}


def _block_starts(shape: tuple[int, ...]) -> list[NDArray[np.intp]]:
    """Return the first row and the first column of each block of 16 x 16."""
    return [np.arange(0, side, BLOCK_PX, dtype=np.intp) for side in shape]


def _coded_blocks(residual: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Return the blocks of 16 x 16 that hold any residual: bool (ceil(H / 16), ceil(W / 16))."""
    rows, columns = _block_starts(residual.shape)
    return np.logical_or.reduceat(np.logical_or.reduceat(residual != 0, rows, 0), columns, 1)


def textured_blocks(luma: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the blocks of 16 x 16 whose luma has a standard deviation of at least 4 levels:
    bool (ceil(H / 16), ceil(W / 16))."""
    rows, columns = _block_starts(luma.shape)

    def sums(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)

    values = luma.astype(np.float32)
    # Variance as the mean of squares less the square of the mean; blocks at the edge hold fewer.
    count = sums(np.ones_like(values))
    means = sums(values) / count
    return sums(values * values) / count - means * means >= _TEXTURE**2


def _motion_of(frame: CodecFrame) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    if frame.motion is None or frame.motion_ref is None:
        raise _lacking(frame, "motion")
    return frame.motion, frame.motion_ref


def _lacking(frame: CodecFrame, what: str) -> UnsupportedVideoError:
    return UnsupportedVideoError(
        f"frame {frame.index}",
        f"the backend gives no {what} for it; choose another --signal or --backend",
    )
