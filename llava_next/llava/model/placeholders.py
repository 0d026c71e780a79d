"""Match the placeholders of a batch with its visuals, and select or repeat visuals by sample.

Axis letters: B samples, T tokens.
"""

import torch
from torch import Tensor

from llava.visual.batch import VisualBatch, VisualSegment, pack_segments
from llava.visual.layout import PlaceholderCountError, check_placeholders


def repeat_samples(visual: VisualBatch, batch_size: int, times: int) -> VisualBatch:
    """Repeat each sample's visuals next to itself: samples 0, 1 become 0, 0, 1, 1."""
    samples = _split_samples(visual, batch_size)
    repeated = pack_segments([segments for segments in samples for _ in range(times)])
    assert repeated is not None  # a VisualBatch always holds a segment
    return repeated.to(visual.patches.device)


def visuals_after(
    visual: VisualBatch, is_placeholder: Tensor, num_cached: int
) -> VisualBatch | None:
    """Return the visuals of a conversation's new tokens, where a cache holds the tokens before.

    Args:
        visual: the visuals of the whole conversation, or already those of the new tokens.
        is_placeholder: bool (B, T), true at the placeholders of the whole conversation.
        num_cached: tokens of each row that the cache holds.

    Returns:
        None where the new tokens have no visual.

    Raises:
        PlaceholderCountError: if the visuals are neither those of the whole conversation nor those
            of the new tokens, or the cache ends within a visual.
    """
    before = is_placeholder[:, :num_cached].sum(dim=1)
    given = visual.tokens_per_sample(len(before)).to(before.device)
    if not before.any() or torch.equal(given, is_placeholder[:, num_cached:].sum(dim=1)):
        return visual
    check_placeholders(is_placeholder, visual)
    remaining: list[list[VisualSegment]] = []
    for row, segments in enumerate(_split_samples(visual, len(before))):
        skipped = int(before[row])
        while skipped > 0:
            skipped -= sum(segments.pop(0).placeholder_tokens)
        if skipped < 0:
            raise PlaceholderCountError(
                f"row {row} of the batch: the {num_cached} cached tokens end within a visual, "
                f"{-skipped} visual tokens before its end; cache whole turns of the conversation"
            )
        remaining.append(segments)
    new = pack_segments(remaining)
    return None if new is None else new.to(visual.patches.device)


def _split_samples(visual: VisualBatch, batch_size: int) -> list[list[VisualSegment]]:
    """Return the segments of each of ``batch_size`` samples, each behind one placeholder run."""
    samples: list[list[VisualSegment]] = [[] for _ in range(batch_size)]
    bounds = visual.cu_seqlens.tolist()
    for start, end, sample in zip(
        bounds[:-1], bounds[1:], visual.sample_index.tolist(), strict=True
    ):
        samples[sample].append(
            VisualSegment(
                visual.patches[start:end],
                visual.positions[start:end],
                ((end - start) // visual.patches_per_token,),
                visual.patches_per_token,
                visual.normalisation,
            )
        )
    return samples
