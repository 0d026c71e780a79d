"""Load a LLaVA checkpoint of this project for inference."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import llava.model  # noqa: F401  (registers the model types)
from llava.model.adapters import ADAPTER_CONFIG_FILE, base_model_of, restore_adapters
from llava.model.assemble import ModelSource, load_model, needs_tower
from llava.model.configuration import LlavaConfigFields
from llava.model.llava_arch import LlavaForCausalLMMixin
from llava.model.processing import LlavaProcessor
from llava.model.weights import resolve_folder


def load_pretrained(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = "auto",
    attn_implementation: str | None = None,
) -> tuple[LlavaForCausalLMMixin, LlavaProcessor]:
    """Load model and processor from a folder, ready for ``generate``.

    Args:
        path: a folder written by training or by ``python -m llava.model.tiny``, also one of
            adapters, or a checkpoint as LLaVA-NeXT writes it (its tower is then taken from
            ``mm_vision_tower``).
        device: where to put the model.
        dtype: dtype of the weights; "auto" takes the checkpoint's.
        attn_implementation: attention of decoder and encoder; None takes ``varlen`` on a
            GPU that runs it, else ``sdpa``.

    Returns:
        The model in evaluation mode, and the processor.

    Raises:
        ValueError: if the folder is no such checkpoint, or holds another kind of model.
    """
    folder = resolve_folder(str(path))
    if (folder / ADAPTER_CONFIG_FILE).is_file():
        return _load_adapted(folder, device, dtype, attn_implementation)
    if needs_tower(folder):
        source = ModelSource(model_name_or_path=str(folder))
        loaded = load_model(
            source, dtype=_dtype(folder, dtype), attn_implementation=attn_implementation
        )
        return _ready(loaded[0], device), loaded[1]
    processor = LlavaProcessor.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype=dtype,
        attn_implementation=attn_implementation,
        device_map={"": device},
    )
    if not isinstance(model, LlavaForCausalLMMixin):
        raise ValueError(
            f"{path} must hold a LLaVA model, got model_type {model.config.model_type!r}"
        )
    return model.eval(), processor


def _load_adapted(
    folder: Path, device: torch.device | str, dtype: torch.dtype | str, attention: str | None
) -> tuple[LlavaForCausalLMMixin, LlavaProcessor]:
    """Load the base model of a folder of adapters, and the adapters."""
    config: Any = AutoConfig.from_pretrained(folder)
    source = ModelSource(model_name_or_path=base_model_of(folder))
    language_model = AutoConfig.from_pretrained(resolve_folder(source.model_name_or_path))
    if not isinstance(language_model, LlavaConfigFields):
        source = replace(
            source,
            vision_tower=config.mm_vision_tower,
            projector_type=config.mm_projector_type,
            select_layer=config.mm_vision_select_layer,
        )
    model, _ = load_model(source, dtype=_dtype(folder, dtype), attn_implementation=attention)
    restore_adapters(model, folder)  # pyright: ignore[reportArgumentType]
    return _ready(model, device), LlavaProcessor.from_pretrained(folder)


def _dtype(folder: Path, dtype: torch.dtype | str) -> torch.dtype:
    """Return a dtype by name; "auto" is that of the configuration."""
    named: Any = AutoConfig.from_pretrained(folder).dtype if dtype == "auto" else dtype
    if named is None:
        return torch.float32
    return named if isinstance(named, torch.dtype) else getattr(torch, named)


def _ready(model: Any, device: torch.device | str) -> LlavaForCausalLMMixin:
    return model.to(device).eval()
