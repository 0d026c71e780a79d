"""Entries as published data sets write them, and what --fix makes of those that are broken."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava.data.records import AnyRecord, ImageRecord, RecordError, VideoRecord, parse_record
from llava.data.repair import repair_entry
from llava.data.turns import ONE_FOR_VIDEO, PLACED_FIRST, TRAILING_QUESTION
from llava.data.validate import main
from llava.model.tiny import write_tiny_checkpoint

Q, A = {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}
IMAGE_Q = {"from": "human", "value": "<image>B"}
FOUR = "<image>\n<image>\n<image>\n<image>"


def _parse(entry: dict[str, Any]) -> AnyRecord:
    return parse_record(
        {"id": "s1", **entry}, where="d.jsonl:7", image_folder=Path("/i"), video_folder=Path("/v")
    )


def _human(record: AnyRecord) -> list[str]:
    return [turn["value"] for turn in record.turns if turn["from"] == "human"]


def test_one_image_in_a_record_of_llava_video_is_the_video() -> None:
    turns = [{"from": "human", "value": "<image>\nDescribe."}, A, Q, A]
    record = _parse(
        {"video": "a/b.mp4", "data_source": "x", "num_frames": 4, "conversations": turns}
    )
    assert isinstance(record, VideoRecord) and record.video == Path("/v/a/b.mp4")
    assert _human(record) == [f"{FOUR}\nDescribe.", "Q"]
    assert record.notes == (ONE_FOR_VIDEO,)


@pytest.mark.parametrize("word", ["<video>", "<image>"])
def test_a_video_may_be_asked_about_in_a_later_question(word: str) -> None:
    turns = [Q, A, {"from": "human", "value": f"{word} What?"}, {"from": "gpt", "value": "<image>"}]
    record = _parse({"video": "a.mp4", "num_frames": 4, "conversations": turns})
    assert _human(record) == ["Q", f"{FOUR} What?"]
    assert record.turns[-1]["value"] == "<image>"


def test_visuals_without_a_placeholder_come_first_in_the_first_question() -> None:
    system = {"from": "system", "value": "Be brief."}
    record = _parse({"image": ["a.png", "b.png"], "conversations": [system, Q, A, Q, A]})
    assert _human(record) == ["<image>\n<image>\nQ", "Q"]
    assert record.notes == (PLACED_FIRST,)
    record = _parse({"video": "a.mp4", "num_frames": 4, "conversations": [Q, A]})
    assert _human(record) == [f"{FOUR}\nQ"]


def test_messages_with_roles_and_parts() -> None:
    content = [
        {"type": "image_url", "image_url": {"url": "file:///x/a.png"}},
        {"type": "image", "image": "b.png"},
        {"type": "text", "text": "Which?"},
    ]
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "Both."}]},
    ]
    record = _parse({"messages": messages})
    assert isinstance(record, ImageRecord)
    assert record.images == (Path("/x/a.png"), Path("/i/b.png"))
    assert [(turn["from"], turn["value"]) for turn in record.turns] == [
        ("system", "S"),
        ("human", "<image>\n<image>\nWhich?"),
        ("gpt", "Both."),
    ]


def test_what_other_tools_leave_in_an_entry_is_read() -> None:
    turns = [{"from": "system", "value": " "}, {"from": "user", "value": "Q"}]
    turns += [{"from": "assistant", "value": "A"}, {"from": "user", "value": "And?"}]
    record = _parse({"conversations": turns, "images": [], "videos": []})
    assert [turn["from"] for turn in record.turns] == ["human", "gpt"]
    assert TRAILING_QUESTION in record.notes
    assert isinstance(_parse({"videos": ["a.mp4"], "conversations": [Q, A]}), VideoRecord)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"conversations": [Q, A], "messages": [Q, A]}, "conversations or messages, got both"),
        ({"conversations": [{"from": "tool", "value": "x"}, A]}, "turn 1 must be from human, user"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "text, image or video"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "http://x/a"}]}]},
            "turn 1 must name a local file.*download it first",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "image"}]}]},
            "turn 1 shows image in an answer",
        ),
        (
            {"video": "a", "conversations": [{"from": "human", "value": "<image><image>"}, A]},
            "0 <video> and 2 <image> for one video shown as 8 pictures; write one <video> instead",
        ),
        (
            {"video": "a", "conversations": [{"from": "human", "value": "<video><video>"}, A]},
            "2 <video> and 0 <image>",
        ),
        ({"conversations": [{"from": "human", "value": "Nice \ud83d"}, A]}, "turn 1 holds half a"),
    ],
)
def test_what_cannot_be_read_names_sample_and_remedy(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=rf"sample 's1' \(d.jsonl:7\): .*{message}"):
        _parse(entry)


def test_huge_values_are_shortened_in_messages() -> None:
    with pytest.raises(RecordError) as caught:
        _parse({"id": "x" * 10_000_000, "conversations": "y" * 10_000_000})
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([Q, A, A], ["Q", "A\nA"]),
        ([A, Q, A], ["Q", "A"]),
        ([Q, Q, A], ["Q\nQ", "A"]),
        (
            [{"from": "human", "value": "<image>B"}, {"from": "gpt", "value": " "}, Q, A],
            ["<image>\nQ", "A"],
        ),
        (
            [
                {"from": "human", "value": "<image>\nQ"},
                A,
                {"from": "human", "value": "<image>\nR"},
                A,
            ],
            ["<image>\nQ", "A", "R", "A"],
        ),
        ([{"from": "human", "value": "\ud83d<image>"}, A], ["\ufffd<image>", "A"]),
    ],
)
def test_repairs(turns: list[dict[str, str]], expected: list[str]) -> None:
    fixed, changes = repair_entry({"id": 1, "image": "a.png", "conversations": turns})
    assert [turn["value"] for turn in fixed["conversations"]] == expected
    assert changes


def test_fix_writes_data_that_is_sound_and_says_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_checkpoint(tmp_path / "model")
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    rows = [
        {"id": "sound", "conversations": [Q, A], "extra": 1},
        {
            "id": "published",
            "image": "a.png",
            "messages": [
                {"role": "user", "content": "Q"},
                {"role": "assistant", "content": "A"},
                {"role": "user", "content": "R"},
            ],
        },
        {"id": "joined", "conversations": [Q, A, A]},
        {"id": "lost", "image": "lost.png", "conversations": [Q, A]},
    ]
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    flags = ["--model_name_or_path", str(tmp_path / "model"), "--workers", "0"]
    fixed = tmp_path / "fixed"
    assert main([str(data), *flags, "--fix", str(fixed)]) == 1
    output = capsys.readouterr().out
    assert "2 samples repaired" in output and "2 left out" in output
    written = [json.loads(line) for line in (fixed / "000_d.jsonl").read_text().splitlines()]
    assert written[0] == rows[0]
    assert [row["id"] for row in written] == ["sound", "published", "joined"]
    listed = [json.loads(line) for line in (fixed / "fixes.jsonl").read_text().splitlines()]
    assert [(row["id"], row["changes"]) for row in listed] == [
        ("published", [TRAILING_QUESTION]),
        ("joined", ["turns of one speaker are joined"]),
    ]
    left_out = (fixed / "left_out.jsonl").read_text()
    assert "lost.png" in left_out and "d.jsonl:5: not valid JSON" in left_out
    again = [str(fixed / "mixture.yaml"), *flags, "--image_folder", str(tmp_path)]
    assert main(again) == 0
    assert main([str(data), *flags, "--fix", str(fixed)]) == 2  # the folder is no longer empty
