"""Pictures for TensorBoard of what a step is shown: mosaics, frames and images, as patches.

Axis letters: P patches of a segment, p side of a patch and g side of a mosaic, in patches.
"""

import math
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llava.visual.batch import VisualBatch

_MOST_SEGMENTS = 2
_MOST_MOSAICS = 4


def draw_segment(patches: Tensor, positions: Tensor, side: int, merged: int = 1) -> Tensor:
    """Return the picture of a segment.

    Args:
        patches: uint8 (P, 3 * p * p), element order (channel, row, column).
        positions: int64 (P, 3), rows (t, h, w).
        side: g, of mosaics and frames.
        merged: patches of one visual token, which follow each other as a square block.

    Returns:
        uint8 (height, width, 3): an image by its positions; of a clip the first mosaics or frames,
        left to right.
    """
    pixels = math.isqrt(patches.shape[1] // 3)
    cells = patches.unflatten(1, (3, pixels, pixels)).permute(0, 2, 3, 1)  # (P, p, p, 3)
    h, w = positions[:, 1], positions[:, 2]
    height, width = int(h.max()) + 1, int(w.max()) + 1
    is_image = not positions[:, 0].any() and height * width == len(patches)
    if not is_image:
        if len(patches) % (side * side):
            raise ValueError(f"{len(patches)} patches are no mosaics of {side} x {side}")
        count = min(len(patches) // (side * side), _MOST_MOSAICS)
        cells, (h, w) = cells[: count * side * side], _raster(side, count, merged)
        height, width = side, side * count
    picture = torch.zeros(height, width, pixels, pixels, 3, dtype=torch.uint8)
    picture[h, w] = cells
    return picture.permute(0, 2, 1, 3, 4).reshape(height * pixels, width * pixels, 3)


def _raster(side: int, count: int, merged: int) -> tuple[Tensor, Tensor]:
    """Return row and column of each patch of mosaics side by side, in the order of the tokens."""
    block = math.isqrt(merged)
    numbers = torch.arange(count * side * side)
    token, inside = numbers // merged, numbers % merged
    per_row = side // block
    mosaic, place = token // per_row**2, token % per_row**2
    rows = place // per_row * block + inside // block
    columns = place % per_row * block + inside % block
    return rows, mosaic * side + columns


class MosaicPictures(TrainerCallback):
    """Writes visuals of a step to TensorBoard: at the first step and every N steps.

    Args:
        writer: the library's callback that has the writer of the run.
        every_steps: N.
        side: side of a mosaic, in patches.
    """

    def __init__(self, writer: Any, every_steps: int, side: int) -> None:
        self._writer, self._every_steps, self._side = writer, every_steps, side
        self._drawn_step = -1

    def show(self, visual: VisualBatch | None, step: int) -> None:
        """Draw the first visuals of a batch that is on the host, where it is time to.

        Args:
            visual: the visuals; floating patches, which have no bytes to show, are left out.
            step: number of the step, from 1.
        """
        tensorboard = getattr(self._writer, "tb_writer", None)
        is_due = step == 1 or step % self._every_steps == 0
        if tensorboard is None or visual is None or not is_due or step == self._drawn_step:
            return
        if visual.patches.dtype != torch.uint8:
            return
        self._drawn_step = step
        bounds = visual.cu_seqlens.tolist()[: _MOST_SEGMENTS + 1]
        for number, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
            picture = draw_segment(
                visual.patches[start:end],
                visual.positions[start:end],
                self._side,
                visual.patches_per_token,
            )
            tensorboard.add_image(f"visuals/{number}", picture.numpy(), step, dataformats="HWC")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let go of the writer, which the library closes."""
        self._writer = None
