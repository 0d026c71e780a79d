"""Cell sums against a map that is really resized, and percentiles without their zeros."""

import numpy as np
import pytest

from cv_reader.select.geometry import Letterbox, letterbox
from cv_reader.select.percentiles import integer_percentile
from cv_reader.select.pooling import CellPool, SparseMap

PATCH, SQUARE = 16, 128


def _resized(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, half-pixel centres, edges clamped: each output pixel by itself."""
    result = values.astype(np.float64)
    for axis, count in ((0, height), (1, width)):
        source = result.shape[axis]
        centre = np.clip((np.arange(count) + 0.5) * source / count - 0.5, 0, source - 1)
        low = centre.astype(int)
        high = np.minimum(low + 1, source - 1)
        shape = (-1, 1) if axis == 0 else (1, -1)
        share = (centre - low).reshape(shape)
        result = result.take(low, axis) * (1 - share) + result.take(high, axis) * share
    return result


def _expected(values: np.ndarray, box: Letterbox) -> np.ndarray:
    square = np.zeros((SQUARE, SQUARE))
    rows = slice(box.pad_top_px, box.pad_top_px + box.height_px)
    columns = slice(box.pad_left_px, box.pad_left_px + box.width_px)
    square[rows, columns] = _resized(values, box.height_px, box.width_px)
    grid = SQUARE // PATCH
    return square.reshape(grid, PATCH, grid, PATCH).sum(axis=(1, 3))


def _patchy(random: np.random.Generator, height: int, width: int, dtype: type) -> np.ndarray:
    """Mostly zeros, with dense patches, among them the last row and column."""
    values = np.zeros((height, width), dtype)
    low = 0 if dtype == np.uint8 else -60
    for top, left in ((0, 0), (height // 2, width // 3), (height - 5, width - 7)):
        patch = values[top : top + 12, left : left + 20]
        patch[:] = random.integers(low, 60, patch.shape)
    return values


@pytest.mark.parametrize("dtype", [np.int16, np.uint8])
@pytest.mark.parametrize("size", [(90, 160), (64, 64), (45, 37), (400, 301), (8, 304), (720, 48)])
def test_sums_are_those_of_the_resized_map(dtype: type, size: tuple[int, int]) -> None:
    random = np.random.default_rng(sum(size))
    values = _patchy(random, *size, dtype)
    box = letterbox(*size, square_px=SQUARE, patch_px=PATCH)
    clipped = np.minimum(np.abs(values.astype(int)), 30)
    sums = CellPool(box, 1).clipped_sums(SparseMap(values), 30.0)
    np.testing.assert_allclose(sums, _expected(clipped / 30, box), atol=1e-3)
    plain = CellPool(box, 1).sums(values.astype(np.float32))
    np.testing.assert_allclose(plain, _expected(values, box), atol=0.05)


def test_views_count_as_what_they_show() -> None:
    random = np.random.default_rng(0)
    memory = random.integers(-9, 9, (80, 176)).astype(np.int16)
    box = letterbox(64, 160, square_px=SQUARE, patch_px=PATCH)
    for view in (memory[8:72, 8:168], memory[3:67, 5:165], memory[::-1][:64, :160]):
        sums = CellPool(box, 1).clipped_sums(SparseMap(view), 4.0)
        copied = CellPool(box, 1).clipped_sums(SparseMap(view.copy()), 4.0)
        np.testing.assert_array_equal(sums, copied)
        np.testing.assert_allclose(sums, _expected(np.minimum(abs(view), 4) / 4, box), atol=1e-3)


@pytest.mark.parametrize("size", [(64, 160), (72, 90), (45, 37), (1088, 16)])
def test_to_know_where_to_look_changes_nothing(size: tuple[int, int]) -> None:
    random = np.random.default_rng(sum(size))
    memory = _patchy(random, size[0] + 16, size[1] + 32, np.int16)
    box = letterbox(*size, square_px=SQUARE, patch_px=PATCH)
    for view in (memory[: size[0], : size[1]], memory[16:, 32:], memory[3:-13, 2:-30]):
        whole = np.zeros([side + -side % 16 for side in size], bool)
        whole[: size[0], : size[1]] = view != 0
        blocks = whole.reshape(len(whole) // 16, 16, -1, 16).any(axis=(1, 3))
        blocks |= random.random(blocks.shape) < 0.1  # those that may hold something, and do not
        known, looked = SparseMap(view, blocks), SparseMap(view)
        for name in ("rows", "columns", "magnitudes"):
            np.testing.assert_array_equal(getattr(known, name), getattr(looked, name))
        sums = CellPool(box, 1).clipped_sums(known, 7.0)
        np.testing.assert_array_equal(sums, CellPool(box, 1).clipped_sums(looked, 7.0))


@pytest.mark.parametrize("percentile", [50, 90, 95, 99.5, 100])
def test_percentiles_do_not_miss_the_zeros_that_are_left_out(percentile: float) -> None:
    random = np.random.default_rng(1)
    for size in ((45, 37), (64, 64), (16, 128)):
        for values in (_patchy(random, *size, np.int16), np.zeros(size, np.int16)):
            sparse = SparseMap(values)
            expected = float(np.percentile(np.abs(values), percentile))
            found = integer_percentile(sparse.magnitudes, percentile, 3, sparse.size)
            assert found == expected
