"""The chat in the terminal: a video, two questions, commands, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llava.ask import Assistant
from llava.model.tiny import write_tiny_checkpoint
from llava.serve.chat import main
from support.media import moving_square, write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    write_tiny_checkpoint(folder / "model", seed=3)
    write_video(folder / "a clip.mp4", moving_square(12, 48, 64, (1, 1)))
    return folder


def _lines(*lines: str) -> Callable[[], str]:
    waiting = iter(lines)

    def read() -> str:
        for line in waiting:
            return line
        raise EOFError

    return read


def _arguments(folder: Path, *more: str) -> list[str]:
    return [
        *("--model-path", str(folder / "model"), "--device", "cpu"),
        *("--num_images", "2", "--max-new-tokens", "8", *more),
    ]


def test_a_video_and_two_questions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = folder / "a clip.mp4"
    read = _lines("What moves?", "", "And then?", "/new", f'/video "{video}" input=frames', "Q")
    assert main(_arguments(folder, "--video", str(video)), read) == 0
    said = capsys.readouterr().out
    options = {"num_images": 2, "max_new_tokens": 8}
    assistant = Assistant.load(folder / "model", "cpu")
    assert assistant.ask(video, "What moves?", **options) in said
    assert assistant.ask(video, "Q", video_input="frames", **options) in said
    assert said.count("128 visual tokens; visuals") == 2
    assert said.count("tokens read (128 visual, ") == 3
    assert "a new conversation" in said


def test_mistakes_are_named_and_the_chat_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = _lines("/video no.mp4", "/video", "/video a.mp4 x", "/what", "/quit", "never read")
    assert main(_arguments(folder), read) == 0
    said = capsys.readouterr().out
    assert "no.mp4" in said and "must read NAME=VALUE, got 'x'" in said and "/image FILE" in said
    assert main(_arguments(folder, "--video", "no.mp4")) == 2
    assert main(_arguments(folder, "--set", "qualitty_db=3")) == 2
    assert main(_arguments(folder, "--temperature", "-1")) == 2
    refused = capsys.readouterr().err
    assert "no.mp4" in refused and "qualitty_db" in refused and "temperature" in refused
