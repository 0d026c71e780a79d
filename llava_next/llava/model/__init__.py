"""The LLaVA models. Importing this package registers them with the library's Auto classes."""

from packaging.version import Version
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)
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
from llava.model.processing import LlavaProcessor  # noqa: E402

for _config, _model in (
    (LlavaQwen3Config, LlavaQwen3ForCausalLM),
    (LlavaQwenConfig, LlavaQwenForCausalLM),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForCausalLM.register(_config, _model, exist_ok=True)
    AutoModelForImageTextToText.register(_config, _model, exist_ok=True)
    AutoProcessor.register(_config, LlavaProcessor, exist_ok=True)

__all__ = [
    "LlavaConfigFields",
    "LlavaProcessor",
    "LlavaQwen3Config",
    "LlavaQwen3ForCausalLM",
    "LlavaQwenConfig",
    "LlavaQwenForCausalLM",
]
