"""The LLaVA models. Importing this package registers them with the library's Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM

from llava.model.configuration import LlavaConfigFields
from llava.model.llava_qwen import LlavaQwenConfig, LlavaQwenForCausalLM
from llava.model.llava_qwen3 import LlavaQwen3Config, LlavaQwen3ForCausalLM

AutoConfig.register(LlavaQwen3Config.model_type, LlavaQwen3Config, exist_ok=True)
AutoConfig.register(LlavaQwenConfig.model_type, LlavaQwenConfig, exist_ok=True)
AutoModelForCausalLM.register(LlavaQwen3Config, LlavaQwen3ForCausalLM, exist_ok=True)
AutoModelForCausalLM.register(LlavaQwenConfig, LlavaQwenForCausalLM, exist_ok=True)

__all__ = [
    "LlavaConfigFields",
    "LlavaQwen3Config",
    "LlavaQwen3ForCausalLM",
    "LlavaQwenConfig",
    "LlavaQwenForCausalLM",
]
