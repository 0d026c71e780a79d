"""Tiny encoders with random weights, and what the tests of the encoder compare them with."""

from collections.abc import Callable

import pytest
import torch
from transformers import AutoImageProcessor, PreTrainedModel

from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel

TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}


@pytest.fixture
def tiny_model() -> Callable[..., OneVisionEncoderModel]:
    """Builds an encoder in eval mode; weights are spread wide so that every part matters."""

    def build(seed: int = 0, **settings: object) -> OneVisionEncoderModel:
        generator = torch.Generator().manual_seed(seed)
        model = OneVisionEncoderModel(OneVisionEncoderConfig(**{**TINY, **settings}))
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * 0.2 + (parameter.ndim == 1))
        return model.eval()

    return build


@pytest.fixture
def auto_image_processor() -> None:
    """Skip where this version of transformers offers its Auto class only with torchvision."""
    try:
        AutoImageProcessor.register  # noqa: B018
    except ImportError:
        pytest.skip("AutoImageProcessor of this transformers needs torchvision")


@pytest.fixture
def switchable_backend() -> None:
    """Skip where this version of transformers cannot switch backends at run time."""
    if not hasattr(PreTrainedModel, "set_attn_implementation"):
        pytest.skip("this transformers has no set_attn_implementation")
