"""Turning and mirroring maps: against small pictures by hand, and against turning each pixel."""

from itertools import product

import numpy as np
import pytest

from cv_reader.backends.orientation import (
    to_cells,
    turn_blocks,
    turn_cells,
    turn_pixels,
    turn_vectors,
)
from cv_reader.media.display import Orientation

ORIENTATIONS = [Orientation(*case) for case in product((0, 90, 180, 270), (False, True))]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pixels_are_mirrored_and_then_turned_clockwise(orientation: Orientation) -> None:
    picture = np.arange(6, dtype=np.uint8).reshape(2, 3)
    expected = {
        (0, False): [[0, 1, 2], [3, 4, 5]],
        (90, False): [[3, 0], [4, 1], [5, 2]],
        (180, False): [[5, 4, 3], [2, 1, 0]],
        (270, False): [[2, 5], [1, 4], [0, 3]],
        (0, True): [[2, 1, 0], [5, 4, 3]],
        (90, True): [[5, 2], [4, 1], [3, 0]],
        (180, True): [[3, 4, 5], [0, 1, 2]],
        (270, True): [[0, 3], [1, 4], [2, 5]],
    }[orientation]
    assert turn_pixels(picture, orientation).tolist() == expected


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 12), (9, 10), (1, 5)])
def test_cells_turn_as_their_pixels_do(orientation: Orientation, height: int, width: int) -> None:
    generator = np.random.default_rng(0)
    shape = (2, -(-height // 4), -(-width // 4))
    cells = generator.integers(-99, 99, shape).astype(np.int16)
    pixels = cells.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    turned = np.stack([turn_pixels(plane, orientation) for plane in pixels])
    # The value of a turned cell is that of the pixel in its second row and column.
    rows = np.minimum(np.arange(0, turned.shape[1], 4) + 1, turned.shape[1] - 1)
    columns = np.minimum(np.arange(0, turned.shape[2], 4) + 1, turned.shape[2] - 1)
    np.testing.assert_array_equal(
        turn_cells(cells, orientation, height, width), turned[:, rows][:, :, columns]
    )


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 50), (15, 17)])
def test_blocks_turn_as_their_pixels_do(orientation: Orientation, height: int, width: int) -> None:
    blocks = np.arange(-(-height // 16) * -(-width // 16)).reshape(-(-height // 16), -1)
    pixels = blocks.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    turned = turn_pixels(pixels, orientation)
    rows = np.minimum(np.arange(0, turned.shape[0], 16) + 1, turned.shape[0] - 1)
    columns = np.minimum(np.arange(0, turned.shape[1], 16) + 1, turned.shape[1] - 1)
    np.testing.assert_array_equal(
        turn_blocks(blocks, orientation, height, width), turned[rows][:, columns]
    )


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_vectors_still_point_to_the_same_pixel(orientation: Orientation) -> None:
    height, width = 24, 32
    picture = np.arange(height * width).reshape(height, width)
    motion = np.zeros((2, 6, 8, 2), np.int16)
    motion[0, 2, 3] = (8 * 4, -4 * 4)  # 8 right, 4 up
    target = picture[2 * 4 - 4 : 2 * 4, 3 * 4 + 8 : 3 * 4 + 12]

    turned = turn_vectors(motion, orientation, height, width)
    shown = turn_pixels(picture, orientation)
    (row,), (column,) = np.nonzero(turned[0].any(axis=-1))
    x, y = turned[0, row, column] // 4
    found = shown[row * 4 + y : row * 4 + y + 4, column * 4 + x : column * 4 + x + 4]
    assert set(found.ravel()) == set(target.ravel())


def test_blocks_are_repeated_over_their_cells_and_cut_to_the_picture() -> None:
    blocks = np.arange(2 * 2 * 2).reshape(2, 2, 2)
    cells = to_cells(blocks, 8, 13, 10)
    assert cells.shape == (2, 4, 3)
    assert cells[0].tolist() == [[0, 0, 1], [0, 0, 1], [2, 2, 3], [2, 2, 3]]
