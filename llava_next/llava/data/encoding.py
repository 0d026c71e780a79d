"""A record to what a sample is made of: visual segments and token ids, or their counts alone.

Axis letters: T text tokens (visual tokens included).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llava.constants import IGNORE_INDEX, Expansion
from llava.conversation import (
    Piece,
    TokenCounter,
    count_visual,
    encode_runs,
    expand_placeholders,
    render,
)
from llava.data.records import (
    AnyRecord,
    CodecRecord,
    FramesRecord,
    ImageRecord,
    RecordError,
    VideoRecord,
)
from llava.visual.batch import VisualSegment
from llava.visual.config import VisualConfig
from llava.visual.loading import (
    check_not_empty,
    count_images,
    count_mosaics,
    count_stack,
    count_video,
    load_frames,
    load_images,
    load_mosaics,
    load_video,
)


def load_segments(
    record: AnyRecord, config: VisualConfig, *, video_time_limit_seconds: float | None = None
) -> list[VisualSegment]:
    """Read and preprocess all visuals of a record, in the order of its placeholders.

    Args:
        record: names the files; one of text has none.
        config: the preprocessing settings.
        video_time_limit_seconds: end the reading of a raw video after this time; None for no limit.

    Raises:
        RecordError: if a file is missing or damaged, or mosaics and positions do not belong
            together; the message names sample and file.
    """
    try:
        if isinstance(record, CodecRecord):
            return [load_mosaics(record.images, record.positions, config)]
        if isinstance(record, FramesRecord):
            return [load_frames(record.images, config)]
        if isinstance(record, VideoRecord):
            return [
                load_video(
                    record.video,
                    record.num_frames,
                    config,
                    time_limit_seconds=video_time_limit_seconds,
                    sampling=record.frame_sampling,
                )
            ]
        return load_images(record.images, config) if isinstance(record, ImageRecord) else []
    except ValueError as error:
        raise RecordError(f"{record.name}: {error}") from error


def count_visual_tokens(
    record: AnyRecord, config: VisualConfig, *, video_time_limit_seconds: float | None = None
) -> list[Expansion]:
    """Return what each placeholder of a record becomes; no pixel is decoded.

    Args:
        record: names the files.
        config: the preprocessing settings; with ``time_marks`` also positions and the packets of
            raw videos are read.
        video_time_limit_seconds: see ``load_segments``.

    Raises:
        RecordError: if a file is missing, or the header of an image or of positions is damaged; the
            message names sample and file.
    """
    try:
        if isinstance(record, CodecRecord):
            return count_mosaics(record.images, record.positions, config)
        if isinstance(record, FramesRecord):
            check_not_empty(record.images)
            return count_stack(len(record.images), config)
        if isinstance(record, VideoRecord):
            check_not_empty([record.video])
            return count_video(
                record.video,
                record.num_frames,
                config,
                time_limit_seconds=video_time_limit_seconds,
                sampling=record.frame_sampling,
            )
        return [*count_images(record.images, config)] if isinstance(record, ImageRecord) else []
    except ValueError as error:
        raise RecordError(f"{record.name}: {error}") from error


def tokenize(
    record: AnyRecord,
    token_counts: Sequence[Expansion],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: str,
    max_length: int,
) -> tuple[Tensor, Tensor]:
    """Render and encode a record's conversation.

    Args:
        record: gives turns and name.
        token_counts: what each ``<image>`` becomes, in order.
        tokenizer: any fast tokenizer that has the special tokens of the template.
        template: see ``llava.conversation``.
        max_length: most tokens of a sample. Nothing is ever cut: a visual cut in two would no
            longer match its features, and an answer cut off would be learnt as an ending.

    Returns:
        input_ids int64 (T,) and labels int64 (T,), ``IGNORE_INDEX`` where not supervised.

    Raises:
        RecordError: The template cannot express the conversation, the number of placeholders
            differs, or the sample is longer than ``max_length``; the message names the sample.
    """
    # As arrays: lists of the thousands of ids of a clip would take longer than its text.
    ids, labels = list[np.ndarray](), list[np.ndarray]()
    for run in encode_runs(_pieces(record, token_counts, template), tokenizer):
        ids.append(np.tile(np.array(run.ids, np.int64), run.repeat))
        labels.append(ids[-1] if run.supervised else np.full_like(ids[-1], IGNORE_INDEX))
    input_ids = torch.from_numpy(np.concatenate(ids))
    _check_length(record, len(input_ids), count_visual(token_counts), max_length)
    return input_ids, torch.from_numpy(np.concatenate(labels))


class Measured(NamedTuple):
    """The length of a sample.

    Attributes:
        text: text tokens.
        visual: language tokens of its visuals.
        notes: what is read differently from how it is written.
    """

    text: int
    visual: int
    notes: tuple[str, ...]


def count_tokens(
    records: Sequence[AnyRecord],
    token_counts: Sequence[Sequence[Expansion]],
    counter: TokenCounter,
    *,
    template: str,
    max_length: int,
) -> list[Measured | RecordError]:
    """Count what ``tokenize`` would give for each record, without making it.

    Returns:
        Per record its length, or the error that ``tokenize`` would raise.
    """
    results: list[Measured | RecordError] = []
    prompts: list[list[Piece]] = []
    for record, counts in zip(records, token_counts, strict=True):
        try:
            prompts.append(_pieces(record, counts, template))
        except RecordError as error:
            prompts.append([])
            results.append(error)
        else:
            results.append(Measured(0, count_visual(counts), record.notes))
    for index, tokens in enumerate(counter.count(prompts)):
        result = results[index]
        if isinstance(result, RecordError):
            continue
        try:
            _check_length(records[index], tokens, result.visual, max_length)
        except RecordError as error:
            results[index] = error
        else:
            results[index] = result._replace(text=tokens - result.visual)
    return results


def _pieces(record: AnyRecord, token_counts: Sequence[Expansion], template: str) -> list[Piece]:
    """Return the expanded prompt of a record.

    Raises:
        RecordError: as ``tokenize`` says.
    """
    try:
        pieces = render(record.turns, template, sample=record.name)
        return expand_placeholders(pieces, token_counts, sample=record.name)
    except ValueError as error:
        raise RecordError(str(error)) from error


def _check_length(record: AnyRecord, tokens: int, visual: int, max_length: int) -> None:
    if tokens > max_length:
        raise RecordError(
            f"{record.name}: {tokens} tokens ({visual} visual, {tokens - visual} text) exceed "
            f"the limit of {max_length}; raise --model_max_length, shorten the text or use fewer "
            "or smaller images"
        )
