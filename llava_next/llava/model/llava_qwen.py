"""LLaVA on a Qwen3 (``model_type`` llava_qwen3) or Qwen2 decoder (llava_qwen).

The two differ only in their base classes.
"""

from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from llava.model.configuration import LlavaConfigFields
from llava.model.llava_arch import LlavaForCausalLMMixin, LlavaModelMixin


class LlavaQwen3Config(LlavaConfigFields, Qwen3Config):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A Qwen3 configuration with the fields of ``LlavaConfigFields``."""

    model_type = "llava_qwen3"


class LlavaQwen3Model(LlavaModelMixin, Qwen3Model):
    """A Qwen3 decoder with vision tower and projector."""

    config_class = LlavaQwen3Config


class LlavaQwen3ForCausalLM(LlavaForCausalLMMixin, Qwen3ForCausalLM):
    """A Qwen3 language model that takes images, frames and codec mosaics."""

    config_class = LlavaQwen3Config

    def __init__(self, config: LlavaQwen3Config) -> None:
        super(Qwen3ForCausalLM, self).__init__(config)
        self._build(LlavaQwen3Model, config)


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
