"""The quickstart's inputs, mixture, task and report; the whole run is marked slow."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cv_reader import read_index
from inputs import DESCRIPTION_REQUEST, find_videos, user_material
from llava.data.records import CodecRecord, ImageRecord, TextRecord, VideoRecord, parse_record
from make_clips import COLOURS, EVENT_FRAMES, clip_frames, conversation, make_clips
from mixture import write_mixture
from quickstart import training_lines
from report import better_with_codec
from support.media import moving_square, write_video
from support.paths import ROOT
from task.utils import normalise, process_results


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "videos" / "tiny clip.mp4"
    path.parent.mkdir()
    write_video(path, moving_square(10, 64, 96, (2, 1)), frame_rate=5)
    return path


def test_the_event_lasts_as_long_as_the_question_says() -> None:
    frames = list(clip_frames(seed=3, disc="dark", colour="green"))
    shown = [bool((frame == COLOURS["green"]).all(axis=2).any()) for frame in frames]
    assert sum(shown) == EVENT_FRAMES
    first = shown.index(True)
    assert all(shown[first : first + EVENT_FRAMES])


def test_clips_hold_every_codec_with_b_frames_and_are_made_once(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 2)
    paths = [tmp_path / clip["video"] for clip in clips]
    assert [read_index(path).codec_name for path in paths] == ["h264", "hevc"]
    before = [path.stat().st_mtime_ns for path in paths]
    assert make_clips(tmp_path, 2) == clips
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_each_question_comes_first_in_some_clips() -> None:
    clips = [{"id": f"clip_{n:04d}", "disc": "dark", "colour": "red"} for n in range(16)]
    first = {conversation(clip)[0]["value"] for clip in clips}
    assert len(first) == 2
    assert all(text.startswith("<video>\n") for text in first)


def test_users_videos_are_described_by_what_their_container_says(clip: Path) -> None:
    material = user_material([clip.parent])
    [question] = material.questions
    assert question["question"] == DESCRIPTION_REQUEST
    assert question["answer"] == (
        "A video of 2.0 seconds, 96 by 64 pixels, 10 frames, coded as h264."
    )
    assert material.records[0]["conversations"][1]["value"] == question["answer"]


def test_a_raw_training_file_gives_a_question_per_turn(clip: Path) -> None:
    turns = [
        {"from": "human", "value": "<video>\nWhat moves?"},
        {"from": "gpt", "value": "A square."},
        {"from": "human", "value": "Where to?"},
        {"from": "gpt", "value": "Right."},
    ]
    data = clip.parent / "data.json"
    data.write_text(json.dumps([{"id": "a", "video": clip.name, "conversations": turns}]))
    material = user_material([data])
    assert [q["question"] for q in material.questions] == ["What moves?", "Where to?"]
    assert [q["answer"] for q in material.questions] == ["A square.", "Right."]
    assert list(material.keys) == [str(clip)]


def test_missing_and_empty_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="nowhere.mp4 does not exist"):
        find_videos([tmp_path / "nowhere.mp4"])
    with pytest.raises(SystemExit, match="no video below"):
        find_videos([tmp_path])


def test_the_mixture_holds_every_kind_of_record(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<video>\nA?"}, {"from": "gpt", "value": "B"}]
    codec = tmp_path / "codec.jsonl"
    entry = {
        "id": "c",
        "image": ["m.jpg"],
        "positions_thw": "p.npy",
        "conversations": [{"from": "human", "value": "<image>\nA?"}, turns[1]],
    }
    codec.write_text(json.dumps(entry) + "\n")
    raw = {"id": "r", "video": "v.mp4", "conversations": turns}
    lines = write_mixture(tmp_path / "train.jsonl", codec, [raw], 8).read_text().splitlines()
    records = [
        parse_record(json.loads(line), where="x", image_folder=tmp_path, video_folder=tmp_path)
        for line in lines
    ]
    assert {type(record) for record in records} == {
        CodecRecord,
        ImageRecord,
        TextRecord,
        VideoRecord,
    }


@pytest.mark.parametrize(
    ("answer", "score"), [("red", 1.0), (" Red.\n", 1.0), ("dark red", 0.0), ("", 0.0)]
)
def test_answers_are_matched_whole(answer: str, score: float) -> None:
    doc = {"answer": "red", "kind": "event"}
    assert process_results(doc, [answer]) == {"accuracy": score}


def test_normalise_keeps_inner_punctuation() -> None:
    assert normalise("  A. On a  Beach. ") == "a. on a beach"


def test_the_console_shows_a_header_and_some_steps() -> None:
    show = training_lines(300)
    header = "       step   epoch     loss      rate"
    lines = [header, *(f"   {step}/300   0.1  1.2" for step in range(1, 26)), header, "warning: x"]
    shown = [line for line in lines if show(line)]
    assert shown == [header, "   1/300   0.1  1.2", "   20/300   0.1  1.2"]
    assert training_lines(3)("   2/3   0.1  1.2")


def test_the_page_shows_videos_on_which_the_inputs_differ() -> None:
    def evaluation(video_input: str, scores: list[float | None]) -> Any:
        samples = {
            number: SimpleNamespace(score=score, video=f"{number}.mp4")
            for number, score in enumerate(scores)
        }
        tasks = {"event": SimpleNamespace(samples=samples)}
        return SimpleNamespace(video_input=video_input, tasks=tasks)

    runs = [evaluation("codec", [1, 1, 0, 1, None]), evaluation("frames", [1, 0, 1, None, 1])]
    assert better_with_codec(runs) == better_with_codec(runs[::-1]) == {"1.mp4", "3.mp4"}


@pytest.mark.slow
def test_the_whole_line_runs_and_ends_with_its_report(tmp_path: Path, clip: Path) -> None:
    run = subprocess.run(
        ["bash", str(ROOT / "examples" / "quickstart" / "run.sh"), str(clip)],
        capture_output=True,
        text=True,
        env={**os.environ, "OUT": str(tmp_path / "out"), "STEPS": "3"},
        timeout=900,
    )
    assert run.returncode == 0, run.stderr
    report = Path(run.stdout.splitlines()[-1])
    page = report.read_text(encoding="utf-8")
    assert report == tmp_path / "out" / "report.html"
    assert page.count("<figure>") >= 5
    assert "tiny clip" in page and "http" not in page.replace("http-equiv", "")
