"""Luma motion compensation written from the H.264 and H.265 standards, in numpy.

The oracle of the native reader: ``decoded == clip(prediction + residual)`` where a picture is
predicted from others and no in-loop filter changed it. Nothing here comes from a decoder.

Each reference is interpolated once per fractional phase as a whole picture, which is the same as
block by block because a predicted sample depends on the reference and on its own vector alone.

Axis legend: pictures int32 (H, W); motion int16 (2, h4, w4, 2) and motion_ref int16 (2, h4, w4) as
in ``cv_reader.CodecFrame``, h4 = ceil(H / 4); planes with a border of ``_BORDER_PX`` on every side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.int32]

_BORDER_PX = 16
_REACH_PX = 8  # beyond this distance from the picture every tap reads the same border sample

_MAX_PHASES = 160
"""Interpolated pictures to keep: 16 of each of ten references."""

_HEVC_TAPS = np.array(
    [
        [0, 0, 0, 64, 0, 0, 0, 0],
        [-1, 4, -10, 58, 17, -5, 1, 0],
        [-1, 4, -11, 40, 40, -11, 4, -1],
        [0, 1, -5, 17, 58, -10, 4, -1],
    ],
    dtype=np.int32,
)
"""H.265 table 8-11, by quarter phase; taps are at offsets -3..4."""

_H264_TAPS = np.array([1, -5, 20, 20, -5, 1], dtype=np.int32)
"""H.264 section 8.4.2.2.1; taps are at offsets -2..3."""

_H264_MEAN_OF = (
    ("G", "Gb", "b", "bH"),
    ("Gh", "bh", "bj", "bm"),
    ("h", "hj", "j", "jm"),
    ("hM", "hs", "js", "ms"),
)
"""Which samples are averaged, by quarter phase (row y, column x), in the letters of the standard:
G the full sample, b, h and j the half samples to its right, below and diagonal; H and m are G and h
one sample further right, M and s are G and b one further down."""


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One explicit weight of H.264 section 8.4.2.3.2: scale by w / 2**log2_denominator, add o."""

    log2_denominator: int = 0
    scale: int = 1
    offset: int = 0


