"""HDR pictures (PQ and HLG) as SDR, by published rules.

HDR is shown on a screen of 203 cd/m2, the white of graphics in HDR (ITU-R BT.2408):

1. Signal to light by ITU-R BT.2100, tables 4 (PQ) and 5 (HLG, for a screen of 1,000 cd/m2).
2. Bright parts are compressed by the curve of ITU-R BT.2390-11, 5.4.1, from a peak of 1,000 cd/m2.
   It is applied to the largest of R, G and B, and the other two keep their ratio to it: hues stay.
3. Primaries to those of BT.709; colours outside of them are clipped.
4. Light to signal by the inverse of ITU-R BT.1886 (gamma 2.4).

The peak is the same for every video: what files say of theirs is often wrong, and frames that are
read alone must look as they do in a whole read.

Axis legend: h, w rows and columns of samples.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.media.display import PQ, Colorimetry

_BT2020 = 9
_SCREEN_NITS, _PEAK_NITS = 203.0, 1000.0
_GAMMA = 2.4
_HLG_GAMMA = 1.2
_STEPS = 4096
"""Entries of the tables that replace curves."""

_PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
"""Chromaticities (x, y) of red, green and blue, by FFmpeg's number; all with white D65."""
_WHITE = (0.3127, 0.3290)

Floats = NDArray[np.float32]


def tone_mapped(
    planes: Sequence[NDArray[Any]],
    bits: int,
    weights: tuple[float, float],
    is_full: bool,
    colors: Colorimetry,
) -> NDArray[np.uint8]:
    """Convert an HDR picture to SDR; see the head of this module.

    Args:
        planes: luma, blue and red difference, each (h, w), uint8 or uint16.
        bits: bits of a sample.
        weights: weights of red and blue in the luma.
        is_full: whether samples use the full range.
        colors: names the transfer (PQ or HLG) and the primaries, BT.2020 unless named.

    Returns:
        uint8 (3, h, w), R, G and B.
    """
    signal = _signal(planes, bits, weights, is_full)
    codes = _table_places(signal)
    if colors.transfer == PQ:
        light = _pq_light()[codes]
        light *= _pq_gains()[codes.max(axis=0)]
    else:
        light = _hlg_scene()[codes]
        luma = np.tensordot(np.array([0.2627, 0.6780, 0.0593], np.float32), light, 1)
        light *= _hlg_system_gains()[_table_places(np.sqrt(luma))]
        light *= _light_gains()[_table_places(np.sqrt(light.max(axis=0) / np.float32(_PEAK_NITS)))]
    if colors.primaries != 1:
        matrix = _to_bt709(colors.primaries if colors.primaries in _PRIMARIES else _BT2020)
        light = np.tensordot(matrix, light, 1)
    # By the square root, in which dark tones have steps enough.
    np.clip(light / np.float32(_SCREEN_NITS), 0, 1, out=light)
    return _screen_samples()[_table_places(np.sqrt(light))]


def _signal(
    planes: Sequence[NDArray[Any]], bits: int, weights: tuple[float, float], is_full: bool
) -> Floats:
    """R'G'B' in 0..1, float32 (3, h, w)."""
    unit = 1 << (bits - 8)
    black, luma_span, chroma_span = (
        (0, 256 * unit - 1, 256 * unit - 1) if is_full else (16 * unit, 219 * unit, 224 * unit)
    )
    luma = (planes[0].astype(np.float32) - black) / np.float32(luma_span)
    blue, red = (
        (plane.astype(np.float32) - 128 * unit) / np.float32(chroma_span) for plane in planes[1:3]
    )
    red_weight, blue_weight = weights
    green_weight = 1 - red_weight - blue_weight
    to_red, to_blue = 2 * (1 - red_weight), 2 * (1 - blue_weight)
    signal = np.empty((3, *luma.shape), np.float32)
    signal[0] = luma + red * np.float32(to_red)
    signal[2] = luma + blue * np.float32(to_blue)
    signal[1] = luma - red * np.float32(to_red * red_weight / green_weight)
    signal[1] -= blue * np.float32(to_blue * blue_weight / green_weight)
    return signal


