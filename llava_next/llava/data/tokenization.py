"""A record's conversation to input ids and labels.

Axis letters: T text tokens (visual tokens included).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llava.constants import IGNORE_INDEX
from llava.conversation import encode, expand_placeholders, render
from llava.data.records import AnyRecord, SampleError


def tokenize(
    record: AnyRecord,
    token_counts: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: str,
    max_length: int,
) -> tuple[Tensor, Tensor]:
    """Render and encode a conversation.

    Args:
        record: gives turns and name.
        token_counts: visual tokens behind each ``<image>``, in order.
        tokenizer: any fast tokenizer that has the special tokens of the template.
        template: see ``llava.conversation``.
        max_length: most tokens of a sample. Nothing is ever cut: a visual cut in two would no
            longer match its features, and an answer cut off would be learnt as an ending.

    Returns:
        input_ids int64 (T,) and labels int64 (T,), ``IGNORE_INDEX`` where not supervised.

    Raises:
        SampleError: for a conversation that the template cannot express, a placeholder count that
            differs, or a sample longer than ``max_length``; the message names the sample.
    """
    try:
        pieces = render(record.turns, template, sample=record.name)
        pieces = expand_placeholders(pieces, token_counts, sample=record.name)
    except ValueError as error:
        raise SampleError(str(error)) from error
    ids, supervised = encode(pieces, tokenizer)
    if len(ids) > max_length:
        visual = sum(token_counts)
        raise SampleError(
            f"{record.name}: {len(ids)} tokens ({visual} visual, {len(ids) - visual} text) exceed "
            f"the limit of {max_length}; raise --model_max_length, shorten the text or use fewer "
            "or smaller images"
        )
    input_ids = torch.tensor(ids)
    labels = input_ids.masked_fill(~torch.tensor(supervised), IGNORE_INDEX)
    return input_ids, labels
