"""Positions against numpy's floored linspace and hand-written rasters."""

import numpy as np
import pytest
import torch

from llava.visual.positions import frame_positions, grid_positions, image_positions, uniform_slots


def test_eight_frames_of_64_have_the_published_slots() -> None:
    assert uniform_slots(8, 64).tolist() == [0, 9, 18, 27, 36, 45, 54, 63]


@pytest.mark.parametrize("virtual_frames", [1, 2, 7, 64, 487])
def test_slots_are_the_floored_linspace(virtual_frames: int) -> None:
    for num_frames in range(1, 70):
        # In exact steps of 1 / (F - 1): a float linspace may land just below a whole number.
        exact = np.arange(num_frames) * (virtual_frames - 1) / max(1, num_frames - 1)
        expected = np.floor(exact + 1e-9).astype(int)
        assert uniform_slots(num_frames, virtual_frames).tolist() == expected.tolist()


def test_grid_is_slot_major_then_raster() -> None:
    positions = grid_positions(torch.tensor([5, 9]), 2, 3)
    first = [[5, 0, 0], [5, 0, 1], [5, 0, 2], [5, 1, 0], [5, 1, 1], [5, 1, 2]]
    assert positions.tolist() == first + [[9, row, column] for _, row, column in first]
    assert positions.dtype == torch.int64


def test_one_cell_keeps_its_three_columns() -> None:
    assert image_positions(1, 1).tolist() == [[0, 0, 0]]


def test_frames_stand_in_their_slots() -> None:
    positions = frame_positions(3, 2, 2, virtual_frames=64)
    assert positions[:, 0].tolist() == [0] * 4 + [31] * 4 + [63] * 4
    assert positions[4:8, 1:].tolist() == image_positions(2, 2)[:, 1:].tolist()


@pytest.mark.parametrize(("frames", "virtual"), [(0, 64), (-1, 64), (1, 0)])
def test_counts_below_one_are_refused(frames: int, virtual: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        uniform_slots(frames, virtual)


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="0 x 3"):
        image_positions(0, 3)
