"""Turning maps: against numpy's own rotation, and against turning pixel by pixel."""

import numpy as np
import pytest

from cv_reader.media.orientation import to_cells, turn_cells, turn_pixels, turn_vectors

TURNS = (0, 90, 180, 270)


@pytest.mark.parametrize("degrees", TURNS)
def test_pixels_turn_clockwise(degrees: int) -> None:
    picture = np.arange(6, dtype=np.uint8).reshape(2, 3)
    expected = {
        0: [[0, 1, 2], [3, 4, 5]],
        90: [[3, 0], [4, 1], [5, 2]],
        180: [[5, 4, 3], [2, 1, 0]],
        270: [[2, 5], [1, 4], [0, 3]],
    }[degrees]
    assert turn_pixels(picture, degrees).tolist() == expected


@pytest.mark.parametrize("degrees", TURNS)
@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 12), (9, 10), (1, 5)])
def test_cells_turn_as_their_pixels_do(degrees: int, height: int, width: int) -> None:
    generator = np.random.default_rng(0)
    shape = (2, -(-height // 4), -(-width // 4))
    cells = generator.integers(-99, 99, shape).astype(np.int16)
    pixels = cells.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    turned = np.stack([turn_pixels(plane, degrees) for plane in pixels])
    # The value of a turned cell is that of the pixel in its second row and column.
    rows = np.minimum(np.arange(0, turned.shape[1], 4) + 1, turned.shape[1] - 1)
    columns = np.minimum(np.arange(0, turned.shape[2], 4) + 1, turned.shape[2] - 1)
    np.testing.assert_array_equal(
        turn_cells(cells, degrees, height, width), turned[:, rows][:, :, columns]
    )


@pytest.mark.parametrize("degrees", TURNS)
def test_vectors_still_point_to_the_same_pixel(degrees: int) -> None:
    height, width = 24, 32
    picture = np.arange(height * width).reshape(height, width)
    motion = np.zeros((2, 6, 8, 2), np.int16)
    motion[0, 2, 3] = (8 * 4, -4 * 4)  # 8 right, 4 up
    target = picture[2 * 4 - 4 : 2 * 4, 3 * 4 + 8 : 3 * 4 + 12]

    turned = turn_vectors(motion, degrees, height, width)
    shown = turn_pixels(picture, degrees)
    (row,), (column,) = np.nonzero(turned[0].any(axis=-1))
    x, y = turned[0, row, column] // 4
    found = shown[row * 4 + y : row * 4 + y + 4, column * 4 + x : column * 4 + x + 4]
    assert set(found.ravel()) == set(target.ravel())


def test_blocks_are_repeated_over_their_cells_and_cut_to_the_picture() -> None:
    blocks = np.arange(2 * 2 * 2).reshape(2, 2, 2)
    cells = to_cells(blocks, 8, 13, 10)
    assert cells.shape == (2, 4, 3)
    assert cells[0].tolist() == [[0, 0, 1], [0, 0, 1], [2, 2, 3], [2, 2, 3]]
