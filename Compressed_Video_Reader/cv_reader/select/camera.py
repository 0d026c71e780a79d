"""The motion of the camera, found in the motion of a whole frame.

``median`` and ``mean`` take one velocity for all cells, cells without a vector counting as still.
``similarity`` fits shift, zoom and turn to the cells that move: least squares, twice repeated on
the 70 % that fit best. With fewer than 64 moving cells it is ``median``.

Axis letters: h, w elements of the map; N moving cells.
"""

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.percentiles import float_percentile

_MIN_SPEED = 1e-3
_MIN_POINTS, _MAX_POINTS = 64, 5000
_KEPT_SHARE = 0.7
_ROUNDS = 2

Velocity = NDArray[np.float32]


def camera_velocity(
    velocity: Velocity, compensate: str, times: int = 1, aspect: float = 1.0
) -> Velocity:
    """Return what the camera adds to each cell's velocity.

    Args:
        velocity: float32 (2, h, w), x and y in pixels per frame.
        compensate: ``none``, ``median``, ``mean`` or ``similarity``.
        times: how many cells each one represents.
        aspect: width of a cell to its height, as shown.

    Returns:
        float32 (2, h, w), or (2, 1, 1) where it is the same everywhere.
    """
    if compensate == "similarity":
        return _similarity(velocity, times, aspect)
    if compensate == "mean":
        return velocity.mean(axis=(1, 2), keepdims=True)
    if compensate == "median":
        return _median(velocity, times)
    return np.zeros((2, 1, 1), np.float32)


def _median(velocity: Velocity, times: int) -> Velocity:
    medians = [float_percentile(component, 50.0, times) for component in velocity]
    return np.array(medians, np.float32)[:, None, None]


def _similarity(velocity: Velocity, times: int, aspect: float) -> Velocity:
    _, height, width = velocity.shape
    moving = np.flatnonzero(np.abs(velocity).sum(axis=0) > _MIN_SPEED)
    if len(moving) * times < _MIN_POINTS:
        return _median(velocity, times)
    moving = moving[:: -(-len(moving) // _MAX_POINTS)]
    # A complex number holds (x, y): a zoom with a turn is then one factor.
    rows, columns = np.mgrid[:height, :width]
    place = (columns - (width - 1) / 2) * aspect + 1j * (rows - (height - 1) / 2)
    flow = velocity[0].astype(np.float64) + 1j * velocity[1]
    points, speeds = place.ravel()[moving], flow.ravel()[moving]
    shift, factor = _fit(points, speeds)
    for _ in range(_ROUNDS):
        error = np.abs(speeds - shift - factor * points)
        count = max(_MIN_POINTS // times, int(len(points) * _KEPT_SHARE))
        best = np.sort(np.argsort(error, kind="stable")[:count])
        points, speeds = points[best], speeds[best]
        shift, factor = _fit(points, speeds)
    camera = shift + factor * place
    return np.stack([camera.real, camera.imag]).astype(np.float32)


def _fit(
    points: NDArray[np.complex128], speeds: NDArray[np.complex128]
) -> tuple[np.complex128, np.complex128]:
    """Shift and factor of the least-squares ``shift + factor * point``."""
    centre, mean = points.mean(), speeds.mean()
    apart = points - centre
    spread = (apart.real**2 + apart.imag**2).sum()
    if spread == 0:
        return mean, np.complex128(0)
    factor = (apart.conj() * (speeds - mean)).sum() / spread
    return mean - factor * centre, factor
