"""The training data set: entry -> record -> visual segments and tokens.

Axis letters: T text tokens (visual tokens included).
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from llava.constants import IGNORE_INDEX
from llava.conversation import encode, expand_placeholders, render
from llava.data.mixture import Mixture
from llava.data.records import (
    AnyRecord,
    CodecRecord,
    FramesRecord,
    ImageRecord,
    SampleError,
    VideoRecord,
    parse_record,
)
from llava.visual.batch import VisualSegment
from llava.visual.config import VisualConfig
from llava.visual.loading import (
    check_files,
    count_frames,
    count_images,
    count_mosaics,
    load_frames,
    load_images,
    load_mosaics,
    load_video,
)

ON_BAD_SAMPLE = ("stop", "skip")
_MAX_REPLACEMENTS = 20


class BadSample(TypedDict):
    """A sample that could not be used: its number in the data path, and why."""

    index: int
    message: str


class Item(TypedDict):
    """One sample: ids and labels int64 (T,), segments in prompt order, id, data set.

    ``bad_samples`` are those that this one stands in for, none as a rule.
    """

    input_ids: Tensor
    labels: Tensor
    segments: list[VisualSegment]
    sample_id: str
    set_index: int
    bad_samples: list[BadSample]


class SupervisedDataset(Dataset[Item]):
    """Samples of a .jsonl, .json or .yaml data path, read when asked for.

    A sample that cannot be used raises with its name. Where that is asked for it is replaced and
    reported, always by the same one of its data set. None is ever cut.
    """

    def __init__(
        self,
        data_path: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        visual_config: VisualConfig,
        *,
        max_length: int,
        image_folder: str | Path | None = None,
        video_folder: str | Path | None = None,
        template: str = "qwen_1_5",
        on_bad_sample: str = "stop",
    ) -> None:
        """Index the data path; nothing is parsed yet but JSON arrays and mixtures.

        Args:
            data_path: see ``llava.data.sources``.
            tokenizer: see ``llava.data.tokenization``.
            visual_config: preprocessing of images, frames and mosaics.
            max_length: most tokens of a sample, visual ones included.
            image_folder: relative image and positions paths are below it; default is the folder
                of ``data_path``.
            video_folder: the same for raw videos.
            template: conversation template.
            on_bad_sample: ``stop`` raises, ``skip`` replaces.

        Raises:
            ValueError: if a data file is missing or broken, or a setting unknown.
        """
        if on_bad_sample not in ON_BAD_SAMPLE:
            raise ValueError(
                f"--on_bad_sample must be one of {', '.join(ON_BAD_SAMPLE)}, got {on_bad_sample!r}"
            )
        path = Path(data_path)
        self._entries = Mixture(path)
        self._image_folder = path.parent if image_folder is None else Path(image_folder)
        self._video_folder = path.parent if video_folder is None else Path(video_folder)
        self._tokenizer = tokenizer
        self._visual_config = visual_config
        self._template = template
        self._max_length = max_length
        self._on_bad_sample = on_bad_sample

    @property
    def entries(self) -> Mixture:
        """The entries behind the samples, and the names of their data sets."""
        return self._entries

    def fingerprint(self) -> str:
        """16 hex digits over all that decides how long each sample is, pictures aside."""
        settings = {
            "entries": self._entries.fingerprint(),
            "folders": [str(self._image_folder), str(self._video_folder)],
            "visual": self._visual_config.to_dict(),
            "template": self._template,
            "max_length": self._max_length,
            "vocabulary": sorted(self._tokenizer.get_vocab().items()),
        }
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._entries)

    def record(self, index: int) -> AnyRecord:
        """The parsed entry, before any pixel is read.

        Raises:
            IndexError: if ``index`` is not in 0..len - 1.
            SampleError: if the entry is broken; the message names file, line and id.
        """
        entry, where = self._entries.read(index)
        return parse_record(
            entry,
            where=where,
            image_folder=self._image_folder,
            video_folder=self._video_folder,
        )

    def __getitem__(self, index: int) -> Item:
        bad_samples: list[BadSample] = []
        for attempt in range(_MAX_REPLACEMENTS):
            candidate = self._candidate(index, attempt)
            try:
                item = self._load(candidate)
            except SampleError as error:
                if self._on_bad_sample == "stop":
                    raise
                bad_samples.append(BadSample(index=candidate, message=str(error)))
            else:
                item["bad_samples"] = bad_samples
                return item
        raise SampleError(
            f"{_MAX_REPLACEMENTS} samples in turn cannot be used, the last: "
            f"{bad_samples[-1]['message']}; check the data with python -m llava.data.validate"
        )

    def _candidate(self, index: int, attempt: int) -> int:
        """The sample itself, then those that stand in for it: the same ones in every run."""
        if attempt == 0:
            return index
        same_set = self._entries.set_range(self._entries.set_of(index))
        return same_set[int(np.random.default_rng([index, attempt]).integers(len(same_set)))]

    def _load(self, index: int) -> Item:
        record = self.record(index)
        segments = load_segments(record, self._visual_config)
        counts = [count for segment in segments for count in segment.placeholder_tokens]
        input_ids, labels = self._tokenize(record, counts)
        return Item(
            input_ids=input_ids,
            labels=labels,
            segments=segments,
            sample_id=record.sample_id,
            set_index=self._entries.set_of(index),
            bad_samples=[],
        )

    def length(self, index: int) -> tuple[int, int]:
        """(text tokens, visual tokens) of a sample; pixels are not decoded.

        Raises:
            SampleError: if the sample is broken, as far as that shows without its pixels.
        """
        record = self.record(index)
        counts = count_visual_tokens(record, self._visual_config)
        input_ids, _ = self._tokenize(record, counts)
        visual = sum(counts)
        return len(input_ids) - visual, visual

    def _tokenize(self, record: AnyRecord, counts: list[int]) -> tuple[Tensor, Tensor]:
        return tokenize(
            record,
            counts,
            self._tokenizer,
            template=self._template,
            max_length=self._max_length,
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
        SampleError: if a file is missing or damaged, or mosaics and positions do not belong
            together; the message names sample and file.
    """
    try:
        if isinstance(record, CodecRecord):
            return [load_mosaics(record.images, record.positions, config)]
        if isinstance(record, FramesRecord):
            return [load_frames(record.images, config)]
        if isinstance(record, VideoRecord):
            limit = video_time_limit_seconds
            return [load_video(record.video, record.num_frames, config, time_limit_seconds=limit)]
        return load_images(record.images, config) if isinstance(record, ImageRecord) else []
    except ValueError as error:
        raise SampleError(f"{record.name}: {error}") from error


