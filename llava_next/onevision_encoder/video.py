"""Turn the frames of a video into the encoder's arguments.

Axis letters: C channels, F frames, H and W pixels, L tokens, (t, h, w) positions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .image_processing_onevision_encoder import OneVisionEncoderImageProcessor
from .patches import grid_positions, uniform_slots


class VideoInput(NamedTuple):
    """Arguments of the encoder's ``forward``: ``model(**video._asdict())``.

    Attributes:
        pixel_values: (1, C, F, H, W).
        patch_positions: int64 (1, L, 3), rows (t, h, w).
    """

    pixel_values: Tensor
    patch_positions: Tensor


def prepare_video(
    frames: Sequence[Any],
    processor: OneVisionEncoderImageProcessor,
    *,
    num_frames: int = 16,
    virtual_frames: int = 64,
    **kwargs: Any,
) -> VideoInput:
    """Sample frames evenly, process them, and spread them over the virtual time line.

    Args:
        frames: PIL images, or an array or tensor of frames such as uint8 (F, H, W, 3).
        processor: the encoder's image processor.
        num_frames: how many frames to take: the floor of evenly spaced indices. A shorter video is
            taken whole.
        virtual_frames: length of the time line.
        kwargs: arguments of the processor, for example ``do_native_resolution=True``.

    Raises:
        ValueError: if there is no frame, frames differ in size, ``num_frames`` is below 1, or the
            processor is another one.
    """
    if not isinstance(processor, OneVisionEncoderImageProcessor):
        raise ValueError(
            "processor must be an OneVisionEncoderImageProcessor, which knows the patch size, got "
            f"{type(processor).__name__}; load it by OneVisionEncoderImageProcessor.from_pretrained"
        )
    if len(frames) == 0:
        raise ValueError("frames must hold at least one frame, got none")
    taken = uniform_slots(min(num_frames, len(frames)), len(frames)).tolist()
    batch = processor([frames[index] for index in taken], return_tensors="pt", **kwargs)
    if not isinstance(batch["pixel_values"], Tensor):
        sizes = sorted({tuple(frame.shape[-2:]) for frame in batch["pixel_values"]})
        raise ValueError(f"frames of a video must have one size, got {sizes}")
    pixels = batch["pixel_values"].transpose(0, 1).unsqueeze(0)
    side = processor.patch_size
    rows, columns = pixels.shape[-2] // side, pixels.shape[-1] // side
    slots = uniform_slots(len(taken), virtual_frames)
    return VideoInput(pixels, grid_positions(slots, rows, columns).unsqueeze(0))
