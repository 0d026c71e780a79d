"""Patches and their positions: the encoder's input, for one visual and for a packed batch.

Axis letters: B samples, C channels, F frames, P patches, p side of a patch in pixels,
(t, h, w) frame slot, patch row, patch column.
"""

import torch
from torch import Tensor


def patchify(pixel_values: Tensor, patch_size: int) -> Tensor:
    """Cut frames into patches; tokens frame-major, then row-major.

    Args:
        pixel_values: (B, C, F, H, W), H and W multiples of ``patch_size``.
        patch_size: p.

    Returns:
        (B, F * H/p * W/p, C * p * p), element order (channel, row, column).
    """
    patches = pixel_values.unflatten(4, (-1, patch_size)).unflatten(3, (-1, patch_size))
    return patches.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)


def grid_positions(slots: Tensor, grid_height: int, grid_width: int) -> Tensor:
    """Return the positions of whole frames: for each slot t, all cells in raster order.

    Args:
        slots: int64 (F,).
        grid_height: patch rows.
        grid_width: patch columns.

    Returns:
        int64 (F * grid_height * grid_width, 3) on the device of ``slots``.
    """
    rows = torch.arange(grid_height, device=slots.device)
    columns = torch.arange(grid_width, device=slots.device)
    axes = torch.meshgrid(slots, rows, columns, indexing="ij")
    return torch.stack(axes, dim=-1).flatten(0, 2)


def index_positions(visible_indices: Tensor, grid_height: int, grid_width: int) -> Tensor:
    """Return the positions of flat indices t * (rows * columns) + h * columns + w.

    Returns:
        int64 (..., 3), one row (t, h, w) per index.
    """
    frame = visible_indices // (grid_height * grid_width)
    row = visible_indices // grid_width % grid_height
    return torch.stack((frame, row, visible_indices % grid_width), dim=-1)


def uniform_slots(num_frames: int, virtual_frames: int = 64) -> Tensor:
    """Return the slots of evenly spaced frames on the virtual time line, rounded down.

    Returns:
        int64 (F,): 16 of 64 give 0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63; a
        single frame gives 0.

    Raises:
        ValueError: if a number is below 1.
    """
    if num_frames < 1 or virtual_frames < 1:
        raise ValueError(
            "num_frames and virtual_frames must be at least 1, "
            f"got {num_frames} and {virtual_frames}"
        )
    # Whole numbers throughout: floor(i * (V - 1) / (F - 1)) without rounding trouble.
    return torch.arange(num_frames) * (virtual_frames - 1) // max(num_frames - 1, 1)
