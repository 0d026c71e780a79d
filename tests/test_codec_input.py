"""The snippets of docs/codec_input.md, run as a reader would run them."""

import json
import re
import shlex
from pathlib import Path

import pytest

from cv_reader.codec_index import CodecIndex
from cv_reader.commands import main
from support.media import moving_square, write_video
from support.paths import ROOT

PAGE = (ROOT / "docs" / "codec_input.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page supposes: a clip, a list of videos, a data set."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", moving_square(70, 96, 128))
    (tmp_path / "videos.jsonl").write_text(json.dumps({"video": "clip.mp4"}) + "\n")
    (tmp_path / "train.csv").write_text("clip.mp4,0\n")
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A square."}]
    row = {"id": "1", "video": "clip.mp4", "conversations": turns}
    (tmp_path / "raw.json").write_text(json.dumps([row]))
    return tmp_path


def test_the_snippets_run_one_after_the_other(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {}
    blocks = _blocks("python")
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, "docs/codec_input.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "(2, 24, 32, 2) (96, 128)" in shown
    assert "['mosaic_000.jpg', 'mosaic_001.jpg'] (10368, 3) int32" in shown
    assert re.search(r"cell \(10, 20\) of mosaic 3 is cell \(\d+, \d+\) of frame \d+", shown)


def test_the_commands_run(here: Path) -> None:
    commands = "".join(_blocks("bash")).splitlines()
    assert len(commands) == 6
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "cv_reader"
        assert main.main(arguments) == 0, command
    assert (here / "picture.png").exists()
    assert (here / "evaluation" / "assets" / "clip" / "meta.json").exists()
    assert len((here / "train.jsonl").read_text().splitlines()) == 1
    assert "svg" in (here / "kept.html").read_text()
    assert list(CodecIndex(here / "kept.jsonl.zst").videos()) == ["clip.mp4"]


def test_pictures_are_there_and_small() -> None:
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / name).stat().st_size < 150_000
