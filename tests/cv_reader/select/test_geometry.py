"""Letterbox and cell sums against known counts and a plain implementation."""

import numpy as np
import pytest

from cv_reader.select.geometry import letterbox


@pytest.mark.parametrize(
    ("height", "width", "valid", "pad_top", "pad_left"),
    [
        (1080, 1920, 720, 126, 0),
        (640, 360, 720, 0, 126),
        (480, 640, 936, 72, 0),
        (576, 576, 1296, 0, 0),
        (5, 1000, 0, 286, 0),
    ],
)
def test_content_cells_are_those_fully_inside(
    height: int, width: int, valid: int, pad_top: int, pad_left: int
) -> None:
    box = letterbox(height, width, square_px=576, patch_px=16)
    assert int(box.valid_cells().sum()) == valid
    assert (box.pad_top_px, box.pad_left_px) == (pad_top, pad_left)


def test_partial_border_rows_are_padding() -> None:
    box = letterbox(1080, 1920, square_px=576, patch_px=16)
    rows = np.flatnonzero(box.valid_cells().all(axis=1))
    # Content covers rows 126..450 of the square: cells 7 and 28 are cut by its border.
    assert (rows[0], rows[-1]) == (8, 27)


def test_sides_round_half_to_even() -> None:
    box = letterbox(5, 32, square_px=16, patch_px=4)  # 5 * 0.5 = 2.5
    assert (box.height_px, box.width_px) == (2, 16)


def test_facts_of_a_portrait_clip() -> None:
    facts = letterbox(640, 360, square_px=576, patch_px=16).facts()
    assert facts["pad_info"] == {
        "scale": 0.9,
        "Hn": 576,
        "Wn": 324,
        "pad_top": 0,
        "pad_left": 126,
        "pad_bottom": 0,
        "pad_right": 126,
        "out_size": 576,
        "H0": 640,
        "W0": 360,
    }
    assert facts["valid_ranges"] == {
        "S_valid": 720,
        "hb_total": 36,
        "wb_total": 36,
        "valid_h_start": 0,
        "valid_h_end": 36,
        "valid_w_start": 8,
        "valid_w_end": 28,
    }


def _bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Half-pixel centres, clamped edges, one output pixel at a time."""
    rows, columns = values.shape
    out = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            fy = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            fx = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            y0, x0 = int(fy), int(fx)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            top = values[y0, x0] * (1 - fx + x0) + values[y0, x1] * (fx - x0)
            bottom = values[y1, x0] * (1 - fx + x0) + values[y1, x1] * (fx - x0)
            out[y, x] = top * (1 - fy + y0) + bottom * (fy - y0)
    return out


@pytest.mark.parametrize("size", [(45, 80), (31, 17), (3, 9), (48, 48)])
@pytest.mark.parametrize("step", [1, 4])
def test_axis_samplings_add_up_the_resized_map(size: tuple[int, int], step: int) -> None:
    height, width = size
    box = letterbox(height, width, square_px=48, patch_px=8)
    shape = (-(-height // step), -(-width // step))
    coarse = np.random.default_rng(3).random(shape)
    full = np.kron(coarse, np.ones((step, step)))[:height, :width]
    square = np.zeros((48, 48))
    inside = slice(box.pad_top_px, box.pad_top_px + box.height_px)
    across = slice(box.pad_left_px, box.pad_left_px + box.width_px)
    square[inside, across] = _bilinear(full, box.height_px, box.width_px)
    expected = square.reshape(6, 8, 6, 8).sum(axis=(1, 3))

    rows, columns = box.row_sampling(step), box.column_sampling(step)
    strips = np.add.reduceat(coarse[rows.indices] * rows.weights[:, None], rows.starts)
    sums = np.add.reduceat(strips[:, columns.indices] * columns.weights, columns.starts, axis=1)
    got = np.zeros((6, 6))
    got[rows.cells, columns.cells] = sums
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
