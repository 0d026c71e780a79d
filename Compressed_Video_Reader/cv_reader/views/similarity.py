"""Structural similarity of two pictures, as FFmpeg's ``ssim`` filter takes it.

Windows of 8 x 8 samples every 4 samples, all samples of a window alike; the mean over windows.
"""

import numpy as np
from numpy.typing import NDArray

_BLOCK_PX = 4
_SAMPLES = 64
_PEAK = 255
_FIRST = int(0.01**2 * _PEAK**2 * _SAMPLES + 0.5)
_SECOND = int(0.03**2 * _PEAK**2 * _SAMPLES * (_SAMPLES - 1) + 0.5)


def similarity(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the structural similarity of two pictures of at least 8 x 8 samples, 1 for equals."""
    height, width = (side // _BLOCK_PX for side in one.shape)
    if height < 2 or width < 2:
        return 1.0
    a, b = (
        picture[: height * _BLOCK_PX, : width * _BLOCK_PX].astype(np.int64)
        for picture in (one, other)
    )
    sum_a, sum_b = _windows(a), _windows(b)
    squares, products = _windows(a * a + b * b), _windows(a * b)
    variances = squares * _SAMPLES - sum_a * sum_a - sum_b * sum_b
    covariance = products * _SAMPLES - sum_a * sum_b
    above = (2 * sum_a * sum_b + _FIRST) * (2 * covariance + _SECOND).astype(np.float64)
    below = (sum_a * sum_a + sum_b * sum_b + _FIRST) * (variances + _SECOND).astype(np.float64)
    return float((above / below).mean())


def _windows(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return sums over windows of 2 x 2 blocks."""
    height, width = (side // _BLOCK_PX for side in values.shape)
    blocks: NDArray[np.int64] = values.reshape(height, _BLOCK_PX, width, _BLOCK_PX).sum((1, 3))
    pairs = blocks[:-1] + blocks[1:]
    return pairs[:, :-1] + pairs[:, 1:]
