"""Low-rank adapters (LoRA) on the language model, in files that peft reads.

A folder of adapters holds ``adapter_config.json`` and ``adapter_model.safetensors`` as peft writes
them, ``non_lora_trainables.safetensors`` with the projector and every other weight that was tuned,
the model's configuration and the processor. The base weights stay where they are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
TUNED_FILE = "non_lora_trainables.safetensors"
_TARGETS = r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
_NAME = "default"
_PEFT_PREFIX = "base_model.model."
_PROJECTOR = "model.mm_projector."


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Size of the adapters.

    Attributes:
        rank: of each product of two matrices.
        alpha: the product counts alpha / rank times.
        dropout: on the adapters' input, in training.

    Raises:
        ValueError: for numbers that cannot work.
    """

    rank: int = 64
    alpha: int = 16
    dropout: float = 0.05

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "--lora_r and --lora_alpha must be at least 1 and --lora_dropout in [0, 1), got "
                f"{self.rank}, {self.alpha} and {self.dropout}"
            )


def is_adapter(parameter_name: str) -> bool:
    """Whether a parameter, by its full name, is part of an adapter."""
    return not {"lora_A", "lora_B"}.isdisjoint(parameter_name.split("."))


def add_adapters(model: nn.Module, settings: LoraSettings, *, base: str) -> "LoraConfig":
    """Put adapters on every linear layer of the decoder, in place.

    Args:
        model: a LLaVA language model.
        settings: size of the adapters.
        base: where the model came from, kept in the adapters' configuration.

    Returns:
        peft's configuration, for ``save_adapters``.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_TARGETS,
        base_model_name_or_path=str(Path(base).resolve()) if Path(base).is_dir() else base,
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(config, model, adapter_name=_NAME)
    return config


def save_adapters(
    folder: Path, config: "LoraConfig", weights: dict[str, Tensor], tuned: set[str]
) -> None:
    """Write the adapters, and the other weights of ``tuned`` with the projector's.

    Args:
        folder: exists.
        config: from ``add_adapters``.
        weights: all weights of the model by name.
        tuned: names of the weights that were tuned.
    """
    adapters: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        kept = tensor.detach().cpu().contiguous()
        if is_adapter(name):
            adapters[_PEFT_PREFIX + name.replace(f".{_NAME}.", ".")] = kept
        elif name in tuned or name.startswith(_PROJECTOR):
            others[name] = kept
    config.save_pretrained(str(folder))
    save_file(adapters, folder / ADAPTER_FILE)
    save_file(others, folder / TUNED_FILE)


def load_adapter_weights(model: nn.Module, folder: Path) -> None:
    """Read what ``save_adapters`` wrote into a model that has its adapters.

    Raises:
        ValueError: if names or shapes do not fit the model.
    """
    weights = load_file(folder / TUNED_FILE)
    for name, tensor in load_file(folder / ADAPTER_FILE).items():
        module, _, leaf = name.removeprefix(_PEFT_PREFIX).rpartition(".")
        weights[f"{module}.{_NAME}.{leaf}"] = tensor
    adapters = {name for name, _ in model.named_parameters() if is_adapter(name)}
    try:
        unexpected = model.load_state_dict(weights, strict=False).unexpected_keys
    except RuntimeError as error:  # shapes that differ
        raise ValueError(f"the adapters in {folder} do not fit their base model: {error}") from None
    absent = sorted(adapters - weights.keys())
    if unexpected or absent:
        raise ValueError(
            f"the adapters in {folder} do not fit their base model: absent {absent[:3]}, "
            f"unexpected {unexpected[:3]}; is it the model that they were trained on?"
        )


def restore_adapters(model: nn.Module, folder: Path) -> None:
    """Put the adapters of a folder on their base model, in place."""
    from peft import LoraConfig, inject_adapter_in_model

    config: Any = LoraConfig.from_pretrained(str(folder))
    inject_adapter_in_model(config, model, adapter_name=_NAME)
    load_adapter_weights(model, folder)


def merge_adapters(model: nn.Module) -> None:
    """Add the adapters into the weights they stand beside, and remove them, in place."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            layer: Any = module
            layer.merge(safe_merge=True)
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, layer.get_base_layer())
