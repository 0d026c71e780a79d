"""Each kind of entry, and each way to contradict oneself."""

from pathlib import Path
from typing import Any

import pytest

from llava.data.records import (
    AnyRecord,
    CodecRecord,
    FramesRecord,
    ImageRecord,
    RecordError,
    TextRecord,
    VideoRecord,
    parse_record,
)


def _parse(question: str = "What?", **fields: Any) -> AnyRecord:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "That."}]
    return parse_record(
        {"id": "s1", "conversations": turns, **fields},
        where="d.jsonl:7",
        image_folder=Path("/images"),
        video_folder=Path("/videos"),
    )


def test_positions_make_a_codec_record() -> None:
    record = _parse("<image>\n<image>\nQ", image=["a.jpg", "/b.jpg"], positions_thw="p.npy")
    assert isinstance(record, CodecRecord)
    assert record.images == (Path("/images/a.jpg"), Path("/b.jpg"))
    assert record.positions == Path("/images/p.npy")


@pytest.mark.parametrize(
    "fields", [{"image": "a.jpg"}, {"image": ["a.jpg"]}, {"images": ["a.jpg"]}]
)
def test_one_image_in_three_spellings(fields: dict[str, Any]) -> None:
    record = _parse("<image>", **fields)
    assert isinstance(record, ImageRecord)
    assert record.images == (Path("/images/a.jpg"),)


def test_eight_images_stay_images() -> None:
    assert isinstance(_parse("<image>" * 8, image=["a.jpg"] * 8), ImageRecord)


@pytest.mark.parametrize("question", ["<video>\nQ", "<image>\n<image>\nQ"])
def test_frames_say_so(question: str) -> None:
    record = _parse(question, image=["a.jpg", "b.jpg"], type="frames")
    assert isinstance(record, FramesRecord)
    assert record.turns[0]["value"] == "<image>\n<image>\nQ"


def test_a_video_is_eight_frames_unless_it_says_otherwise() -> None:
    record = _parse("<video>\nQ", video="a.mp4")
    assert isinstance(record, VideoRecord)
    assert (record.video, record.num_frames) == (Path("/videos/a.mp4"), 8)
    assert record.turns[0]["value"].count("<image>") == 8
    record = _parse("<video>\nQ", video="a.mp4", num_frames=3)
    assert record.turns[0]["value"] == "<image>\n<image>\n<image>\nQ"


def test_a_video_says_how_its_frames_are_sampled() -> None:
    record = _parse("<video>\nQ", video="a.mp4")
    assert isinstance(record, VideoRecord) and record.frame_sampling == "uniform"
    record = _parse("<video>\nQ", video="a.mp4", frame_sampling="cheap")
    assert isinstance(record, VideoRecord) and record.frame_sampling == "cheap"
    with pytest.raises(RecordError, match="frame_sampling must be one of uniform, cheap"):
        _parse("<video>\nQ", video="a.mp4", frame_sampling="fast")


def test_no_visual_makes_a_text_record() -> None:
    assert isinstance(_parse(), TextRecord)


def test_null_counts_as_absent() -> None:
    assert isinstance(_parse(image=None, video=None, positions_thw=None, type=None), TextRecord)


@pytest.mark.parametrize("kind", ["codec", "image", "frames", "video", "text"])
def test_a_declared_type_must_agree(kind: str) -> None:
    fields = {
        "codec": {"image": ["a.jpg"], "positions_thw": "p.npy"},
        "image": {"image": "a.jpg"},
        "frames": {"image": ["a.jpg"]},
        "video": {"video": "a.mp4"},
        "text": {},
    }
    assert type(_parse(type=kind, **fields[kind])).__name__ == f"{kind.capitalize()}Record"
    other = "text" if kind != "text" else "codec"
    with pytest.raises(RecordError, match=f"type says '{other}'"):
        _parse(type=other, **fields[kind])


@pytest.mark.parametrize(("given", "expected"), [({}, "d.jsonl:7"), ({"id": 5}, "5")])
def test_ids_become_strings_or_the_place(given: dict[str, Any], expected: str) -> None:
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    folders = {"image_folder": Path(), "video_folder": Path()}
    record = parse_record({"conversations": turns, **given}, where="d.jsonl:7", **folders)
    assert record.sample_id == expected
    assert "d.jsonl:7" in record.name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": "a.jpg", "video": "a.mp4"}, "got image and video"),
        ({"image": "a.jpg", "images": ["b.jpg"]}, "got image and images"),
        ({"videos": ["a.mp4", "b.mp4"]}, "got videos"),
        ({"positions_thw": "p.npy"}, "needs the list of mosaics"),
        ({"positions_thw": "p.npy", "video": "a.mp4"}, "needs the list of mosaics"),
        ({"positions_thw": "p.npy", "image": "a.jpg"}, "must be a list of paths here"),
        ({"positions_thw": 3, "image": ["a.jpg"]}, "positions_thw must be one path, got 3"),
        ({"image": "a.jpg", "type": "frames"}, "must be a list of paths here"),
        ({"image": "a.jpg", "type": "frame"}, "type says 'frame'"),
        ({"type": "frames"}, "type says 'frames'"),
        ({"image": []}, "image must be a path"),
        ({"image": ""}, "image must be a path"),
        ({"image": ["a.jpg", 3]}, "image must be a path"),
        ({"image": {"path": "a.jpg"}}, "image must be a path"),
        ({"video": ["a.mp4"]}, "video must be one path"),
        ({"video": "a.mp4", "num_frames": 0}, "num_frames must be an integer >= 1, got 0"),
        ({"video": "a.mp4", "num_frames": True}, "got True"),
        ({"question": "<video>", "image": "a.jpg"}, "<video> needs a raw video"),
        ({"question": "<video>"}, "<video> needs a raw video"),
        ({"conversations": []}, "conversations must be a list"),
        ({"conversations": None}, "conversations must be a list"),
        ({"conversations": ["hi"]}, "turn 1 must have from and value"),
        ({"conversations": [{"from": "human"}]}, "turn 1 must have from and value"),
        ({"conversations": [{"from": "human", "value": 1}]}, "must be a string, got 1"),
    ],
)
def test_contradictions_name_sample_and_place(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=rf"sample 's1' \(d.jsonl:7\): .*{message}"):
        _parse(**fields)


def test_an_entry_must_be_an_object() -> None:
    with pytest.raises(RecordError, match="d.jsonl:7: an entry must be a JSON object, got list"):
        parse_record([], where="d.jsonl:7", image_folder=Path(), video_folder=Path())
