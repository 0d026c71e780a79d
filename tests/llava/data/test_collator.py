"""Padding, masks and packing of a batch."""

import pytest
import torch

from llava.constants import IGNORE_INDEX
from llava.data.collator import Collator
from llava.data.dataset import Item
from llava.visual.batch import VisualSegment
from llava.visual.layout import PlaceholderCountError

IMAGE = 9


def _item(ids: list[int], *segments: VisualSegment) -> Item:
    row = torch.tensor(ids)
    return Item(
        input_ids=row,
        labels=row + 100,
        segments=list(segments),
        sample_id="s",
        set_index=len(ids),
        bad_samples=[],
    )


def _segment(count: int, value: float) -> VisualSegment:
    return VisualSegment(
        patches=torch.full((count, 12), float(value)),
        positions=torch.zeros(count, 3, dtype=torch.int64),
        placeholder_tokens=(count,),
    )


def test_rows_are_padded_on_the_right() -> None:
    batch = Collator(pad_token_id=7, image_token_id=IMAGE)([_item([1, 2, 3]), _item([4])])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 7, 7]]
    assert batch["labels"].tolist() == [[101, 102, 103], [104, IGNORE_INDEX, IGNORE_INDEX]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["visual"] is None


def test_a_pad_id_inside_a_sample_is_attended() -> None:
    batch = Collator(pad_token_id=7, image_token_id=IMAGE)([_item([7, 2, 7]), _item([7])])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_visuals_keep_sample_and_order() -> None:
    items = [
        _item([1, *[IMAGE] * 5], _segment(2, 5), _segment(3, 6)),
        _item([1, 2]),
        _item([3, IMAGE], _segment(1, 8)),
    ]
    visual = Collator(pad_token_id=0, image_token_id=IMAGE)(items)["visual"]
    assert visual is not None
    assert visual.sample_index.tolist() == [0, 0, 2]
    assert visual.source_index.tolist() == [0, 1, 0]
    assert visual.patches[:, 0].tolist() == [5, 5, 6, 6, 6, 8]


def test_a_packed_row_holds_all_samples_and_restarts_each() -> None:
    items = [
        _item([1, IMAGE, IMAGE], _segment(2, 5)),
        _item([4]),
        _item([5, IMAGE], _segment(1, 6)),
    ]
    batch = Collator(pad_token_id=7, image_token_id=IMAGE, packed=True)(items)
    assert batch["input_ids"].tolist() == [[1, 9, 9, 4, 5, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]
    # No sample is asked to predict the first token of the next.
    ignored = IGNORE_INDEX
    assert batch["labels"].tolist() == [[ignored, 109, 109, ignored, ignored, 109]]
    assert "attention_mask" not in batch
    visual = batch["visual"]
    assert visual is not None and visual.tokens_per_sample(1).tolist() == [3]
    assert batch["info"].set_index.tolist() == [[3, 3, 3, 1, 2, 2]]
    assert batch["info"].sample_tokens == (3, 1, 2) and batch["info"].segment_patches == (2, 1)
    assert items[0]["labels"].tolist() == [101, 109, 109]
    layout = batch["layout"]
    assert layout.placeholders.tolist() == [1, 2, 5]
    assert layout.supervised.tolist() == [1, 2, 5] and layout.num_supervised == 3
    assert layout.row_lengths == ((3, 1, 2),) and layout.holds_several_samples


def test_the_layout_of_padded_rows_counts_over_the_whole_batch() -> None:
    items = [_item([1, IMAGE, 3], _segment(1, 5)), _item([4, 5])]
    layout = Collator(pad_token_id=7, image_token_id=IMAGE)(items)["layout"]
    assert layout.placeholders.tolist() == [1]
    assert layout.supervised.tolist() == [1, 2, 4]
    assert layout.row_lengths == ((3,), (3,)) and not layout.holds_several_samples
    assert layout.pads_right_only


@pytest.mark.parametrize("packed", [False, True])
def test_placeholders_without_a_visual_are_refused(packed: bool) -> None:
    collate = Collator(pad_token_id=7, image_token_id=IMAGE, packed=packed)
    with pytest.raises(PlaceholderCountError, match="has 2 placeholder tokens .* 1 visual tokens"):
        collate([_item([1, IMAGE, IMAGE], _segment(1, 5))])
