"""The vision tower: the OneVision encoder as LLaVA calls it, all visuals of a batch at once.

Axis letters: P patches of the whole batch, D vision width, p side of a patch in pixels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from llava.model.configuration import LlavaConfigFields
from llava.visual.batch import VisualBatch
from onevision_encoder import OneVisionEncoderModel


class VisionTower(nn.Module):
    """Holds the encoder under ``vision_tower``, so that weight names match LLaVA-NeXT's."""

    def __init__(self, config: LlavaConfigFields) -> None:
        super().__init__()
        self.vision_tower = OneVisionEncoderModel(config.require_vision())
        self.output_layer = config.mm_vision_select_layer

    def forward(self, visual: VisualBatch) -> Tensor:
        """Encode every segment with its own (t, h, w) positions. Returns (P, D)."""
        return self.vision_tower.forward_packed(
            visual.patches.to(self.vision_tower.dtype),
            visual.positions,
            visual.cu_seqlens,
            output_layer=self.output_layer,
        )

    def dummy_batch(self, device: torch.device, patches: int) -> VisualBatch:
        """One token of black patches at the origin, for a step whose samples hold no visual."""
        config = self.vision_tower.config
        width = config.num_channels * config.patch_size**2
        zero = torch.zeros(1, dtype=torch.int64, device=device)
        return VisualBatch(
            patches=torch.zeros(patches, width, device=device),
            positions=torch.zeros(patches, 3, dtype=torch.int64, device=device),
            cu_seqlens=torch.tensor([0, patches], dtype=torch.int32, device=device),
            sample_index=zero,
            source_index=zero,
            patches_per_token=patches,
        )

    def unused_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters above the layer that is read: they never receive a gradient."""
        encoder = self.vision_tower
        unused: list[nn.Module | None] = [encoder.head]
        if self.output_layer != -1:
            first_unused = len(encoder.encoder.layers) + 1 + self.output_layer
            unused += [encoder.layernorm_post, *encoder.encoder.layers[first_unused:]]
        for module in unused:
            if module is not None:
                yield from module.parameters()
