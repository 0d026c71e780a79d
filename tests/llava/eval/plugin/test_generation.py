"""A task's generation settings."""

import pytest

from llava.eval.plugin.requests import read_generation_settings
from llava.generation import GenerationSettings


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
