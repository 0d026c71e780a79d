"""The processor: conversations and their visuals to what the model takes.

Saved next to a checkpoint as ``llava_processor.json`` and the tokenizer's own files, so that a
checkpoint says how its prompts and pixels were prepared.

Axis letters: B samples, T text tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llava.chat_template import chat_template
from llava.conversation import TEMPLATES, Turn, encode, expand_placeholders, render
from llava.visual.batch import VisualSegment, pack_segments
from llava.visual.config import (
    ProcessorSettings,
    VisualConfig,
    read_processor_settings,
    write_processor_settings,
)


class LlavaProcessor:
    """Tokenizer, prompt template and preprocessing settings of one checkpoint.

    Attributes:
        tokenizer: must know the image token and a padding token.
        pad_token_id: padding token of the tokenizer.
        visual: how pixels become patches.
        template: name of the prompt template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        visual: VisualConfig,
        template: str = "qwen_1_5",
    ) -> None:
        if not isinstance(tokenizer.pad_token_id, int):
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no padding token; set pad_token "
                "in its tokenizer_config.json (Qwen uses <|endoftext|>)"
            )
        if template not in TEMPLATES:
            raise ValueError(f"template must be one of {', '.join(TEMPLATES)}, got {template!r}")
        self.tokenizer = tokenizer
        # The language model's own template is not the one that this checkpoint is trained with.
        tokenizer.chat_template = chat_template(template)
        self.pad_token_id = tokenizer.pad_token_id
        self.visual = visual
        self.template = template

    def __call__(
        self,
        conversations: Sequence[Sequence[Turn]],
        segments: Sequence[Sequence[VisualSegment]],
        add_generation_prompt: bool = True,
    ) -> dict[str, Any]:
        """Prepare a batch for ``generate`` or a forward pass.

        Args:
            conversations: B conversations; ``<image>`` marks the place of a visual.
            segments: per conversation its visuals, in the order of their placeholders.
            add_generation_prompt: open the answer that is to be generated.

        Returns:
            ``input_ids`` and ``attention_mask``, int64 (B, T), padded on the LEFT, and ``visual``,
            a VisualBatch or None where no sample has one.

        Raises:
            ValueError: if placeholders and visuals of a sample differ in number.
        """
        if len(conversations) != len(segments):
            raise ValueError(
                "conversations and segments must have one entry per sample, got "
                f"{len(conversations)} and {len(segments)}"
            )
        rows: list[list[int]] = []
        for index, (turns, visuals) in enumerate(zip(conversations, segments, strict=True)):
            sample = f"sample {index}"
            pieces = render(
                turns, self.template, sample=sample, add_generation_prompt=add_generation_prompt
            )
            counts = [count for segment in visuals for count in segment.placeholder_tokens]
            rows.append(
                encode(expand_placeholders(pieces, counts, sample=sample), self.tokenizer)[0]
            )
        input_ids, attention_mask = self._pad_left(rows)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "visual": pack_segments(segments),
        }

    def _pad_left(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        length = max(map(len, rows), default=0)
        input_ids = torch.full((len(rows), length), self.pad_token_id)
        attention_mask = torch.zeros(len(rows), length, dtype=torch.int64)
        for index, row in enumerate(rows):
            input_ids[index, length - len(row) :] = torch.tensor(row)
            attention_mask[index, length - len(row) :] = 1
        return input_ids, attention_mask

    def decode(self, token_ids: Tensor) -> list[str]:
        """Texts of generated tokens int (B, T), special tokens left out, ends stripped."""
        texts = self.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``llava_processor.json`` and the tokenizer's files, with our chat template."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.tokenizer.chat_template = chat_template(self.template)
        self.tokenizer.save_pretrained(str(folder))
        write_processor_settings(Path(folder), ProcessorSettings(self.visual, self.template))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "LlavaProcessor":
        """Read what ``save_pretrained`` wrote.

        Raises:
            ValueError: if the file is absent or of another schema.
        """
        settings = read_processor_settings(Path(folder))
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        return cls(tokenizer, settings.visual, settings.template)
