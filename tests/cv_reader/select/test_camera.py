"""The camera's motion: planted shifts, zooms and turns must vanish."""

from typing import Any

import numpy as np
import pytest

from cv_reader.select.camera import camera_velocity
from cv_reader.select.energy import motion_energy

HEIGHT, WIDTH = 30, 40


def _planted(shift: tuple[float, float], zoom: float, turn: float) -> np.ndarray:
    """Velocity of a camera: every point moves by shift + zoom * place + turn * place turned."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    x, y = x - (WIDTH - 1) / 2, y - (HEIGHT - 1) / 2
    return np.stack(
        [shift[0] + zoom * x - turn * y, shift[1] + zoom * y + turn * x], dtype=np.float32
    )


@pytest.mark.parametrize(
    ("shift", "zoom", "turn"), [((3, -2), 0, 0), ((0, 0), 0.05, 0), ((1, 0.5), -0.02, 0.03)]
)
def test_a_planted_similarity_is_found(shift: tuple[Any, ...], zoom: float, turn: float) -> None:
    planted = _planted(shift, zoom, turn)
    np.testing.assert_allclose(camera_velocity(planted, "similarity"), planted, atol=1e-4)


def test_an_object_that_moves_otherwise_stands_out() -> None:
    velocity = _planted((1, 0.5), -0.02, 0.03)
    velocity[:, 5:11, 20:30] += 4
    camera = camera_velocity(velocity, "similarity")
    np.testing.assert_allclose(camera, _planted((1, 0.5), -0.02, 0.03), atol=1e-4)
    energy = motion_energy(velocity, "similarity", 95)
    assert energy[5:11, 20:30].min() > 0.99
    energy[5:11, 20:30] = 0
    assert energy.max() < 1e-3


def test_cells_without_a_vector_have_no_say() -> None:
    velocity = _planted((2, 1), 0, 0)
    velocity[:, :20] = 0
    camera = camera_velocity(velocity, "similarity")
    np.testing.assert_allclose(camera[:, 25, 7], (2, 1), atol=1e-4)


def test_few_moving_cells_fall_back_to_the_median() -> None:
    velocity = np.zeros((2, HEIGHT, WIDTH), np.float32)
    velocity[0, 0, :40] = 9
    np.testing.assert_array_equal(
        camera_velocity(velocity, "similarity"), camera_velocity(velocity, "median")
    )


def test_the_simple_modes_are_numpys() -> None:
    velocity = np.random.default_rng(0).normal(size=(2, 7, 9)).astype(np.float32)
    for mode, function in (("median", np.median), ("mean", np.mean)):
        expected = function(velocity, axis=(1, 2))
        np.testing.assert_allclose(camera_velocity(velocity, mode)[:, 0, 0], expected, rtol=1e-5)
    assert not camera_velocity(velocity, "none").any()
