"""Select the patches of a batch that become tokens, and the position of each.

Axis letters: B samples, C channels, F frames, H and W pixels, L tokens of a sample, p side of a
patch in pixels, (t, h, w) positions.
"""

import math

import torch
from torch import Tensor
from transformers.utils import logging

from .checks import check_index_range, check_indices, check_positions
from .patches import grid_positions, index_positions, patchify

logger = logging.get_logger(__name__)


def select_tokens(
    pixel_values: Tensor,
    visible_indices: Tensor | None,
    patch_positions: Tensor | None,
    *,
    patch_size: int,
    temporal_size: int | None,
    gather: bool | None,
) -> tuple[Tensor, Tensor]:
    """Turn the arguments of the encoder's ``forward``, which documents them, into tokens.

    Args:
        pixel_values: (B, C, H, W) or (B, C, F, H, W), already checked.
        visible_indices: (B or 1, L), flat indices into the virtual grid.
        patch_positions: (B or 1, L, 3), rows (t, h, w).
        patch_size: side of a patch in pixels.
        temporal_size: frames of a video's virtual grid; None means as many as there are.
        gather: whether indices select tokens; None decides by their number.

    Returns:
        patches (B, L, C * p * p) and positions (B or 1, L, 3).

    Raises:
        ValueError: naming the argument, the rule and the value.
    """
    virtual_frames = temporal_size
    if pixel_values.ndim == 4:
        pixel_values, virtual_frames = pixel_values.unsqueeze(2), 1
    batch_size, _, frames, height, width = pixel_values.shape
    virtual_frames = virtual_frames or frames
    rows, columns = height // patch_size, width // patch_size
    patches = patchify(pixel_values, patch_size)
    if visible_indices is None:
        if gather:
            raise ValueError("gather_visible=True needs visible_indices, got None")
        if patch_positions is None:
            _check_frames(frames, virtual_frames)
            slots = torch.arange(frames, device=patches.device)
            return patches, grid_positions(slots, rows, columns)[None]
        return patches, _checked(patch_positions, patches)

    check_indices(visible_indices, batch_size)
    visible_indices = visible_indices.to(patches.device, torch.int64)
    count, total, virtual_total = (
        visible_indices.shape[1],
        frames * rows * columns,
        virtual_frames * rows * columns,
    )
    if gather is False and count != total:
        raise ValueError(
            f"visible_indices must hold one index for each of the {total} patches where "
            f"gather_visible=False, got {count}"
        )
    is_short = gather is None and count != total and frames != virtual_frames
    if is_short and patch_positions is None and not torch.compiler.is_compiling():
        grid = (frames, rows, columns)
        logger.warning_once(_short_video_text(count, grid, virtual_frames, patch_size))
    if gather or count != total:
        limit = total if patch_positions is not None else min(total, virtual_total)
        given = "patches given"
        if frames != virtual_frames:
            given += f" ({frames} of the virtual grid's {virtual_frames} frames)"
        check_index_range(visible_indices, limit, given)
        patches = torch.take_along_dim(patches, visible_indices[..., None], dim=1)
    elif patch_positions is None:
        check_index_range(visible_indices, virtual_total, "patches of the virtual grid")
    if patch_positions is None:
        return patches, index_positions(visible_indices, rows, columns)
    return patches, _checked(patch_positions, patches)


def _checked(patch_positions: Tensor, patches: Tensor) -> Tensor:
    batch_size, count, _ = patches.shape
    check_positions(patch_positions, [(batch_size, count, 3), (1, count, 3)])
    return patch_positions.to(patches.device)


def _check_frames(frames: int, virtual_frames: int) -> None:
    if frames > virtual_frames:
        raise ValueError(
            f"pixel_values must have at most {virtual_frames} frames (rope_temporal_size), got "
            f"{frames}; pass patch_positions, or set rope_temporal_size=None in the config"
        )


def _short_video_text(
    count: int, grid: tuple[int, int, int], virtual_frames: int, patch_size: int
) -> str:
    """Say how indices were read that select from a video shorter than the virtual grid.

    Indices that were made for smaller frames than those given are the usual cause.

    Args:
        count: number of indices.
        grid: frames, patch rows and patch columns of the video.
        virtual_frames: frames of the virtual grid.
        patch_size: side of a patch in pixels.
    """
    frames, rows, columns = grid
    cells = rows * columns
    text = (
        f"visible_indices holds {count} indices, but the video has {frames} frames of {cells} "
        f"patches ({rows} x {columns}) and not all {virtual_frames} frames of the virtual grid. "
        f"As the published model does, index i was read as patch i % {cells} of frame i // {cells} "
        f"of this video, at t = i // {cells}: {count} of its {frames * cells} patches."
    )
    per_frame, rest = divmod(count, frames)
    side = math.isqrt(per_frame)
    if not rest and side * side == per_frame < cells:
        px = side * patch_size
        text += (
            f" If the indices mean all {per_frame} patches of every frame, give frames of {px} x "
            f'{px} px: preprocessor(images=frames, size={{"shortest_edge": {px}}}, '
            f'crop_size={{"height": {px}, "width": {px}}}, return_tensors="pt").'
        )
    return text + " gather_visible=True reads the same without this warning."
