"""Broken samples that are skipped: replaced by a fixed sample of the same data set, reported."""

import json
from pathlib import Path

import numpy as np
import pytest

from llava.constants import IGNORE_INDEX
from llava.data.dataset import SupervisedDataset
from llava.data.records import RecordError
from llava.model.tiny import tiny_tokenizer
from llava.visual.config import VisualConfig


def _line(name: str, answer: str) -> str:
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": answer}]
    return json.dumps({"id": name, "conversations": turns})


def _open(folder: Path, on_bad_sample: str, good: int = 6) -> SupervisedDataset:
    lines = [_line("broken", " "), *(_line(f"good{i}", "A") for i in range(good))]
    (folder / "a.jsonl").write_text("\n".join(lines))
    (folder / "b.jsonl").write_text("\n".join(_line(f"other{i}", "A") for i in range(50)))
    path = folder / "{b,a}.jsonl"
    config = VisualConfig(patches_per_side=8)
    return SupervisedDataset(
        path, tiny_tokenizer(), config, max_length=500, on_bad_sample=on_bad_sample
    )


def test_a_skipped_sample_has_one_stand_in_of_its_data_set(tmp_path: Path) -> None:
    item = _open(tmp_path, "skip")[50]
    assert item["sample_id"].startswith("good") and item["set_index"] == 1
    assert {bad["index"] for bad in item["bad_samples"]} == {50}
    assert "a.jsonl:1" in item["bad_samples"][0]["message"]
    assert _open(tmp_path, "skip")[50]["sample_id"] == item["sample_id"]
    assert _open(tmp_path, "skip")[51]["bad_samples"] == []


def test_stopping_raises_and_a_data_set_of_broken_samples_does_not_go_round_for_ever(
    tmp_path: Path,
) -> None:
    with pytest.raises(RecordError, match="a.jsonl:1"):
        _open(tmp_path, "stop")[50]
    with pytest.raises(RecordError, match="20 samples in turn cannot be used.*llava.data.validate"):
        _open(tmp_path, "skip", good=0)[50]


def test_other_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--on_bad_sample must be one of stop, skip, got 'drop'"):
        _open(tmp_path, "drop")


def test_a_stand_in_of_a_packed_row_is_not_longer_than_what_it_replaces(tmp_path: Path) -> None:
    answers = [" ", *("A" * size for size in (5, 50, 500) for _ in range(30))]
    lines = [_line(f"s{number}", answer) for number, answer in enumerate(answers)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    path, config = tmp_path / "a.jsonl", VisualConfig(patches_per_side=8)
    dataset = SupervisedDataset(
        path, tiny_tokenizer(), config, max_length=2000, on_bad_sample="skip"
    )
    lengths = np.array([60, *(len(dataset[index]["input_ids"]) for index in range(1, 91))])
    # As if the broken sample had been measured whole, and its picture damaged since.
    lengths[0] = lengths[1] + 10
    dataset.replace_by_shorter(lengths)
    item = dataset[0]
    assert len(item["input_ids"]) == lengths[1] and item["bad_samples"][0]["index"] == 0
    assert dataset[0]["sample_id"] == item["sample_id"]
    lengths[0] = lengths[1] - 1
    item = dataset[0]
    assert len(item["input_ids"]) == 1 and item["labels"].tolist() == [IGNORE_INDEX]
    assert item["bad_samples"][0]["index"] == 0
