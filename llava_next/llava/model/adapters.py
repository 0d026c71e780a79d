"""Low-rank adapters (LoRA) on the language model, in files that peft reads.

A folder of adapters holds what peft itself would write: ``adapter_config.json`` and
``adapter_model.safetensors`` with the adapters, the projector and, where it was tuned, the vision
tower (peft's ``modules_to_save``). ``PeftModel.from_pretrained(base, folder)`` loads all of it. The
model's configuration and the processor are next to them. The base weights are not copied.
"""

import copy
import json
import os
import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
EARLIER_TUNED_FILE = "non_lora_trainables.safetensors"
"""Where earlier versions of this project saved the projector and other tuned weights."""
_TARGETS = r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
_NAME = "default"
_PEFT_PREFIX = "base_model.model."
_PROJECTOR, _TOWER = "model.mm_projector", "model.vision_tower"


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Size of the adapters.

    Attributes:
        rank: rank of each adapter, the inner size of its two matrices.
        alpha: scale of the adapters; their product is multiplied by alpha / rank.
        dropout: dropout on the adapters' input during training.

    Raises:
        ValueError: A number is out of range.
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


QUANT_TYPES = ("nf4", "fp4")


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """How the frozen language model is kept in 4 bits (QLoRA).

    Attributes:
        quant_type: ``nf4`` or ``fp4``.
        double_quant: whether the scales of blocks are quantised, too.
    """

    quant_type: str = "nf4"
    double_quant: bool = True

    def __post_init__(self) -> None:
        if self.quant_type not in QUANT_TYPES:
            raise ValueError(
                f"--quant_type must be one of {', '.join(QUANT_TYPES)}, got {self.quant_type!r}"
            )


def quantise_decoder(
    model: nn.Module, settings: Quantisation, *, device: torch.device, compute_dtype: torch.dtype
) -> None:
    """Keep the weights of the decoder's linear layers in 4 bits, in place, by bitsandbytes.

    Tower, projector, embeddings and head stay as they are. Call before ``add_adapters``.

    Args:
        model: a LLaVA language model.
        settings: kind of the 4 bits.
        device: where the weights are used; they are quantised there, layer by layer.
        compute_dtype: type that a layer's weights get for its product.

    Raises:
        ValueError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ValueError("--bits 4 needs the package bitsandbytes; pip install bitsandbytes")
    kinds: Any = import_module("bitsandbytes.nn")
    target = re.compile(_TARGETS)
    for name, module in list(model.named_modules()):
        if not target.fullmatch(name) or not isinstance(module, nn.Linear):
            continue
        layer: Any = kinds.Linear4bit(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            compute_dtype=compute_dtype,
            compress_statistics=settings.double_quant,
            quant_type=settings.quant_type,
            device="meta",
        )
        layer.weight = kinds.Params4bit(
            module.weight.detach(),
            requires_grad=False,
            quant_type=settings.quant_type,
            compress_statistics=settings.double_quant,
            module=layer,
        )
        layer.bias = module.bias
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.to(device))


def is_adapter(parameter_name: str) -> bool:
    """Return whether a parameter, by its full name, is part of an adapter."""
    return not {"lora_A", "lora_B"}.isdisjoint(parameter_name.split("."))


def add_adapters(model: nn.Module, settings: LoraSettings, *, base: str) -> "LoraConfig":
    """Put adapters on every linear layer of the decoder, in place.

    Args:
        model: a LLaVA language model.
        settings: size of the adapters.
        base: folder or Hub repository that the model came from, for the adapters' configuration.

    Returns:
        peft's configuration, for ``save_adapters``.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_TARGETS,
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
    )
    # peft takes its layers for 4 bits where the model says that it has some.
    marked: Any = model
    marked.is_loaded_in_4bit = any("4bit" in type(module).__name__ for module in model.modules())
    inject_adapter_in_model(config, model, adapter_name=_NAME)
    del marked.is_loaded_in_4bit
    return config


