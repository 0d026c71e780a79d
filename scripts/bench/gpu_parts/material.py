"""Random models of published shapes and batches of the data that ``assets.py`` wrote."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu_parts.bench import Bench, LeftOutError
from llava.constants import IMAGE_TOKEN
from llava.data.collator import Batch, Collator
from llava.data.dataset import SupervisedDataset
from llava.data.sampler import packed_rows
from llava.model import LlavaQwen3Config, LlavaQwen3ForCausalLM
from llava.model.processing import LlavaProcessor
from llava.model.tiny import tiny_model, tiny_tokenizer
from llava.train.batches import to_device
from llava.train.parts import PARTS, set_trainable
from llava.visual.config import VisualConfig
from onevision_encoder import OneVisionEncoderConfig

ROW_TOKENS, TINY_ROW_TOKENS = 16384, 1024
SHAPES: dict[str, dict[str, Any]] = {
    "0.6b": {"hidden_size": 1024, "intermediate_size": 3072},
    "1.7b": {"hidden_size": 2048, "intermediate_size": 6144},
}
"""What differs between the decoders of Qwen3-0.6B and Qwen3-1.7B."""
SHARED = {
    "vocab_size": 151936,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40960,
}


def build(bench: Bench, size: str) -> Any:
    """Return a random model: encoder large with a decoder of Qwen3's shape, or a tiny one."""
    torch.manual_seed(0)
    if bench.tiny:
        model: Any = tiny_model(tiny_tokenizer(), patches_per_side=4)
    else:
        config = LlavaQwen3Config(
            **SHARED,
            **SHAPES[size],
            vision_config=OneVisionEncoderConfig().to_dict(),
            image_token_id=image_token(),
        )
        # On the device from the start: the host would take a minute for the random numbers.
        with bench.device:
            torch.set_default_dtype(bench.dtype)
            try:
                model = LlavaQwen3ForCausalLM(config)
            finally:
                torch.set_default_dtype(torch.float32)
    model.config.use_cache = False
    set_trainable(model, PARTS)
    return model.to(bench.device, bench.dtype).train()


def image_token() -> int:
    """Return the id of the placeholder token."""
    token: Any = tiny_tokenizer().convert_tokens_to_ids(IMAGE_TOKEN)
    return token


def visual_config(bench: Bench) -> VisualConfig:
    """Return how pictures are prepared."""
    return VisualConfig(patches_per_side=4) if bench.tiny else VisualConfig()


def dataset(bench: Bench, name: str) -> SupervisedDataset:
    """Open one of the data files.

    Raises:
        LeftOutError: if the data have not been made.
    """
    path = bench.assets / name
    if not path.is_file():
        raise LeftOutError(f"{path} is absent; make it with scripts/bench/gpu_parts/assets.py")
    return SupervisedDataset(path, tiny_tokenizer(), visual_config(bench), max_length=32768)


def packed_batch(bench: Bench, row: int = 0) -> Batch:
    """Return a packed row of real collated codec samples, pictures and texts."""
    samples = dataset(bench, "mixture.jsonl")
    lengths = np.array([sum(samples.length(index)) for index in range(len(samples))])
    most = TINY_ROW_TOKENS if bench.tiny else ROW_TOKENS
    rows = packed_rows(np.flatnonzero(lengths), lengths, most, 0)
    order = sorted(range(len(rows)), key=lambda each: -_tokens(rows, each, lengths))
    items = [samples[index] for index in rows.samples_of(np.array([order[row]]))]
    return Collator(0, image_token(), packed=True)(items)


def _tokens(rows: Any, row: int, lengths: np.ndarray) -> int:
    return int(lengths[rows.samples_of(np.array([row]))].sum())


def step(model: Any, batch: Batch) -> Callable[[], Tensor]:
    """Return a forward and backward pass of a batch that is on the device."""
    given: dict[str, Any] = {name: value for name, value in batch.items() if name != "info"}
    inputs = to_device(given, model.lm_head.weight.device)
    supervised = batch["layout"].num_supervised

    def run() -> Tensor:
        model.zero_grad()
        loss = model(**inputs, num_items_in_batch=supervised).loss
        loss.backward()
        return loss.detach()

    return run


def write_checkpoint(bench: Bench, size: str, folder: Path) -> None:
    """Write a random model with tokenizer and processor, unless it is there."""
    if folder.is_dir():
        return
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model = build(bench, size)
    model.config.use_cache = True
    model.save_pretrained(unfinished)
    LlavaProcessor(tiny_tokenizer(), visual_config(bench)).save_pretrained(unfinished)
    unfinished.rename(folder)