@dataclass(kw_only=True)
class Compensator:
    """Predicts inter pictures from decoded references.

    Attributes:
        codec: ``h264`` or ``hevc``.
        references: decoded luma of pictures by presentation index, (H, W).
        bit_depth: of the luma samples.
        implicit_weights: H.264 bi-prediction weighted by distance (weighted_bipred_idc 2).
        weights: explicit H.264 weights by (list, presentation index of the reference); a picture
            that is not named is not weighted.
    """

    codec: str
    references: Mapping[int, NDArray[np.integer]]
    bit_depth: int = 8
    implicit_weights: bool = False
    weights: Mapping[tuple[int, int], Weight] = field(default_factory=dict)
    _phases: dict[tuple[int, int, int], Picture] = field(default_factory=dict, init=False)

    @property
    def limit(self) -> int:
        """The largest sample."""
        return (1 << self.bit_depth) - 1

    @property
    def uni_shift(self) -> int:
        """Bits that ``one_list`` carries beyond those of a sample."""
        return 0 if self.codec == "h264" else 14 - self.bit_depth

    def predict(
        self, index: int, motion: NDArray[np.int16], motion_ref: NDArray[np.int16]
    ) -> tuple[Picture, NDArray[np.bool_]]:
        """The prediction of picture ``index``, and where it is inter predicted.

        Returns:
            int32 (H, W), 0 where intra, and bool (H, W).
        """
        height, width = next(iter(self.references.values())).shape
        distance = [_per_pixel(motion_ref[side], height, width) for side in (0, 1)]
        parts = [self.one_list(index, motion[side], motion_ref[side]) for side in (0, 1)]
        combine = self._combine_h264 if self.codec == "h264" else self._combine_hevc
        return combine(index, parts, distance), (distance[0] != 0) | (distance[1] != 0)

    def one_list(
        self, index: int, motion: NDArray[np.int16], motion_ref: NDArray[np.int16]
    ) -> Picture:
        """The unrounded prediction from one list: samples (H.264) or 14-bit values (H.265).

        Args:
            motion, motion_ref: of one list, int16 (h4, w4, 2) and (h4, w4).
        """
        height, width = next(iter(self.references.values())).shape
        motion, distance = (_per_pixel(cells, height, width) for cells in (motion, motion_ref))
        out = np.zeros(distance.shape, np.int32)
        phase = (motion[..., 1] & 3) * 4 + (motion[..., 0] & 3)
        for step in np.unique(distance[distance != 0]).tolist():
            used = distance == step
            for code in np.unique(phase[used]).tolist():
                rows, columns = np.nonzero(used & (phase == code))
                plane = self._phase(index + step, code & 3, code >> 2)
                out[rows, columns] = _gather(
                    plane,
                    rows + (motion[rows, columns, 1] >> 2),
                    columns + (motion[rows, columns, 0] >> 2),
                )
        return out

    def _phase(self, index: int, x_qpel: int, y_qpel: int) -> Picture:
        """A reference at one quarter-sample phase, with its border."""
        key = (index, x_qpel, y_qpel)
        if key not in self._phases:
            if len(self._phases) >= _MAX_PHASES:
                self._phases.clear()
            samples = np.pad(self.references[index].astype(np.int32), _BORDER_PX, mode="edge")
            interpolate = h264_phase if self.codec == "h264" else hevc_phase
            self._phases[key] = interpolate(samples, x_qpel, y_qpel, self.bit_depth)
        return self._phases[key]

    def _combine_h264(self, index: int, parts: list[Picture], distance: list[Picture]) -> Picture:
        """H.264 section 8.4.2.3: default, implicit or explicit weighting."""
        out = np.zeros_like(parts[0])
        for first in np.unique(distance[0]).tolist():
            for second in np.unique(distance[1]).tolist():
                here = (distance[0] == first) & (distance[1] == second)
                if (first or second) and here.any():
                    samples = [part[here] for part in parts]
                    out[here] = self._weighted_h264(index, samples, (first, second))
        return out

    def _weighted_h264(
        self, index: int, samples: list[Picture], steps: tuple[int, int]
    ) -> NDArray[np.int32]:
        """Prediction of samples that share their references."""
        weights = [
            self.weights.get((side, index + steps[side])) if steps[side] else None
            for side in (0, 1)
        ]
        if steps[0] and steps[1]:
            if self.implicit_weights:
                scale = implicit_weight(*steps)
                total = samples[0] * (64 - scale) + samples[1] * scale
                return np.clip((total + 32) >> 6, 0, self.limit)
            if any(weights):
                return _explicit_bi(samples, weights, self.limit)
            return (samples[0] + samples[1] + 1) >> 1
        side = 0 if steps[0] else 1
        weight = weights[side]
        if weight is None:
            return samples[side]
        return explicit_weighting(samples[side], weight, self.limit)

    def _combine_hevc(self, index: int, parts: list[Picture], distance: list[Picture]) -> Picture:
        """H.265 section 8.5.3.3.4.2: default weighted sample prediction."""
        both = (distance[0] != 0) & (distance[1] != 0)
        total = parts[0] + parts[1]
        shift = 14 - self.bit_depth
        uni = (total + (1 << (shift - 1))) >> shift
        bi = (total + (1 << shift)) >> (shift + 1)
        predicted = np.clip(np.where(both, bi, uni), 0, self.limit)
        return np.where((distance[0] != 0) | (distance[1] != 0), predicted, 0)


def implicit_weight(first: int, second: int) -> int:
    """The weight of list 1 in 64ths: H.264 section 8.4.2.3.1.

    Args:
        first, second: signed distance in frames to the references of list 0 and list 1. Picture
            order counts are taken as two per frame.
    """
    to_second = int(np.clip(2 * (second - first), -128, 127))
    to_current = int(np.clip(-2 * first, -128, 127))
    if to_second == 0:
        return 32
    reciprocal = _divide(16384 + abs(_divide(to_second, 2)), to_second)
    scale = int(np.clip((to_current * reciprocal + 32) >> 6, -1024, 1023))
    return scale >> 2 if -64 <= scale >> 2 <= 128 else 32


def h264_phase(samples: Picture, x_qpel: int, y_qpel: int, bit_depth: int = 8) -> Picture:
    """A picture interpolated at one quarter-sample position: H.264 section 8.4.2.2.1."""
    planes = [_h264_plane(samples, letter, bit_depth) for letter in _H264_MEAN_OF[y_qpel][x_qpel]]
    return planes[0] if len(planes) == 1 else (planes[0] + planes[1] + 1) >> 1