def save_adapters(
    folder: Path,
    config: "LoraConfig",
    weights: dict[str, Tensor],
    tuned: set[str],
    *,
    final_folder: Path | None = None,
) -> None:
    """Write the adapters, the projector, and the vision tower where any of it was tuned.

    Args:
        folder: an existing folder.
        config: the result of ``add_adapters``.
        weights: all weights of the model by name; each is whole, not a shard of it.
        tuned: names of the weights that were tuned.
        final_folder: where the folder will be moved to, if it will; a base model on this machine
            is recorded relative to it, so that both can be moved together.
    """
    modules = [_PROJECTOR]
    if any(name.startswith(f"{_TOWER}.") for name in tuned):
        modules.append(_TOWER)
    prefixes = tuple(f"{module}." for module in modules)
    saved = {
        _PEFT_PREFIX + name.replace(f".{_NAME}.", "."): tensor.detach().cpu().contiguous()
        for name, tensor in weights.items()
        if is_adapter(name) or name.startswith(prefixes)
    }
    base = str(config.base_model_name_or_path)
    written: Any = copy.copy(config)
    written.modules_to_save = modules
    if Path(base).is_dir():
        start = (folder if final_folder is None else final_folder).resolve()
        written.base_model_name_or_path = os.path.relpath(Path(base).resolve(), start)
    written.save_pretrained(str(folder))
    save_file(saved, folder / ADAPTER_FILE, metadata={"format": "pt"})


def base_model_of(folder: Path) -> str:
    """Return folder or Hub repository of the base model that a folder of adapters names.

    A relative path counts from the folder of adapters, and from the working folder where nothing
    is found there.

    Raises:
        ValueError: if the folder names no base model.
    """
    path = folder / ADAPTER_CONFIG_FILE
    name = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{path} must name base_model_name_or_path, got {name!r}; add it")
    if not os.path.isabs(name) and (folder / name).is_dir():
        return str((folder / name).resolve())
    return name


def load_adapter_weights(model: nn.Module, folder: Path) -> None:
    """Read the weights of a folder of adapters into a model that has its adapters, in place.

    Folders of earlier versions, with a second file of tuned weights, are read as well.

    Raises:
        ValueError: if names or shapes do not fit the model.
    """
    earlier = folder / EARLIER_TUNED_FILE
    weights = load_file(earlier) if earlier.is_file() else {}
    for saved_name, tensor in load_file(folder / ADAPTER_FILE).items():
        name = saved_name.removeprefix(_PEFT_PREFIX)
        if is_adapter(name):
            module, _, leaf = name.rpartition(".")
            name = f"{module}.{_NAME}.{leaf}"
        weights[name] = tensor
    expected = {
        name
        for name, _ in model.named_parameters()
        if is_adapter(name) or name.startswith(f"{_PROJECTOR}.")
    }
    try:
        unexpected = model.load_state_dict(weights, strict=False).unexpected_keys
    except RuntimeError as error:  # shapes that differ
        raise ValueError(f"the adapters in {folder} do not fit their base model: {error}") from None
    absent = sorted(expected - weights.keys())
    if unexpected or absent:
        raise ValueError(
            f"the adapters in {folder} do not fit their base model: absent {absent[:3]}, "
            f"unexpected {unexpected[:3]}; is it the model that they were trained on?"
        )


def restore_adapters(model: nn.Module, folder: Path) -> None:
    """Put the adapters of a folder on their base model, in place."""
    from peft import LoraConfig, inject_adapter_in_model

    config: Any = LoraConfig.from_pretrained(str(folder))
    config.modules_to_save = None  # read into the model's own modules, not into copies of them
    inject_adapter_in_model(config, model, adapter_name=_NAME)
    load_adapter_weights(model, folder)


def merge_adapters(model: nn.Module) -> None:
    """Add the adapters to the weights of their layers and remove them, in place."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            layer: Any = module
            layer.merge(safe_merge=True)
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, layer.get_base_layer())