def _table_places(values: Floats) -> NDArray[np.uint16]:
    """Values of 0..1 to the nearest of the tables' entries."""
    scaled = np.clip(values, 0, 1) * np.float32(_STEPS - 1)
    return np.rint(scaled, out=scaled).astype(np.uint16)


def _places() -> NDArray[np.float64]:
    return np.arange(_STEPS) / (_STEPS - 1)


_PQ_M1, _PQ_M2 = 2610 / 16384, 2523 / 32
_PQ_C1, _PQ_C2, _PQ_C3 = 3424 / 4096, 2413 / 128, 2392 / 128


def _pq_to_nits(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    power = signal ** (1 / _PQ_M2)
    return 10000 * (np.maximum(power - _PQ_C1, 0) / (_PQ_C2 - _PQ_C3 * power)) ** (1 / _PQ_M1)


def _nits_to_pq(nits: NDArray[np.float64] | float) -> NDArray[np.float64]:
    power = (np.asarray(nits) / 10000) ** _PQ_M1
    return ((_PQ_C1 + _PQ_C2 * power) / (1 + _PQ_C3 * power)) ** _PQ_M2


def _compressed(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the light that the screen shows, by the curve of BT.2390; in cd/m2."""
    peak = _nits_to_pq(_PEAK_NITS)
    share = np.minimum(_nits_to_pq(nits) / peak, 1)
    most = _nits_to_pq(_SCREEN_NITS) / peak
    knee = 1.5 * most - 0.5
    t = np.maximum(share - knee, 0) / (1 - knee)
    curve = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * most
    )
    return _pq_to_nits(np.where(share < knee, share, curve) * peak)


def _gain(nits: NDArray[np.float64]) -> Floats:
    """Return the factor of each light by which the brightest channel follows the curve."""
    return (_compressed(nits) / np.maximum(nits, 1e-6)).astype(np.float32)


@lru_cache
def _pq_light() -> Floats:
    """Return light in cd/m2 by signal."""
    return _pq_to_nits(_places()).astype(np.float32)


@lru_cache
def _pq_gains() -> Floats:
    return _gain(_pq_to_nits(_places()))


@lru_cache
def _light_gains() -> Floats:
    """Return gains by the square root of light, of which the peak has 1."""
    return _gain(_places() ** 2 * _PEAK_NITS)


@lru_cache
def _hlg_scene() -> Floats:
    """Light of the scene, 0..1, by signal."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    signal = _places()
    bright = (np.exp((np.maximum(signal, 0.5) - c) / a) + b) / 12
    return np.where(signal <= 0.5, signal**2 / 3, bright).astype(np.float32)


@lru_cache
def _hlg_system_gains() -> Floats:
    """Screen light of scene light, by the square root of the scene's luminance."""
    return (_PEAK_NITS * (_places() ** 2) ** (_HLG_GAMMA - 1)).astype(np.float32)


@lru_cache
def _screen_samples() -> NDArray[np.uint8]:
    """Return the signal by the square root of light, of which the screen's white has 1."""
    return np.rint(255 * _places() ** (2 / _GAMMA)).astype(np.uint8)


@lru_cache
def _to_bt709(primaries: int) -> Floats:
    """float32 (3, 3), linear R, G, B to those of BT.709."""
    return np.linalg.solve(_to_xyz(1), _to_xyz(primaries)).astype(np.float32)


def _to_xyz(primaries: int) -> NDArray[np.float64]:
    """(3, 3), linear R, G, B to CIE XYZ (SMPTE RP 177)."""
    points = np.array([*_PRIMARIES[primaries], _WHITE])
    xyz = np.stack([points[:, 0], points[:, 1], 1 - points.sum(axis=1)]) / points[:, 1]
    scales = np.linalg.solve(xyz[:, :3], xyz[:, 3])
    return xyz[:, :3] * scales