def count_visual_tokens(record: AnyRecord, config: VisualConfig) -> list[int]:
    """Return the language tokens behind each placeholder of a record; no pixel is decoded.

    Raises:
        SampleError: if a file is missing, or the header of an image or of positions is damaged; the
            message names sample and file.
    """
    try:
        if isinstance(record, CodecRecord):
            return count_mosaics(record.images, record.positions, config)
        if isinstance(record, FramesRecord):
            check_files(record.images)
            return count_frames(len(record.images), config)
        if isinstance(record, VideoRecord):
            check_files([record.video])
            return count_frames(record.num_frames, config)
        return count_images(record.images, config) if isinstance(record, ImageRecord) else []
    except ValueError as error:
        raise SampleError(f"{record.name}: {error}") from error


def tokenize(
    record: AnyRecord,
    token_counts: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: str,
    max_length: int,
) -> tuple[Tensor, Tensor]:
    """Render and encode a record's conversation.

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
    _check_length(record, len(ids), sum(token_counts), max_length)
    input_ids = torch.tensor(ids)
    labels = input_ids.masked_fill(~torch.tensor(supervised), IGNORE_INDEX)
    return input_ids, labels


def _check_length(record: AnyRecord, tokens: int, visual: int, max_length: int) -> None:
    if tokens > max_length:
        raise SampleError(
            f"{record.name}: {tokens} tokens ({visual} visual, {tokens - visual} text) exceed "
            f"the limit of {max_length}; raise --model_max_length, shorten the text or use fewer "
            "or smaller images"
        )
