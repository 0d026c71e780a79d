"""The LLaVA models. Importing this package registers them with the library's Auto classes."""

from packaging.version import Version
from transformers import AutoConfig, AutoModelForCausalLM
from transformers import __version__ as transformers_version

if Version(transformers_version) < Version("5.7"):
    raise ImportError(
        f"llava needs transformers 5.7 or newer, got {transformers_version}; install it by "
        "pip install -e '.[train,eval]' (the encoder alone runs with 4.53 and newer)"
    )

from llava.model.configuration import LlavaConfigFields  # noqa: E402
from llava.model.llava_qwen import (  # noqa: E402
    LlavaQwen3Config,
    LlavaQwen3ForCausalLM,
    LlavaQwenConfig,
    LlavaQwenForCausalLM,
)

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
