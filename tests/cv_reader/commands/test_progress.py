"""Progress: what was finished before says nothing about how long the rest takes."""

import json
from pathlib import Path

import pytest

from cv_reader.commands import progress as library
from cv_reader.commands.progress import Report, looked_over
from cv_reader.select.config import AssetConfig


def test_pace_counts_the_time_of_work_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(library.time, "monotonic", lambda: now[0])
    with Report("precompute", tmp_path / "fail.txt", log_every=4, total=10) as report:
        for what, at in (("kept", 50), ("kept", 100), ("made", 102), ("made", 104)):
            now[0] = float(at)
            report.count(what)
        assert report.finish(tmp_path / "summary.json", AssetConfig()) == 0
    shown = capsys.readouterr().err
    assert "4 of 10: 2 made, 2 kept, 0 skipped, 0 failed, 0.50 videos/s, 12.0 s left" in shown
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["total"], summary["made"], summary["kept"]) == (10, 2, 2)
    assert (summary["seconds"], summary["videos_per_second"]) == (104, 0.5)


def test_a_long_look_before_the_run_tells_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(library.time, "monotonic", lambda: next(now))
    assert list(looked_over("stage1", "abcdefgh")) == list("abcdefgh")
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) < 5
    assert lines[0].startswith("stage1: checking existing output: ")
