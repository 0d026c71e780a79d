"""Short numbers and durations with units."""

import pytest

from cv_reader.commands import progress
from run_kit.pages.text import duration_text, short_number


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (7.26, "7.3 s"),
        (59.97, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (18180, "5 h 03 min"),
        (86_399, "1 d 00 h"),
        (190_800, "2 d 05 h"),
    ],
)
def test_durations_carry_their_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == progress.duration_text(seconds) == text


def test_numbers_are_short() -> None:
    assert [short_number(value) for value in (1250000.0, 40000, 9999, 0.02, 2e-6)] == [
        "1.25M",
        "40k",
        "9999",
        "0.02",
        "2e-06",
    ]
