"""The training data set: entry -> record -> visual segments and tokens.

Axis letters: T text tokens (visual tokens included).
"""

from pathlib import Path
from typing import TypedDict

from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from llava.batch import VisualSegment
from llava.data.images import load_segments
from llava.data.records import AnyRecord, parse_record
from llava.data.sources import Mixture
from llava.data.tokenization import tokenize
from llava.visuals import VisualConfig


class Item(TypedDict):
    """One sample: ids and labels int64 (T,), segments in prompt order, the sample's id."""

    input_ids: Tensor
    labels: Tensor
    segments: list[VisualSegment]
    sample_id: str


class SupervisedDataset(Dataset[Item]):
    """Samples of a .jsonl, .json or .yaml data path, read when asked for.

    A sample that cannot be used raises with its name; none is ever replaced or cut.
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

        Raises:
            ValueError: if a data file is missing or broken.
        """
        path = Path(data_path)
        self._entries = Mixture(path)
        self._image_folder = path.parent if image_folder is None else Path(image_folder)
        self._video_folder = path.parent if video_folder is None else Path(video_folder)
        self._tokenizer = tokenizer
        self._visual_config = visual_config
        self._template = template
        self._max_length = max_length

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
        record = self.record(index)
        segments = load_segments(record, self._visual_config)
        counts = [count for segment in segments for count in segment.placeholder_tokens]
        input_ids, labels = tokenize(
            record,
            counts,
            self._tokenizer,
            template=self._template,
            max_length=self._max_length,
        )
        return Item(
            input_ids=input_ids, labels=labels, segments=segments, sample_id=record.sample_id
        )
