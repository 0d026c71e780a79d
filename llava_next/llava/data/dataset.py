"""The training data set: entry -> record -> visual segments and tokens.

Axis letters: T text tokens (visual tokens included).
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from llava.constants import IGNORE_INDEX, Expansion
from llava.conversation import TokenCounter
from llava.data.encoding import (
    Measured,
    count_tokens,
    count_visual_tokens,
    load_segments,
    tokenize,
)
from llava.data.mixture import Mixture
from llava.data.records import AnyRecord, RecordError, parse_record
from llava.visual.batch import VisualSegment
from llava.visual.config import VisualConfig

ON_BAD_SAMPLE = ("stop", "skip")
MAX_REPLACEMENTS = 20
"""Samples in turn that cannot be used, before a run that skips such samples stops, too."""
_COUNTING_VERSION = 2
"""Raised when the same data and settings get other lengths."""


class BadSample(TypedDict):
    """A sample that could not be used: its number in the data path, and why."""

    index: int
    message: str


class _EveryItem(TypedDict):
    input_ids: Tensor
    labels: Tensor
    segments: list[VisualSegment]
    sample_id: str
    set_index: int
    bad_samples: list[BadSample]


class Item(_EveryItem, total=False):
    """One sample: ids and labels int64 (T,), segments in prompt order, id, data set.

    ``bad_samples`` are those that this one replaces, usually none. The last sample of a batch of a
    stream says in ``stream`` from where its reader continues.
    """

    stream: dict[str, Any]


def none_usable(bad_samples: Sequence[BadSample]) -> RecordError:
    """Return the error of samples in turn of which none could replace the others."""
    return RecordError(
        f"{len(bad_samples)} samples in turn cannot be used, the last: "
        f"{bad_samples[-1]['message']}; check the data with python -m llava.data.validate"
    )


class SampleBuilder:
    """Turns entries into samples: the settings that all of them share, and how they are applied.

    Attributes:
        data_path: path of the data.
        image_folder: relative image and positions paths are below it.
        video_folder: the same for raw videos.
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
        video_time_limit_seconds: float | None = 300,
    ) -> None:
        """Keep the settings; nothing is read.

        Args:
            data_path: see ``llava.data.mixture``.
            tokenizer: see ``llava.data.encoding.tokenize``.
            visual_config: preprocessing of images, frames and mosaics.
            max_length: most tokens of a sample, visual ones included.
            image_folder: relative image and positions paths are below it; default is the folder
                of ``data_path``, or that folder itself.
            video_folder: the same for raw videos.
            template: conversation template.
            on_bad_sample: ``stop`` raises, ``skip`` replaces.
            video_time_limit_seconds: a raw video that takes longer is a bad sample; None reads
                videos in this process, without a limit.

        Raises:
            ValueError: if a setting is unknown.
        """
        if on_bad_sample not in ON_BAD_SAMPLE:
            raise ValueError(
                f"--on_bad_sample must be one of {', '.join(ON_BAD_SAMPLE)}, got {on_bad_sample!r}"
            )
        path = Path(data_path)
        self.data_path = path
        beside = path if path.is_dir() else path.parent
        self.image_folder = beside if image_folder is None else Path(image_folder)
        self.video_folder = beside if video_folder is None else Path(video_folder)
        self._tokenizer = tokenizer
        self._visual_config = visual_config
        self._template = template
        self._max_length = max_length
        self._on_bad_sample = on_bad_sample
        self._video_time_limit_seconds = video_time_limit_seconds

    def _parse(self, entry: Any, where: str) -> AnyRecord:
        return parse_record(
            entry,
            where=where,
            image_folder=self.image_folder,
            video_folder=self.video_folder,
        )

    def _load(self, record: AnyRecord, set_index: int) -> Item:
        segments = load_segments(
            record,
            self._visual_config,
            video_time_limit_seconds=self._video_time_limit_seconds,
        )
        counts = [item for segment in segments for item in segment.expansions]
        input_ids, labels = tokenize(
            record,
            counts,
            self._tokenizer,
            template=self._template,
            max_length=self._max_length,
        )
        return Item(
            input_ids=input_ids,
            labels=labels,
            segments=segments,
            sample_id=record.sample_id,
            set_index=set_index,
            bad_samples=[],
        )


