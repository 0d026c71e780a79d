"""Answers that end at stop strings, and text that comes in pieces."""

import random

import pytest
import torch

from llava.generation import StopAtStrings, TextStream, cut_at
from llava.model.tiny import tiny_tokenizer


def test_text_ends_at_the_first_stop_string() -> None:
    assert cut_at("A. because\n\nB", ["\n\n", "."]) == "A"
    assert cut_at("no stop", ["\n"]) == "no stop"


def test_generation_stops_when_the_answer_holds_the_string() -> None:
    tokenizer = tiny_tokenizer()  # one token per byte
    prompt = tokenizer.encode("say END ")
    answers = ["xéEND", "xxENDE"[:5] + "?", "ENxxxx"]
    rows = [tokenizer.encode(answer) for answer in answers]
    assert len({len(row) for row in rows}) == 1
    criteria = StopAtStrings(["END"], tokenizer, len(prompt))
    done_at = [
        [bool(flag) for flag in criteria(torch.tensor([prompt + row[:n] for row in rows]), None)]
        for n in (1, 5, 6)
    ]
    # "END" of the prompt does not count; the first answer holds it at 6 bytes, the second at 5.
    assert done_at == [[False] * 3, [False, True, False], [True, True, False]]


@pytest.mark.parametrize("until", [(), ("END", "\n\n"), ("é",), ("x",)])
def test_pieces_of_text_are_together_the_answer(until: tuple[str, ...]) -> None:
    tokenizer = tiny_tokenizer()
    random_ = random.Random(1)
    for _ in range(60):
        answer = "".join(random_.choices(["E", "EN", "END", "é", "😀", " ", "\n", "a"], k=9))
        ids = tokenizer.encode(answer)
        if random_.random() < 0.2:
            ids = ids[:-1]  # may end within a character
        stream = TextStream(tokenizer, until)
        pieces = [stream.add(token) for token in ids] + [stream.end()]
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        assert "".join(pieces) == cut_at(whole, until).strip()
        assert stream.is_stopped == any(stop in whole for stop in until)
        assert not any("\ufffd" in piece for piece in pieces[:-1])
