"""Load a LLaVA checkpoint of this project for inference."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import llava.model  # noqa: F401  (registers the model types)
from llava.model.llava_arch import LlavaForCausalLMMixin
from llava.model.processing import LlavaProcessor


def load_pretrained(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = "auto",
    attn_implementation: str | None = None,
) -> tuple[LlavaForCausalLMMixin, LlavaProcessor]:
    """Load model and processor from a folder, ready for ``generate``.

    Args:
        path: a folder written by training or by ``python -m llava.model.tiny``.
        device: where to put the model.
        dtype: of the weights; "auto" takes the checkpoint's.
        attn_implementation: of decoder and encoder; None takes the library's choice.

    Returns:
        The model in evaluation mode, and the processor.

    Raises:
        ValueError: if the folder is no such checkpoint, or holds another kind of model.
    """
    processor = LlavaProcessor.from_pretrained(path)
    model: Any = AutoModelForCausalLM.from_pretrained(
        str(path),
        dtype=dtype,
        attn_implementation=attn_implementation,
        device_map={"": device},
    )
    if not isinstance(model, LlavaForCausalLMMixin):
        raise ValueError(
            f"{path} must hold a LLaVA model, got model_type {model.config.model_type!r}"
        )
    return model.eval(), processor
