"""Ids and labels of a record, shown as the text they decode to."""

from typing import Any

import pytest
import torch

from llava.constants import IGNORE_INDEX, Expansion
from llava.data.encoding import tokenize
from llava.data.records import TextRecord
from support.tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()


def _record(question: str = "<image>\nWhat?") -> TextRecord:
    turns = ({"from": "human", "value": question}, {"from": "gpt", "value": "A cat."})
    return TextRecord(sample_id="s1", where="d.jsonl:7", turns=turns)


def _tokenize(record: TextRecord, counts: list[Expansion], max_length: int = 1000) -> Any:
    return tokenize(record, counts, TOKENIZER, template="qwen_1_5", max_length=max_length)


def test_labels_are_the_answer_and_nothing_else() -> None:
    input_ids, labels = _tokenize(_record(), [4])
    kept = labels != IGNORE_INDEX
    assert TOKENIZER.decode(labels[kept]) == "A cat.<|im_end|>\n"
    assert (labels[kept] == input_ids[kept]).all()
    assert kept.nonzero().flatten().diff().eq(1).all()


def test_the_ids_are_those_of_the_whole_prompt() -> None:
    input_ids, labels = _tokenize(_record("<image> and <image>"), [2, (1, "<0.5 seconds>", 3)])
    start, pad, end = "<|im_start|>", "<|image_pad|>", "<|im_end|>\n"
    question = f"{pad * 2} and {pad}<0.5 seconds>{pad * 3}"
    prompt = (
        f"{start}system\nYou are a helpful assistant.{end}"
        f"{start}user\n{question}{end}{start}assistant\nA cat.{end}"
    )
    assert input_ids.dtype == labels.dtype == torch.int64
    assert input_ids.tolist() == TOKENIZER.encode(prompt, add_special_tokens=False)


def test_each_visual_token_has_its_placeholder() -> None:
    input_ids, _ = _tokenize(_record("<image> and <image>"), [4, 6])
    image_id = TOKENIZER.convert_tokens_to_ids("<|image_pad|>")
    assert (input_ids == image_id).sum() == 10


def test_the_limit_is_inclusive_and_nothing_is_cut() -> None:
    length = len(_tokenize(_record(), [4])[0])
    assert len(_tokenize(_record(), [4], max_length=length)[0]) == length
    message = (
        rf"sample 's1' \(d.jsonl:7\): {length} tokens \(4 visual, {length - 4} text\) exceed "
        f"the limit of {length - 1}; raise --model_max_length"
    )
    with pytest.raises(ValueError, match=message):
        _tokenize(_record(), [4], max_length=length - 1)


def test_a_count_mismatch_names_the_sample() -> None:
    message = r"sample 's1' \(d.jsonl:7\): .* 1 <image> placeholders for 2 images"
    with pytest.raises(ValueError, match=message):
        _tokenize(_record(), [4, 4])
