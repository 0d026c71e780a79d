"""Asking a tiny checkpoint about a video: as Python, as a command, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava.ask import Assistant, main
from llava.model.tiny import write_tiny_checkpoint
from support.media import moving_square, write_video


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(
        tmp_path_factory.mktemp("video") / "a.mp4", moving_square(70, 64, 96, (1, 1))
    )


@pytest.mark.parametrize("video_input", ["codec", "frames"])
def test_a_video_is_shown_as_asked(
    checkpoint: Path, clip: Path, video_input: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assistant = Assistant.load(checkpoint, "cpu")
    seen = {}
    generate = assistant.model.generate

    def spy(**arguments: Any) -> Any:
        seen.update(arguments)
        return generate(**arguments)

    monkeypatch.setattr(assistant.model, "generate", spy)
    first = assistant.ask(clip, "What moves?", video_input=video_input, max_new_tokens=8)
    again = assistant.ask(clip, "What moves?", video_input=video_input, max_new_tokens=8)
    assert first == again
    # 8 mosaics or frames of 8 x 8 cells: 512 visual tokens.
    assert int(seen["visual"].tokens_per_sample(1)[0]) == 512
    slots = set(seen["visual"].positions[:, 0].tolist())
    assert len(slots) == 8 if video_input == "frames" else len(slots) > 8
    text = assistant.processor.tokenizer.decode(seen["input_ids"][0])
    assert text.count("What moves?") == 1


def test_the_command_answers_and_refuses(
    checkpoint: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (64, 48), (200, 20, 20)).save(picture)
    options = ["--max_new_tokens", "4", "--device", "cpu"]
    assert main([str(checkpoint), str(picture), "Which colour?", *options]) == 0
    capsys.readouterr()
    assert main([str(checkpoint), str(tmp_path / "no.mp4"), "What?", *options]) == 2
    assert "no.mp4" in capsys.readouterr().err
    assert main([str(tmp_path), str(clip), "What?", *options]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_an_unknown_input_is_named(checkpoint: Path, clip: Path) -> None:
    with pytest.raises(ValueError, match="codec or frames, got 'blocks'"):
        Assistant.load(checkpoint, "cpu").ask(clip, "What?", video_input="blocks")
