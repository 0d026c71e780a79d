"""Samples to one training batch: text padded on the right, visuals laid end to end.

Axis letters: B samples, T text tokens of the longest sample (visual tokens included).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llava.batch import VisualBatch, pack_segments
from llava.constants import IGNORE_INDEX
from llava.data.dataset import Item


class Batch(TypedDict):
    """input_ids, labels and attention_mask int64 (B, T); no visual where no sample has one."""

    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    visual: VisualBatch | None


@dataclass(frozen=True)
class Collator:
    """Collate function of a ``DataLoader``.

    Attributes:
        pad_token_id: fills ``input_ids``. It may also occur inside a sample: the attention mask
            follows the lengths, never the ids.
    """

    pad_token_id: int

    def __call__(self, items: Sequence[Item]) -> Batch:
        ids = [item["input_ids"] for item in items]
        labels = [item["labels"] for item in items]
        ones = [torch.ones_like(row) for row in ids]
        return Batch(
            input_ids=pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            labels=pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
            attention_mask=pad_sequence(ones, batch_first=True),
            visual=pack_segments([item["segments"] for item in items]),
        )
