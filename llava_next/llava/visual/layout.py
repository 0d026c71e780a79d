"""What the host knows about a batch, so that a training step reads nothing back from the device.

Reading a number from a device makes the host wait until all earlier work is done. The collator
therefore looks at the batch while it is still on the host, checks it, and passes on where things
are. Where a batch comes without it, the model makes it itself.

Axis letters: B samples (1 where packed), T tokens of a row, V visual tokens, N supervised tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX
from llava.visual.batch import VisualBatch


class PlaceholderCountError(ValueError):
    """The prompt of a sample has another number of placeholders than it has visual tokens."""


@dataclass(frozen=True)
class BatchLayout:
    """Where placeholders, supervised tokens and samples of a batch are.

    Attributes:
        placeholders: int64 (V,), rising: flat numbers in (B, T) of the tokens that visual features
            replace.
        supervised: int64 (N,), rising: flat numbers in (B, T) of the tokens whose prediction is
            part of the loss; empty without labels.
        row_lengths: for each row, on the host, the tokens of its samples; one number where it is
            one sample.
        sample_bounds: int32 (samples + 1,), where the samples of a packed row begin and end: its
            tokens ``bounds[s]`` to ``bounds[s + 1]``; of the first row, where there are several.
        pads_right_only: whether padding, if any, is behind the samples. Causal attention then
            needs no mask for it.
    """

    placeholders: Tensor
    supervised: Tensor
    row_lengths: tuple[tuple[int, ...], ...]
    sample_bounds: Tensor
    pads_right_only: bool = True

    @property
    def num_supervised(self) -> int:
        """N."""
        return self.supervised.shape[0]

    @property
    def holds_several_samples(self) -> bool:
        """Whether a row holds more than one sample."""
        return any(len(lengths) > 1 for lengths in self.row_lengths)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "BatchLayout":
        """Copy to a device."""
        return replace(
            self,
            placeholders=self.placeholders.to(device, non_blocking=non_blocking),
            supervised=self.supervised.to(device, non_blocking=non_blocking),
            sample_bounds=self.sample_bounds.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "BatchLayout":
        """Copy to page-locked memory (called by ``torch.utils.data.DataLoader``)."""
        return replace(
            self,
            placeholders=self.placeholders.pin_memory(),
            supervised=self.supervised.pin_memory(),
            sample_bounds=self.sample_bounds.pin_memory(),
        )


def batch_layout(
    input_ids: Tensor,
    visual: VisualBatch | None,
    image_token_id: int,
    labels: Tensor | None = None,
    attention_mask: Tensor | Mapping[str, Any] | None = None,
    position_ids: Tensor | None = None,
) -> BatchLayout:
    """Look at a batch, and check that placeholders and visual tokens are as many.

    Args:
        input_ids: int64 (B, T).
        visual: the visuals of the batch, or None where it has none.
        image_token_id: the placeholder token.
        labels: int64 (B, T), ``IGNORE_INDEX`` where nothing is supervised.
        attention_mask: (B, T), 0 at padding; or masks that the library made for a static cache.
        position_ids: (B or 1, T); a sample begins wherever a number is not one more than the
            number before. None, or positions together with a mask: every row is one sample.

    Raises:
        PlaceholderCountError: naming the row, both counts and the remedy.
    """
    is_placeholder = input_ids == image_token_id
    check_placeholders(is_placeholder, visual)
    if position_ids is None or attention_mask is not None:
        rows = ((input_ids.shape[1],),) * len(input_ids)
    else:
        rows = sample_lengths(position_ids)
    return BatchLayout(
        placeholders=is_placeholder.flatten().nonzero()[:, 0],
        supervised=supervised_tokens(labels) if labels is not None else input_ids.new_empty(0),
        row_lengths=rows,
        sample_bounds=torch.tensor(
            (0, *accumulate(rows[0])), dtype=torch.int32, device=input_ids.device
        ),
        pads_right_only=attention_mask is None
        or (
            isinstance(attention_mask, Tensor)
            and attention_mask.shape == input_ids.shape
            and not bool((attention_mask.int().diff(dim=-1) > 0).any())
        ),
    )


def supervised_tokens(labels: Tensor) -> Tensor:
    """Return the flat numbers of the tokens that are predicted: int64 (N,), rising.

    The first token of a row never is.
    """
    supervised = labels != IGNORE_INDEX
    supervised[:, 0] = False
    return supervised.flatten().nonzero()[:, 0]


def sample_lengths(position_ids: Tensor) -> tuple[tuple[int, ...], ...]:
    """Return for each row the tokens of its samples, on the host.

    Args:
        position_ids: (B, T), restarting with each sample.
    """
    rows: list[tuple[int, ...]] = []
    for breaks in position_ids.diff(dim=-1) != 1:
        starts: Sequence[int] = (breaks.nonzero()[:, 0] + 1).tolist()
        rows.append(tuple(b - a for a, b in pairwise([0, *starts, position_ids.shape[1]])))
    return tuple(rows)


def check_placeholders(is_placeholder: Tensor, visual: VisualBatch | None) -> None:
    """Check that each sample has as many placeholders as visual tokens.

    Args:
        is_placeholder: bool (B, T), true at the placeholder tokens of the batch.
        visual: the visuals of the batch, or None where it has none.

    Raises:
        PlaceholderCountError: naming the row, both counts and the remedy.
    """
    found = is_placeholder.sum(dim=1)
    given = torch.zeros_like(found) if visual is None else visual.tokens_per_sample(len(found))
    if torch.equal(found, given):
        return
    row = int((found != given).nonzero()[0])
    raise PlaceholderCountError(
        f"row {row} of the batch has {int(found[row])} placeholder tokens in input_ids, but "
        f"{int(given[row])} visual tokens were given for it; expand every <image> to exactly the "
        "tokens of its visual (LlavaProcessor and llava.data do), and do not cut a prompt within "
        "its visuals: raise --model_max_length or drop the sample"
    )
