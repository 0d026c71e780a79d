"""Samples to one training batch: text padded on the right or packed, visuals laid end to end.

Axis letters: B samples (1 where packed), T text tokens (visual tokens included) of the longest
sample, or of all samples where packed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llava.constants import IGNORE_INDEX
from llava.data.dataset import BadSample, Item
from llava.visual.batch import VisualBatch, pack_segments
from llava.visual.layout import BatchLayout, batch_layout


@dataclass(frozen=True)
class BatchInfo:
    """Facts about a batch for logs; the model needs none of them.

    Attributes:
        set_index: int64 (B, T), the data set of each token.
        sample_tokens: T of each sample.
        segment_patches: patches of each visual.
        sample_ids: id of each sample.
        bad_samples: samples that were replaced by others.
        stream: from where the reader of a streamed batch continues; None for numbered entries.
    """

    set_index: Tensor
    sample_tokens: tuple[int, ...]
    segment_patches: tuple[int, ...]
    sample_ids: tuple[str, ...]
    bad_samples: tuple[BadSample, ...]
    stream: dict[str, Any] | None = None

    def pin_memory(self) -> "BatchInfo":
        """Copy to page-locked memory (called by ``torch.utils.data.DataLoader``)."""
        return replace(self, set_index=self.set_index.pin_memory())


class _EveryBatch(TypedDict):
    input_ids: Tensor
    labels: Tensor
    visual: VisualBatch | None
    layout: BatchLayout
    info: BatchInfo


class Batch(_EveryBatch, total=False):
    """input_ids and labels int64 (B, T); no visual where no sample has one; the batch's layout.

    ``attention_mask`` int64 (B, T) tells samples from padding. A packed batch has ``position_ids``
    int64 (1, T) instead, which start at 0 again with each sample.
    """

    attention_mask: Tensor
    position_ids: Tensor


@dataclass(frozen=True)
class Collator:
    """Collate function of a ``DataLoader``.

    Attributes:
        pad_token_id: fills ``input_ids``. It may also occur inside a sample: the attention mask
            follows the lengths, never the ids.
        image_token_id: the token that a visual feature replaces.
        packed: put all samples into one row without padding, each isolated from the others.
    """

    pad_token_id: int
    image_token_id: int
    packed: bool = False

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Join samples to a batch.

        Raises:
            PlaceholderCountError: if a sample's placeholders are not as many as its visual tokens.
        """
        ids = [item["input_ids"] for item in items]
        sets = [
            torch.full_like(row, item["set_index"]) for row, item in zip(ids, items, strict=True)
        ]
        segments = [segment for item in items for segment in item["segments"]]

        def info(set_index: Tensor) -> BatchInfo:
            return BatchInfo(
                set_index=set_index,
                sample_tokens=tuple(map(len, ids)),
                segment_patches=tuple(len(segment.patches) for segment in segments),
                sample_ids=tuple(item["sample_id"] for item in items),
                bad_samples=tuple(bad for item in items for bad in item["bad_samples"]),
                stream=items[-1].get("stream"),
            )

        if self.packed:
            labels = [item["labels"].clone() for item in items]
            for row in labels:
                row[0] = IGNORE_INDEX  # the sample before it must not learn to predict it
            row, row_labels = torch.cat(ids)[None], torch.cat(labels)[None]
            positions = torch.cat([torch.arange(len(each)) for each in ids])[None]
            visual = pack_segments([segments])
            return Batch(
                input_ids=row,
                labels=row_labels,
                position_ids=positions,
                visual=visual,
                layout=batch_layout(
                    row, visual, self.image_token_id, labels=row_labels, position_ids=positions
                ),
                info=info(torch.cat(sets)[None]),
            )
        rows = pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id)
        labels = pad_sequence(
            [item["labels"] for item in items], batch_first=True, padding_value=IGNORE_INDEX
        )
        mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        visual = pack_segments([item["segments"] for item in items])
        return Batch(
            input_ids=rows,
            labels=labels,
            attention_mask=mask,
            visual=visual,
            layout=batch_layout(
                rows, visual, self.image_token_id, labels=labels, attention_mask=mask
            ),
            info=info(pad_sequence(sets, batch_first=True)),
        )
