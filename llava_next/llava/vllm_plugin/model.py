"""The model as vLLM runs it: its own Qwen decoder, our encoder and projector.

Axis letters: P patches of all items of a call, D vision width, H language-model width.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig  # pyright: ignore[reportMissingImports]
from vllm.model_executor.models.interfaces import (  # pyright: ignore[reportMissingImports]
    MultiModalEmbeddings,
    SupportsMultiModal,
    SupportsPP,
)
from vllm.model_executor.models.utils import (  # pyright: ignore[reportMissingImports]
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY  # pyright: ignore[reportMissingImports]
from vllm.sequence import IntermediateTensors  # pyright: ignore[reportMissingImports]

from llava.constants import IMAGE_TOKEN, VIDEO_TOKEN
from llava.model.llava_arch import VisionTower
from llava.model.projector import build_projector
from llava.model.weights import resolve_folder
from llava.visual.batch import Normalisation, VisualBatch
from llava.visual.config import read_processor_settings
from llava.vllm_plugin.processing import (
    MODALITIES,
    LlavaDummyInputs,
    LlavaProcessingInfo,
    LlavaVllmProcessor,
)


class _LlavaForVllm(nn.Module, SupportsMultiModal, SupportsPP):
    """A decoder of vLLM that sees what our encoder and projector make of patches.

    Encoder and projector are whole on every rank; tensor parallelism splits the decoder alone.
    """

    decoder: ClassVar[str]
    """Name of the decoder's class in vLLM's registry."""

    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            "model.vision_tower.": "vision_tower.",
            "model.mm_projector.": "mm_projector.",
            "model.": "language_model.model.",
            "lm_head.": "language_model.lm_head.",
        }
    )

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Return what a chat template writes for a picture or a video.

        Raises:
            ValueError: if it is neither.
        """
        tokens = {"image": IMAGE_TOKEN, "video": VIDEO_TOKEN}
        if modality not in tokens:
            raise ValueError(f"a prompt shows pictures and videos, got {modality}")
        return tokens[modality]

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config: Any = vllm_config.model_config.hf_config
        self.config = config
        folder = resolve_folder(vllm_config.model_config.model)
        visual = read_processor_settings(folder).visual
        self.normalisation = Normalisation(visual.image_mean, visual.image_std)
        with self._mark_tower_model(vllm_config, set(MODALITIES)):
            self.vision_tower = VisionTower(config)
            self.mm_projector = build_projector(
                config.mm_projector_type, config.require_vision().hidden_size, config.hidden_size
            )
        with self._mark_language_model(vllm_config):
            self.language_model: Any = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=[self.decoder],
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
        """Encode all items of a call in one packed pass.

        Args:
            **kwargs: the fields of ``LlavaVllmProcessor`` for one or both modalities.

        Returns:
            Per item its visual tokens (tokens, H), modalities in the order of the arguments.
        """
        fields: dict[str, Any] = kwargs
        found = [name.removesuffix("_patches") for name in fields if name.endswith("_patches")]
        if not found:
            return []
        lengths = [
            int(count) for name in found for count in torch.as_tensor(fields[f"{name}_lengths"])
        ]
        patches: Tensor = torch.cat([fields[f"{name}_patches"] for name in found])
        device = patches.device
        visual = VisualBatch(
            patches=patches,
            positions=torch.cat([fields[f"{name}_positions"] for name in found]),
            cu_seqlens=torch.tensor((0, *lengths)).cumsum(0).to(device, torch.int32),
            sample_index=torch.zeros(len(lengths), dtype=torch.int64, device=device),
            source_index=torch.arange(len(lengths), device=device),
            patches_per_token=self.config.patches_per_token,
            segment_lengths=tuple(lengths),
            normalisation=self.normalisation,
        )
        features = self.mm_projector(self.vision_tower(visual))
        return features.split([count // self.config.patches_per_token for count in lengths])

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor | IntermediateTensors:
        """Run the decoder over tokens, or over embeddings that already hold the visual ones."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(
            input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds
        )

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Return the logits of the next tokens."""
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the weights of a checkpoint by their names there; return the names here."""
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)


_register = MULTIMODAL_REGISTRY.register_processor(
    LlavaVllmProcessor, info=LlavaProcessingInfo, dummy_inputs=LlavaDummyInputs
)


@_register
class LlavaQwen3ForVllm(_LlavaForVllm):
    """Checkpoints of ``model_type`` llava_qwen3."""

    decoder = "Qwen3ForCausalLM"


@_register
class LlavaQwenForVllm(_LlavaForVllm):
    """Checkpoints of ``model_type`` llava_qwen."""

    decoder = "Qwen2ForCausalLM"
