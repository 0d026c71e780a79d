"""The one builder of (t, h, w) patch positions.

t is a slot on the virtual time line (0..63), never a frame number; h and w are patch rows and
columns. Raw integers go to the encoder's rotary embedding.

Axis letters: F frames, P patches.
"""

import torch
from torch import Tensor

from llava.constants import VIRTUAL_FRAMES


def uniform_slots(num_frames: int, virtual_frames: int = VIRTUAL_FRAMES) -> Tensor:
    """Spread frames over the virtual time line: floor(linspace(0, virtual_frames - 1, F)).

    Returns:
        int64 (F,). 8 frames of 64 give 0, 9, 18, 27, 36, 45, 54, 63; one frame gives 0.

    Raises:
        ValueError: if ``num_frames`` or ``virtual_frames`` is below 1.
    """
    if num_frames < 1 or virtual_frames < 1:
        raise ValueError(
            "num_frames and virtual_frames must be at least 1, "
            f"got {num_frames} and {virtual_frames}"
        )
    if num_frames == 1:
        return torch.zeros(1, dtype=torch.int64)
    # Integer arithmetic: floor(i * (T - 1) / (F - 1)) without rounding trouble at whole numbers.
    return torch.arange(num_frames) * (virtual_frames - 1) // (num_frames - 1)


def grid_positions(slots: Tensor, grid_height: int, grid_width: int) -> Tensor:
    """Positions of whole frames: for each slot t, all cells in raster order.

    Args:
        slots: int64 (F,), the t of each frame.
        grid_height: patch rows of each frame, at least 1.
        grid_width: patch columns of each frame, at least 1.

    Returns:
        int64 (F * grid_height * grid_width, 3), rows (t, h, w).
    """
    if grid_height < 1 or grid_width < 1:
        raise ValueError(f"grid must be at least 1 x 1 patches, got {grid_height} x {grid_width}")
    return torch.cartesian_prod(
        slots.to(torch.int64), torch.arange(grid_height), torch.arange(grid_width)
    ).reshape(-1, 3)


def image_positions(grid_height: int, grid_width: int) -> Tensor:
    """Positions of one image: t = 0, raster order. int64 (grid_height * grid_width, 3)."""
    return grid_positions(torch.zeros(1, dtype=torch.int64), grid_height, grid_width)


def frame_positions(
    num_frames: int, grid_height: int, grid_width: int, virtual_frames: int = VIRTUAL_FRAMES
) -> Tensor:
    """Positions of uniformly sampled whole frames. int64 (F * grid_height * grid_width, 3)."""
    return grid_positions(uniform_slots(num_frames, virtual_frames), grid_height, grid_width)
