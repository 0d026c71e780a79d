"""Pack images, frame stacks and codec mosaics of any size for the encoder.

    segments = [image_segment(image), frames_segment(frames), mosaics_segment(mosaics, positions)]
    features = model.forward_packed(*pack(segments))

Axis letters: C channels, F frames, G mosaics, H and W pixels, P patches, S segments, p side of a
patch in pixels, (t, h, w) frame slot, patch row, patch column.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_pixels, check_positions
from .patches import grid_positions, patchify, uniform_slots


class Segment(NamedTuple):
    """One visual: patches (P, C * p * p) whose tokens attend to each other, positions (P, 3)."""

    patches: Tensor
    patch_positions: Tensor


class PackedInput(NamedTuple):
    """The arguments of ``OneVisionEncoderModel.forward_packed``, in order.

    Attributes:
        patches: (P, C * p * p), all segments end to end.
        patch_positions: (P, 3).
        cu_seqlens: int32 (S + 1,), first 0, last P.
    """

    patches: Tensor
    patch_positions: Tensor
    cu_seqlens: Tensor


def image_segment(pixels: Tensor, patch_size: int = 14) -> Segment:
    """Make an image (C, H, W) one segment at t = 0."""
    if pixels.ndim != 3:
        raise ValueError(f"pixels must be an image (C, H, W), got shape {tuple(pixels.shape)}")
    return frames_segment(pixels.unsqueeze(0), patch_size)


def frames_segment(pixels: Tensor, patch_size: int = 14, virtual_frames: int = 64) -> Segment:
    """Make whole frames (F, C, H, W) one segment, spread evenly over the virtual time line."""
    patches, rows, columns = _cut(pixels, patch_size)
    slots = uniform_slots(pixels.shape[0], virtual_frames).to(pixels.device)
    return Segment(patches, grid_positions(slots, rows, columns))


def mosaics_segment(pixels: Tensor, patch_positions: Tensor, patch_size: int = 14) -> Segment:
    """Make all mosaics (G, C, H, W) of a codec clip one segment.

    Args:
        pixels: mosaics of one size.
        patch_positions: (P, 3), one row (t, h, w) per patch: mosaic after mosaic, row-major.
        patch_size: p.
    """
    patches, _, _ = _cut(pixels, patch_size)
    check_positions(patch_positions, [(patches.shape[0], 3)])
    return Segment(patches, patch_positions.to(pixels.device))


def pack(segments: Sequence[Segment]) -> PackedInput:
    """Lay segments end to end.

    Raises:
        ValueError: if there is none.
    """
    if not segments:
        raise ValueError("segments must hold at least one segment, got an empty list")
    lengths = torch.tensor([0] + [segment.patches.shape[0] for segment in segments])
    patches = torch.cat([segment.patches for segment in segments])
    return PackedInput(
        patches,
        torch.cat([segment.patch_positions for segment in segments]),
        lengths.cumsum(0).to(patches.device, torch.int32),
    )


def _cut(pixels: Tensor, patch_size: int) -> tuple[Tensor, int, int]:
    """Frames (F, C, H, W) as patches (P, C * p * p), rows and columns of a frame."""
    if pixels.ndim != 4:
        raise ValueError(
            "pixels must be frames or mosaics (F, C, H, W) of one size, "
            f"got shape {tuple(pixels.shape)}"
        )
    check_pixels(pixels, pixels.shape[1], patch_size)
    patches = patchify(pixels.transpose(0, 1).unsqueeze(0), patch_size)[0]
    return patches, pixels.shape[2] // patch_size, pixels.shape[3] // patch_size
