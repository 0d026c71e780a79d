"""The identity that an exact reader fulfils: decoded == clip(prediction + residual).

``pictures`` come from stock FFmpeg with its in-loop filters skipped. A stream coded with filters
then drifts, but alike in the picture and in its references, so that the identity still holds, with
the very vectors and residuals that a normal decode gives.

Axis legend: pictures (H, W) by presentation index.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cv_reader.media.frames import CodecFrame

from .compensator import Compensator, Weight, explicit_weighting

_CODED_BLOCK_PX = 16
"""Pictures are coded in whole blocks; the part beyond the shown size is unknown here. H.265 may
use smaller ones, but x265's fast presets use these too."""

_WEIGHTS_PER_REFERENCE = 4
_DARKER = Weight(offset=-1)


@dataclass(kw_only=True)
class Verdict:
    """What a comparison found.

    Attributes:
        inter_pixels: compared pixels.
        wrong_pixels: of these, how many break the identity.
        intra_pixels: pixels without a vector, not compared.
        phases: int (2, 4, 4), compared cells by list and quarter phase (y, x).
        distances: per list, the distances to references that occur.
        first_wrong: frame, row, column, decoded, predicted and residual of the first breach.
        weights: fitted explicit weights, by frame, distance, and number of the attempt.
    """

    inter_pixels: int = 0
    wrong_pixels: int = 0
    intra_pixels: int = 0
    phases: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 4, 4), np.int64))
    distances: tuple[set[int], set[int]] = field(default_factory=lambda: (set(), set()))
    first_wrong: str = ""
    weights: dict[tuple[int, int, int], Weight] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.wrong_pixels} of {self.inter_pixels} inter pixels wrong "
            f"({self.intra_pixels} intra); first: {self.first_wrong or 'none'}"
        )


def check_identity(
    frames: Sequence[CodecFrame],
    pictures: Sequence[NDArray[np.integer]],
    *,
    standard: str,
    bit_depth: int = 8,
    implicit_weights: bool = False,
    fit_weights: bool = False,
) -> Verdict:
    """Compare every inter pixel of all frames of a clip.

    Args:
        fit_weights: where the unweighted prediction fails, look for a few explicit weights per
            frame and reference that explain the rest.
    """
    compensator = Compensator(
        codec=standard,
        references=dict(enumerate(pictures)),
        bit_depth=bit_depth,
        implicit_weights=implicit_weights,
    )
    verdict = Verdict()
    for frame, picture in zip(frames, pictures, strict=True):
        assert frame.motion is not None and frame.motion_ref is not None
        assert frame.residual_y is not None
        assert not frame.motion[frame.motion_ref == 0].any(), "a vector without a reference"
        predicted, inter = compensator.predict(frame.index, frame.motion, frame.motion_ref)
        wrong = inter & (np.clip(predicted + frame.residual_y, 0, compensator.limit) != picture)
        known = _inside_the_coded_picture(frame)
        wrong &= known
        if fit_weights and wrong.any():
            wrong = _explained_by_weights(
                compensator, frame, picture, wrong, known=known, verdict=verdict
            )
        _count(verdict, frame, inter & known, wrong)
        verdict.intra_pixels += int((~inter).sum())
        if wrong.any() and not verdict.first_wrong:
            row, column = (int(value) for value in np.argwhere(wrong)[0])
            verdict.first_wrong = (
                f"frame {frame.index} ({frame.pict_type}) row {row} column {column}: decoded "
                f"{picture[row, column]}, predicted {predicted[row, column]}, residual "
                f"{frame.residual_y[row, column]}, motion "
                f"{frame.motion[:, row // 4, column // 4].tolist()}, references "
                f"{frame.motion_ref[:, row // 4, column // 4].tolist()}, "
                f"{int(wrong.sum())} in this frame"
            )
    return verdict


def _count(
    verdict: Verdict, frame: CodecFrame, inter: NDArray[np.bool_], wrong: NDArray[np.bool_]
) -> None:
    assert frame.motion is not None and frame.motion_ref is not None
    verdict.inter_pixels += int(inter.sum())
    verdict.wrong_pixels += int(wrong.sum())
    for side in (0, 1):
        used = frame.motion_ref[side] != 0
        verdict.distances[side].update(np.unique(frame.motion_ref[side][used]).tolist())
        phase = frame.motion[side][used] & 3
        np.add.at(verdict.phases[side], (phase[:, 1], phase[:, 0]), 1)


