"""LLaVA on a Qwen2 decoder (``model_type`` llava_qwen)."""

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from llava.model.configuration import LlavaConfigFields
from llava.model.llava_arch import LlavaForCausalLMMixin, LlavaModelMixin


class LlavaQwenConfig(LlavaConfigFields, Qwen2Config):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A Qwen2 configuration with the fields of ``LlavaConfigFields``."""

    model_type = "llava_qwen"


class LlavaQwenModel(LlavaModelMixin, Qwen2Model):
    """A Qwen2 decoder with vision tower and projector."""

    config_class = LlavaQwenConfig


class LlavaQwenForCausalLM(LlavaForCausalLMMixin, Qwen2ForCausalLM):
    """A Qwen2 language model that takes images, frames and codec mosaics."""

    config_class = LlavaQwenConfig

    def __init__(self, config: LlavaQwenConfig) -> None:
        super(Qwen2ForCausalLM, self).__init__(config)
        self._build(LlavaQwenModel, config)
