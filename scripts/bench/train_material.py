"""Models of several sizes and mixed samples, at random, for train.py."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX
from llava.data.dataset import Item
from llava.model import LlavaQwen3Config, LlavaQwen3ForCausalLM
from llava.model.tiny import tiny_model, tiny_tokenizer
from llava.train.parts import PARTS, set_trainable
from llava.visual.batch import VisualSegment
from onevision_encoder import OneVisionEncoderConfig
from onevision_encoder.export import SIZES
from onevision_encoder.patches import grid_positions, uniform_slots

PATCH_VALUES = 588
IMAGE_TOKEN = 5
QWEN3_2B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40960,
}
QWEN3_SMALL: dict[str, Any] = QWEN3_2B | {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
VISION_SMALL: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_hidden_layers": 7,
}


def build(size: str, device: torch.device, attention: str) -> Any:
    """Return a random model, ready to train."""
    torch.manual_seed(0)
    if size == "tiny":
        model: Any = tiny_model(tiny_tokenizer())
    else:
        large: dict[str, Any] = {**SIZES["large"], "use_head": False}
        vision: dict[str, Any] = large if size == "2b" else large | VISION_SMALL
        decoder = QWEN3_2B if size == "2b" else QWEN3_SMALL
        vision_config = OneVisionEncoderConfig(**vision).to_dict()
        config = LlavaQwen3Config(
            **decoder, vision_config=vision_config, image_token_id=IMAGE_TOKEN
        )
        with torch.device(device):
            model = LlavaQwen3ForCausalLM(config)
        if size == "2b":
            model.to(torch.bfloat16).gradient_checkpointing_enable()
    model.set_attn_implementation(attention)
    set_trainable(model, PARTS)
    return model.to(device).train()


def make_items(image_token: int, count: int, side: int) -> list[Item]:
    """Codec clips of 8 mosaics, images of up to 2 x 2 mosaics, and texts, in turn."""
    random = np.random.default_rng(0)
    items: list[Item] = []
    for number in range(count):
        rows, columns = random.integers(side, 2 * side + 1, 2).tolist()
        positions = [
            grid_positions(uniform_slots(8), side, side),
            grid_positions(uniform_slots(1), rows, columns),
            None,
        ]
        visual = positions[number % 3]
        text = int(random.integers(side, side * side + 1))
        items.append(make_item(image_token, visual, text, str(number)))
    return items


def make_item(image_token: int, visual: Tensor | None, text_tokens: int, name: str) -> Item:
    """One sample; the answer is the last three quarters of its text."""
    patches = 0 if visual is None else len(visual)
    text = torch.randint(6, 200, (text_tokens,))
    ids = torch.cat((torch.full((patches,), image_token), text))
    segments = []
    if visual is not None:
        segments = [VisualSegment(torch.randn(patches, PATCH_VALUES), visual, (patches,))]
    unsupervised = torch.arange(len(ids)) < patches + text_tokens // 4
    return Item(
        input_ids=ids,
        labels=ids.masked_fill(unsupervised, IGNORE_INDEX),
        segments=segments,
        sample_id=name,
        set_index=0,
        bad_samples=[],
    )