class SupervisedDataset(SampleBuilder, Dataset[Item]):
    """Samples of a data path, read when asked for.

    A sample that cannot be used raises with its name. Where that is asked for it is replaced and
    reported, always by the same one of its data set. None is ever cut.
    """

    def __init__(
        self,
        data_path: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        visual_config: VisualConfig,
        **settings: Any,
    ) -> None:
        """Index the data path; nothing is parsed yet but JSON arrays and mixtures.

        Args:
            data_path: see ``llava.data.mixture``.
            tokenizer: see ``SampleBuilder``, as for all that follows.
            visual_config: preprocessing of images, frames and mosaics.
            **settings: the further settings of ``SampleBuilder``.

        Raises:
            ValueError: if a data file is missing or broken, or a setting unknown.
        """
        super().__init__(data_path, tokenizer, visual_config, **settings)
        self._entries = Mixture(self.data_path)
        self._counter: TokenCounter | None = None
        self._known_lengths: np.ndarray | None = None

    @property
    def entries(self) -> Mixture:
        """The entries behind the samples, and the names of their data sets."""
        return self._entries

    def replace_by_shorter(self, lengths: np.ndarray) -> None:
        """Replace bad samples only by samples that are not longer, so that packed rows still fit.

        Where its data set has none, a single token without supervision takes its place.

        Args:
            lengths: int (N,), tokens of every sample; 0 for one that cannot be used.
        """
        self._known_lengths = lengths

    def fingerprint(self) -> str:
        """16 hex digits over all that decides how long each sample is, pictures aside."""
        settings = {
            "entries": self._entries.fingerprint(),
            "folders": [str(self.image_folder), str(self.video_folder)],
            "visual": {
                name: value
                for name, value in self._visual_config.to_dict().items()
                if name != "time_marks" or value  # so that files of before this setting are found
            },
            "template": self._template,
            "max_length": self._max_length,
            "tokenizer": _tokenizer_digest(self._tokenizer),
            "counting": _COUNTING_VERSION,
        }
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._entries)

    def record(self, index: int) -> AnyRecord:
        """Return the parsed entry, before any pixel is read.

        Raises:
            IndexError: if ``index`` is not in 0..len - 1.
            RecordError: if the entry is broken; the message names file, line and id.
        """
        return self._parse(*self._entries.read(index))

    def __getitem__(self, index: int) -> Item:
        bad_samples: list[BadSample] = []
        for attempt in range(MAX_REPLACEMENTS):
            candidate = self._candidate(index, attempt)
            if candidate is None:
                return self._nothing(index, bad_samples)
            try:
                item = self._load(self.record(candidate), self._entries.set_of(candidate))
            except RecordError as error:
                if self._on_bad_sample == "stop":
                    raise
                bad_samples.append(BadSample(index=candidate, message=str(error)))
            else:
                item["bad_samples"] = bad_samples
                return item
        raise none_usable(bad_samples)

    def _candidate(self, index: int, attempt: int) -> int | None:
        """Return the sample itself, then those that replace it: the same ones in every run.

        None where a row is packed and no other sample fits.
        """
        if attempt == 0:
            return index
        same_set = self._entries.set_range(self._entries.set_of(index))
        random = np.random.default_rng([index, attempt])
        if self._known_lengths is None:
            return same_set[int(random.integers(len(same_set)))]
        lengths = self._known_lengths[same_set.start : same_set.stop]
        fitting = same_set.start + np.flatnonzero(
            (lengths > 0) & (lengths <= self._known_lengths[index])
        )
        fitting = fitting[fitting != index]
        return int(random.choice(fitting)) if len(fitting) else None

    def _nothing(self, index: int, bad_samples: list[BadSample]) -> Item:
        """Return one token that no loss counts, in place of a bad sample."""
        pad = self._tokenizer.pad_token_id
        return Item(
            input_ids=torch.tensor([pad if isinstance(pad, int) else 0]),
            labels=torch.tensor([IGNORE_INDEX]),
            segments=[],
            sample_id="",
            set_index=self._entries.set_of(index),
            bad_samples=bad_samples,
        )

    def length(self, index: int) -> tuple[int, int]:
        """Return (text tokens, visual tokens) of a sample; pixels are not decoded.

        Raises:
            RecordError: if the sample is broken, as far as that shows without its pixels.
        """
        [result] = self.lengths([index])
        if isinstance(result, RecordError):
            raise result
        return result.text, result.visual

    def lengths(self, indices: Sequence[int]) -> list[Measured | RecordError]:
        """Return the lengths of many samples, or what is wrong with them.

        Much faster than one by one: texts are tokenised together.
        """
        return self.measure([self._entries.read_or_error(index) for index in indices])

    def measure(
        self, entries: Sequence[tuple[Any, str] | RecordError]
    ) -> list[Measured | RecordError]:
        """Return the lengths of entries as if they were in the data; see ``lengths``.

        Args:
            entries: (JSON value, ``file:line``), or why an entry could not be read.
        """
        if self._counter is None:
            self._counter = TokenCounter(self._tokenizer)
        results: list[RecordError | None] = []
        records: list[AnyRecord] = []
        token_counts: list[list[Expansion]] = []
        for entry in entries:
            try:
                if isinstance(entry, RecordError):
                    raise entry
                record = self._parse(*entry)
                token_counts.append(
                    count_visual_tokens(
                        record,
                        self._visual_config,
                        video_time_limit_seconds=self._video_time_limit_seconds,
                    )
                )
                records.append(record)
                results.append(None)
            except RecordError as error:
                results.append(error)
        counted = iter(
            count_tokens(
                records,
                token_counts,
                self._counter,
                template=self._template,
                max_length=self._max_length,
            )
        )
        return [next(counted) if result is None else result for result in results]


def _tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest over all that decides how a tokenizer cuts text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        state: Any = sorted(tokenizer.get_vocab().items())
    else:
        state = json.loads(backend.to_str())
        for changes_with_use in ("truncation", "padding"):
            state.pop(changes_with_use, None)
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()
