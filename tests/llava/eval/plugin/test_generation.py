"""A task's generation settings, and answers that end at stop strings."""

import pytest
import torch

from llava.eval.plugin.generation import (
    GenerationSettings,
    StopAtStrings,
    cut_at,
    read_generation_settings,
)
from llava.model.tiny import tiny_tokenizer


def test_defaults_are_greedy() -> None:
    settings, ignored = read_generation_settings({}, 1024)
    assert settings == GenerationSettings()
    assert settings.to_generate() == {
        "max_new_tokens": 1024,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "do_sample": False,
    }
    assert ignored == {}


def test_temperature_switches_sampling_on() -> None:
    settings, _ = read_generation_settings({"temperature": 0.5, "top_p": 0.9}, 7)
    arguments = settings.to_generate()
    assert arguments["do_sample"] is True
    assert (arguments["temperature"], arguments["top_p"], arguments["top_k"]) == (0.5, 0.9, 0)
    assert arguments["max_new_tokens"] == 7


def test_settings_without_a_meaning_are_reported() -> None:
    asked = {"max_new_tokens": 16, "do_sample": False, "image_aspect_ratio": "pad", "top_p": None}
    settings, ignored = read_generation_settings(asked, 1024)
    assert settings.max_new_tokens == 16
    assert ignored == {"image_aspect_ratio": "pad"}
    assert read_generation_settings({"do_sample": True}, 1)[1] == {"do_sample": True}


@pytest.mark.parametrize(
    ("until", "expected"),
    [(None, ()), ([], ()), ("\n", ("\n",)), (["\n\n", "", "."], ("\n\n", "."))],
)
def test_until_is_a_string_or_a_list(until: object, expected: tuple[str, ...]) -> None:
    assert read_generation_settings({"until": until}, 1)[0].until == expected


def test_until_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="until must be a string or a list of strings, got 5"):
        read_generation_settings({"until": 5}, 1)


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
