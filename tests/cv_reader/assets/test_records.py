"""Where a conversation shows its video, and what a record may hold."""

from typing import Any

import pytest

from cv_reader.assets.records import check_conversation, rewrite_conversations
from cv_reader.assets.samples import VideoSample
from cv_reader.errors import SampleError

BLOCK = "<image>\n<image>"


def _sample(*values: Any) -> VideoSample:
    turns = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]
    return VideoSample("a", "a.mp4", 0, {"conversations": turns}, "data.json[0]")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["<video>\nWhat?", "A."], [f"{BLOCK}\nWhat?", "A."]),
        (["Look: <video> now", "A."], [f"Look: {BLOCK} now", "A."]),
        (["What?", "A."], [f"{BLOCK}\nWhat?", "A."]),
        (["<image><image>What?", "A."], ["<image><image>What?", "A."]),
        (
            ["<image>What?", "A.", "<image>More?", "B."],
            ["<image>What?", "A.", "<image>More?", "B."],
        ),
        (["<image>\nWhat?", "A."], [f"{BLOCK}\nWhat?", "A."]),
        (["Hi", "Hello.", "<video>\nWhat?", "A."], ["Hi", "Hello.", f"{BLOCK}\nWhat?", "A."]),
        (["Hi", "Hello.", "<image> What?", "A."], ["Hi", "Hello.", f"{BLOCK} What?", "A."]),
        (["<video>\nTag?", "<image>"], [f"{BLOCK}\nTag?", "<image>"]),
        (["Tag?", "<video> or <image>"], [f"{BLOCK}\nTag?", "<video> or <image>"]),
    ],
)
def test_the_video_is_shown_where_a_human_turn_has_it(before: list[str], after: list[str]) -> None:
    sample = _sample(*before)
    turns = rewrite_conversations(sample, 2)
    assert [turn["value"] for turn in turns] == after
    assert [turn["value"] for turn in sample.row["conversations"]] == before
    record = {"conversations": turns, "image": ["a.jpg", "b.jpg"]}
    assert check_conversation(record, "a") == ["a.jpg", "b.jpg"]


def test_a_system_prompt_is_text() -> None:
    turns = [{"from": "system", "value": "<video>"}, *_sample("Q", "A").row["conversations"]]
    rewritten = rewrite_conversations(
        VideoSample("a", "a.mp4", 0, {"conversations": turns}, "x"), 2
    )
    assert [turn["value"] for turn in rewritten] == ["<video>", f"{BLOCK}\nQ", "A"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "list of turns"),
        ({"conversations": "text"}, "list of turns"),
        ({"conversations": [{"from": "human"}]}, "list of turns"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "no turn is from a human"),
        (_sample("<image><image><image>", "A").row, "3 <image> in .*write one <video> instead"),
        (_sample("<video> <video>", "A").row, "2 <video> in .*write one <video> instead"),
        (_sample("<video>", "A", "<video>", "B").row, "2 <video> in"),
        (_sample("<video> <image>", "A").row, "1 <video> and 1 <image> in"),
    ],
)
def test_conversations_that_cannot_show_the_video_are_refused(row: Any, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        rewrite_conversations(VideoSample("a", "a.mp4", 0, row, "here"), 2)


def _record(*values: Any, **fields: Any) -> dict[str, Any]:
    return {"id": "a", **_sample(*values).row, **fields}


@pytest.mark.parametrize(
    "record",
    [
        _record("<image>\nQ", "A <image> <video>", image="a.png"),
        _record("<video>\nQ", "A", video="v.mp4"),
        _record("Hi", "Hello", "<image>\nQ", "A", video="v.mp4"),
        _record("Q", "A"),
    ],
)
def test_records_that_training_can_use_pass(record: Any) -> None:
    check_conversation(record, "a")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (_record("<video>\nQ", "A", image=["a.jpg"]), "0 <image> and 1 <video> .* for 1 images"),
        (_record("Q", "<image>", image="a.png"), "0 <image> and 0 <video>"),
        (_record("<video>", "A", "<video>", "B", video="v.mp4"), "one <video>"),
        (_record("Q \ud83d", "A"), "lone surrogate"),
        (_record("Q", "A", image=7), "image must be a path"),
        (_record("Q", "A", image=[7]), "image must be a path"),
        ({"id": "a", "conversations": [7]}, "list of turns"),
        ({"id": "a", "conversations": []}, "0 <image>"),
    ],
)
def test_records_that_training_refuses_are_named(record: Any, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        check_conversation(record, "here: sample 'a'")
