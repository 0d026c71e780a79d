"""Write a tiny random LLaVA checkpoint, for tests, the quickstart and smoke runs.

Run: ``python -m llava.model.tiny --out DIR [--seed 0] [--language_model qwen3|qwen2]``

Everything is made on the spot, nothing is downloaded: a 2-layer encoder, a 2-layer Qwen decoder
with grouped-query attention, a byte-level tokenizer with Qwen's special tokens, the processor. The
same arguments give the same bytes.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from llava.chat_template import chat_template
from llava.constants import IMAGE_TOKEN
from llava.conversation import IM_END, IM_START
from llava.model.llava_arch import LlavaForCausalLMMixin
from llava.model.llava_qwen import (
    LlavaQwen3Config,
    LlavaQwen3ForCausalLM,
    LlavaQwenConfig,
    LlavaQwenForCausalLM,
)
from llava.model.processing import LlavaProcessor
from llava.model.projector import MERGE_SIDE_PATCHES, PROJECTOR_TYPES
from llava.visual.config import VisualConfig
from onevision_encoder import OneVisionEncoderConfig
from run_kit.arguments import command_parser
from run_kit.exits import OK

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (
    END_OF_TEXT,
    IM_START,
    IM_END,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    IMAGE_TOKEN,
    "<|video_pad|>",
)
_LEARNT_VOCABULARY = 4096
"""Bound on a vocabulary that is learnt from texts."""


def tiny_tokenizer(texts: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with Qwen's special tokens.

    Args:
        texts: learn merges until each of their words is one token; without texts, every byte is
            a token.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if texts:
        trainer = trainers.BpeTrainer(
            vocab_size=_LEARNT_VOCABULARY,
            initial_alphabet=alphabet,
            show_progress=False,
            special_tokens=[],
        )
        tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        extra_special_tokens=list(SPECIAL_TOKENS),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = chat_template("qwen_1_5")
    return fast


def tiny_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    language_model: str = "qwen3",
    patches_per_side: int = 8,
    hidden_size: int = 128,
    projector_type: str = "mlp2x_gelu",
    encoder: Mapping[str, Any] = MappingProxyType({}),
    output_layer: int = -2,
) -> LlavaForCausalLMMixin:
    """Return a random model of about 0.5 million parameters, by the global random state.

    Args:
        tokenizer: gives the vocabulary and the ids of special tokens.
        language_model: "qwen3" or "qwen2".
        patches_per_side: grid of a square image.
        hidden_size: width of the decoder, a multiple of 4.
        projector_type: see ``llava.model.projector``.
        encoder: sizes of ``OneVisionEncoderConfig`` in place of the tiny ones.
        output_layer: which hidden state of the encoder is used; see ``mm_vision_select_layer``.
    """
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        **encoder,
    }
    config_class, model_class = {
        "qwen3": (LlavaQwen3Config, LlavaQwen3ForCausalLM),
        "qwen2": (LlavaQwenConfig, LlavaQwenForCausalLM),
    }[language_model]
    end_ids = [tokenizer.convert_tokens_to_ids(token) for token in (IM_END, END_OF_TEXT)]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden_size // 4,
        max_position_embeddings=32768,
        # The library's 0.02 suits widths of thousands; here it would drown the visual signal.
        initializer_range=hidden_size**-0.5,
        eos_token_id=end_ids[0],
        pad_token_id=tokenizer.pad_token_id,
        vision_config=OneVisionEncoderConfig(
            **sizes,
            image_size=14 * patches_per_side,
            initializer_range=sizes["hidden_size"] ** -0.5,
            use_head=False,
        ).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        mm_vision_tower="tiny",
        mm_projector_type=projector_type,
        mm_vision_select_layer=output_layer,
        mm_patches_per_side=patches_per_side,
    )
    model = model_class(config)
    model.generation_config = GenerationConfig(
        eos_token_id=end_ids, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model


def write_tiny_checkpoint(
    out: Path,
    *,
    seed: int = 0,
    language_model: str = "qwen3",
    patches_per_side: int = 8,
    hidden_size: int = 128,
    projector_type: str = "mlp2x_gelu",
    texts: Sequence[str] = (),
    encoder: Mapping[str, Any] = MappingProxyType({}),
    output_layer: int = -2,
) -> None:
    """Write model, tokenizer and processor into ``out``; the random state is left as it was.

    Args:
        out: folder, made where it is missing.
        seed: seed of the weights.
        language_model: "qwen3" or "qwen2".
        patches_per_side: grid of a square image.
        hidden_size: width of the decoder, a multiple of 4.
        projector_type: see ``llava.model.projector``.
        texts: see ``tiny_tokenizer``.
        encoder: see ``tiny_model``.
        output_layer: see ``tiny_model``.
    """
    tokenizer = tiny_tokenizer(texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = tiny_model(
            tokenizer,
            language_model=language_model,
            patches_per_side=patches_per_side,
            hidden_size=hidden_size,
            projector_type=projector_type,
            encoder=encoder,
            output_layer=output_layer,
        )
    model.save_pretrained(out)  # pyright: ignore[reportAttributeAccessIssue]
    visual = VisualConfig(
        patches_per_side=patches_per_side, merge_side_patches=MERGE_SIDE_PATCHES[projector_type]
    )
    LlavaProcessor(tokenizer, visual).save_pretrained(out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = command_parser("llava.model.tiny", "Write a tiny random LLaVA checkpoint.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights")
    parser.add_argument(
        "--language_model",
        choices=("qwen3", "qwen2"),
        default="qwen3",
        help="kind of decoder",
    )
    parser.add_argument(
        "--patches_per_side",
        type=int,
        default=8,
        help="side of a square image, in patches",
    )
    parser.add_argument(
        "--mm_projector_type",
        choices=PROJECTOR_TYPES,
        default="mlp2x_gelu",
        help="kind of projector",
    )
    args = parser.parse_args(argv)
    write_tiny_checkpoint(
        args.out,
        seed=args.seed,
        language_model=args.language_model,
        patches_per_side=args.patches_per_side,
        projector_type=args.mm_projector_type,
    )
    sys.stdout.write(f"{args.out}\n")
    return OK


if __name__ == "__main__":
    sys.exit(main())