def _inside_the_coded_picture(frame: CodecFrame) -> NDArray[np.bool_]:
    """Pixels whose prediction reads nothing of the coded area that cropping hides."""
    assert frame.motion is not None and frame.residual_y is not None
    shape = frame.residual_y.shape
    known = np.ones(shape, np.bool_)
    for axis, component in ((0, 1), (1, 0)):
        if shape[axis] % _CODED_BLOCK_PX:
            place = np.arange(shape[axis]).reshape([-1 if axis == a else 1 for a in (0, 1)])
            vectors = frame.motion[..., component].max(0).astype(np.int64)
            reach = vectors.repeat(4, 0).repeat(4, 1)[: shape[0], : shape[1]]
            known &= place + (reach >> 2) + 4 < shape[axis]
    return known


def _explained_by_weights(
    compensator: Compensator,
    frame: CodecFrame,
    picture: NDArray[np.integer],
    wrong: NDArray[np.bool_],
    *,
    known: NDArray[np.bool_],
    verdict: Verdict,
) -> NDArray[np.bool_]:
    """What is still wrong once each reference of list 0 may carry a few explicit weights.

    A reference may be in the list several times; x264 likes to add it with an offset of -1. A
    cell counts as explained where one weight explains all of its pixels.
    """
    assert frame.motion is not None and frame.motion_ref is not None
    assert frame.residual_y is not None
    samples = compensator.one_list(frame.index, frame.motion[0], frame.motion_ref[0])
    height, width = picture.shape
    first, second = (cells.repeat(4, 0).repeat(4, 1)[:height, :width] for cells in frame.motion_ref)
    left = wrong.copy()
    for step in np.unique(first[wrong & (second == 0)]).tolist():
        for attempt in range(_WEIGHTS_PER_REFERENCE):
            here = left & (first == step) & (second == 0)
            if not here.any():
                break
            weight = _DARKER
            if attempt:
                weight = fit_weight(compensator, samples[here], (picture - frame.residual_y)[here])
            predicted = explicit_weighting(
                samples, weight, compensator.limit, compensator.uni_shift
            )
            decoded = np.clip(predicted + frame.residual_y, 0, compensator.limit)
            explained = here & ~_spread_over_cells(known & (decoded != picture))
            if explained.any():
                verdict.weights[frame.index, step, attempt] = weight
            left &= ~explained
    return left


def _spread_over_cells(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """All pixels of 4x4 cells that hold a pixel of the mask."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % 4), (0, -width % 4)))
    rows, columns = padded.shape
    cells = padded.reshape(rows // 4, 4, columns // 4, 4).any((1, 3))
    return cells.repeat(4, 0).repeat(4, 1)[:height, :width]


def fit_weight(
    compensator: Compensator, samples: NDArray[np.int32], target: NDArray[np.integer]
) -> Weight:
    """The explicit weight that reproduces most samples."""
    shift = compensator.uni_shift
    plain = samples / (1 << shift)
    usable = (target > 0) & (target < compensator.limit)
    if usable.sum() < 2 or np.ptp(plain[usable]) == 0:
        usable = np.ones_like(usable)
    centred = plain[usable] - plain[usable].mean()
    spread = float((centred**2).sum()) or 1.0
    slope = float((centred * (target[usable] - target[usable].mean())).sum()) / spread
    best, best_hits = Weight(), -1
    for denominator in range(8):
        for scale in round(slope * (1 << denominator)) + np.arange(-2, 3):
            mean = float((target[usable] - plain[usable] * scale / (1 << denominator)).mean())
            for offset in round(mean) + np.arange(-2, 3):
                weight = Weight(log2_denominator=denominator, scale=int(scale), offset=int(offset))
                predicted = explicit_weighting(samples, weight, compensator.limit, shift)
                hits = int((predicted == target).sum())
                if hits > best_hits:
                    best, best_hits = weight, hits
    return best
