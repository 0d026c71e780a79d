"""Prediction against a loop over pixels, and against pictures whose prediction is known."""

import numpy as np
import pytest

from cv_reader.backends.prediction import compensate, neighbour_mean, residual


def _predicted_pixel(reference: np.ndarray, row: int, column: int, vector: np.ndarray) -> int:
    """Bilinear at quarter pixels, edges repeated; rounded once."""
    height, width = reference.shape
    y, x = row * 4 + int(vector[1]), column * 4 + int(vector[0])
    total = 0
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = (y % 4 if dy else 4 - y % 4) * (x % 4 if dx else 4 - x % 4)
        source_y = min(max(y // 4 + dy, 0), height - 1)
        source_x = min(max(x // 4 + dx, 0), width - 1)
        total += weight * int(reference[source_y, source_x])
    return (total + 8) // 16


def _neighbour_mean(luma: np.ndarray, top: int, left: int) -> int:
    height, width = luma.shape
    full = np.pad(luma.astype(int), ((0, -height % 8), (0, -width % 8)), mode="edge")
    above = full[top - 1, left : left + 8].tolist() if top else []
    at_left = full[top : top + 8, left - 1].tolist() if left else []
    neighbours = above + at_left
    return (sum(neighbours) + len(neighbours) // 2) // len(neighbours) if neighbours else 128


def _random_case(height: int, width: int, block: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(height)
    shape = (2, -(-height // block), -(-width // block))
    return {
        "luma": generator.integers(0, 256, (height, width)).astype(np.uint8),
        "past": generator.integers(0, 256, (height, width)).astype(np.uint8),
        "future": generator.integers(0, 256, (height, width)).astype(np.uint8),
        "motion": generator.integers(-150, 150, (*shape, 2)).astype(np.int16)
        * generator.integers(0, 2, (*shape, 1)).astype(np.int16),
        "used": generator.integers(0, 2, shape).astype(bool),
    }


@pytest.mark.parametrize("block", [8, 16])
@pytest.mark.parametrize(("height", "width"), [(32, 48), (29, 37), (5, 3)])
@pytest.mark.parametrize("missing", [(), (0,), (1,), (0, 1)])
def test_against_a_loop_over_pixels(
    height: int, width: int, block: int, missing: tuple[int, ...]
) -> None:
    case = _random_case(height, width, block)
    padded = [
        np.pad(case[name], ((0, -height % block), (0, -width % block)), mode="edge")
        for name in ("past", "future")
    ]
    expected = np.empty((height, width), np.int16)
    for row in range(height):
        for column in range(width):
            y, x = row // block, column // block
            values = [
                _predicted_pixel(padded[which], row, column, case["motion"][which, y, x])
                for which in (0, 1)
                if case["used"][which, y, x] and which not in missing
            ]
            if values:
                prediction = (sum(values) + len(values) // 2) // len(values)
            else:
                prediction = _neighbour_mean(case["luma"], row // 8 * 8, column // 8 * 8)
            expected[row, column] = int(case["luma"][row, column]) - prediction
    references = tuple(
        None if which in missing else case[name] for which, name in enumerate(("past", "future"))
    )
    actual = residual(case["luma"], references, case["motion"], case["used"], block)
    np.testing.assert_array_equal(actual, expected)


def test_shifted_picture_leaves_nothing() -> None:
    world = np.random.default_rng(0).integers(0, 256, (64, 80)).astype(np.uint8)
    reference, luma = world[:48, :64], world[8:56, 12:76]
    motion = np.zeros((2, 3, 4, 2), np.int16)
    motion[0] = (12 * 4, 8 * 4)
    used = np.zeros((2, 3, 4), bool)
    used[0] = True
    left_over = residual(luma, (reference, None), motion, used, 16)
    assert not left_over[:32, :48].any()
    assert left_over.any()


def test_far_vectors_see_the_border() -> None:
    reference = np.arange(64, dtype=np.uint8).reshape(8, 8)
    vectors = np.array([[[-4000, 4002]]], np.int16)
    fetched = compensate(reference, vectors, np.ones((1, 1), bool), 8)
    assert (fetched == reference[7, 0]).all()


def test_flat_picture_is_its_own_neighbour_mean() -> None:
    mean = neighbour_mean(np.full((24, 16), 77, np.uint8))
    assert mean[0, 0] == 128
    assert (mean[8:] == 77).all()
    assert (mean[:8, 8:] == 77).all()