def _h264_plane(samples: Picture, letter: str, bit_depth: int) -> Picture:
    """One of the full- and half-sample planes that quarter samples are averaged from."""

    def rounded(sums: Picture, shift: int) -> Picture:
        return np.clip((sums + (1 << (shift - 1))) >> shift, 0, (1 << bit_depth) - 1)

    if letter in "HMms":
        plane = _h264_plane(samples, {"H": "G", "M": "G", "m": "h", "s": "b"}[letter], bit_depth)
        return np.roll(plane, -1, axis=1 if letter in "Hm" else 0)
    if letter == "b":
        return rounded(_filter(samples, _H264_TAPS, -2, axis=1), 5)
    if letter == "h":
        return rounded(_filter(samples, _H264_TAPS, -2, axis=0), 5)
    if letter == "j":
        rows = _filter(samples, _H264_TAPS, -2, axis=1)
        return rounded(_filter(rows, _H264_TAPS, -2, axis=0), 10)
    return samples


def hevc_phase(samples: Picture, x_qpel: int, y_qpel: int, bit_depth: int = 8) -> Picture:
    """The 14-bit intermediate prediction at one phase: H.265 section 8.5.3.3.3.1."""
    first_shift, full_shift = min(4, bit_depth - 8), 14 - bit_depth
    if not x_qpel and not y_qpel:
        return samples << full_shift
    if not y_qpel:
        return _filter(samples, _HEVC_TAPS[x_qpel], -3, axis=1) >> first_shift
    if not x_qpel:
        return _filter(samples, _HEVC_TAPS[y_qpel], -3, axis=0) >> first_shift
    rows = _filter(samples, _HEVC_TAPS[x_qpel], -3, axis=1) >> first_shift
    return _filter(rows, _HEVC_TAPS[y_qpel], -3, axis=0) >> 6


def _filter(plane: Picture, taps: NDArray[np.int32], first_offset: int, *, axis: int) -> Picture:
    """Sum of taps[k] * plane[position + first_offset + k]; wraps only inside the unused border."""
    return sum(
        (int(tap) * np.roll(plane, -(first_offset + k), axis=axis) for k, tap in enumerate(taps)),
        start=np.zeros_like(plane),
    )


def _gather(
    plane: Picture, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Samples of a bordered plane at picture coordinates that may be far outside."""
    height, width = (size - 2 * _BORDER_PX for size in plane.shape)
    rows = np.clip(rows, -_REACH_PX, height - 1 + _REACH_PX) + _BORDER_PX
    columns = np.clip(columns, -_REACH_PX, width - 1 + _REACH_PX) + _BORDER_PX
    return plane[rows, columns]


def _per_pixel(cells: NDArray[np.int16], height: int, width: int) -> Picture:
    """4x4 cells (h4, w4, ...) spread over pixels (H, W, ...)."""
    return cells.repeat(4, axis=0).repeat(4, axis=1)[:height, :width].astype(np.int32)


def explicit_weighting(
    samples: NDArray[np.int32], weight: Weight, limit: int, extra_shift: int = 0
) -> NDArray[np.int32]:
    """Explicit weighting of one list: H.264 section 8.4.2.3.2, H.265 section 8.5.3.3.4.3.

    Args:
        samples: as ``Compensator.one_list`` gives them.
        extra_shift: ``Compensator.uni_shift``.
    """
    shift = weight.log2_denominator + extra_shift
    scaled = samples * weight.scale
    if shift >= 1:
        scaled = (scaled + (1 << (shift - 1))) >> shift
    return np.clip(scaled + weight.offset, 0, limit)


def _explicit_bi(
    samples: list[Picture], weights: list[Weight | None], limit: int
) -> NDArray[np.int32]:
    shift = max(weight.log2_denominator for weight in weights if weight is not None)
    plain = Weight(log2_denominator=shift, scale=1 << shift)
    first, second = (weight or plain for weight in weights)
    total = samples[0] * first.scale + samples[1] * second.scale + (1 << shift)
    return np.clip((total >> (shift + 1)) + ((first.offset + second.offset + 1) >> 1), 0, limit)


def _divide(value: int, by: int) -> int:
    """Integer division towards zero, as the standards define ``/``."""
    return int(abs(value) // abs(by)) * (1 if (value < 0) == (by < 0) else -1)
