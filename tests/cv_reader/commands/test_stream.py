"""``cv_reader stream``: lines, assets, refusals."""

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cv_reader
from cv_reader.assets.contract import read_asset
from cv_reader.commands.stream import main
from cv_reader.commands.validate import main as validate
from cv_reader.streams.settings import StreamSettings, live_config
from support.media import moving_square, write_video

SIZES = ["--square_size", "64", "--patch_size", "8", "--sequence_length", "16"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = moving_square(75, 48, 64, (0, 2), square_px=16)
    path = tmp_path_factory.mktemp("videos") / "clip.ts"
    return write_video(path, frames, options={"x264-params": "keyint=25:min-keyint=25"})


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_one_line_per_window(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(clip), *SIZES, "--slots_per_second", "10", "--rows"]) == 0
    out = capsys.readouterr()
    lines = _lines(out.out)
    assert [line["window"] for line in lines] == list(range(len(lines)))
    assert sum(len(line["slots"]) for line in lines) == 30
    assert [line["break_before"] for line in lines if line["break_before"]] == ["start", "full"]
    assert all(len(line["rows"]) == line["patches"] for line in lines)
    assert lines[-1]["counters"]["pictures"] == 75
    assert "75 pictures" in out.err


def test_one_window_is_enough(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(clip), *SIZES, "--max_windows", "1"]) == 0
    out = capsys.readouterr()
    (line,) = _lines(out.out)
    counters = line["counters"]
    assert counters["windows"] == 1
    assert f"1 windows, {line['patches']} patches of {counters['pictures']} pictures" in out.err
    for flag, value in (("--max_windows", "-1"), ("--gate", "nan"), ("--container_format", "x")):
        assert main([str(clip), *SIZES, flag, value]) == 2
        assert f"{flag.strip('-')} must be" in capsys.readouterr().err
    # Before the stream is opened, not when its first segment is over.
    assert main([str(clip), *SIZES, "--out", str(clip / "segments")]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("block", ["1", "2"])
def test_segments_become_sound_assets(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], block: str
) -> None:
    """Every kept patch is at the place of its row, unchanged."""
    arguments = [str(clip), *SIZES, "--slots_per_second", "10", "--block_cells", block]
    assert main([*arguments, "--rows", "--jpg_quality", "100", "--out", str(tmp_path)]) == 0
    lines = _lines(capsys.readouterr().out)
    config = live_config(square_size=64, patch_size=8, sequence_length=16, block_cells=int(block))
    settings = StreamSettings(config=config, slots_per_second=10)
    kept = {
        (window.segment, *row): patch
        for window in cv_reader.stream(clip, settings)
        for row, patch in zip(window.rows.tolist(), window.patches, strict=True)
    }
    assert validate(["--deep", str(tmp_path)]) == 0
    for number in (0, 1):
        asset = read_asset(tmp_path / "assets" / f"segment_{number:06d}")
        rows = [row for line in lines if line["segment"] == number for row in line["rows"]]
        assert {tuple(row) for row in asset.positions.tolist()} == {tuple(row) for row in rows}
        assert asset.meta["num_chosen"] == len(rows)
        mosaics = np.stack(
            [np.asarray(Image.open(image).convert("YCbCr")) for image in asset.images]
        )
        cells = mosaics.reshape(-1, 8, 8, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 8, 8, 3)
        for row, cell in zip(asset.positions.tolist(), cells, strict=True):
            error = np.abs(cell[..., 0].astype(int) - kept[(number, *row)][..., 0])
            assert error.max() <= 8, "luma of JPEG files of the best quality"
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert "holds assets already" in capsys.readouterr().err


def test_standard_input(clip: Path) -> None:
    command = [sys.executable, "-m", "cv_reader.commands.main", "stream", "-", *SIZES]
    with clip.open("rb") as pipe:
        feeder = subprocess.Popen(["cat"], stdin=pipe, stdout=subprocess.PIPE)
        done = subprocess.run(
            [*command, "--max_windows", "3"], stdin=feeder.stdout, capture_output=True, text=True
        )
        feeder.kill()
        feeder.wait()
        assert feeder.stdout is not None
        feeder.stdout.close()
    assert done.returncode == 0, done.stderr
    assert [line["window"] for line in _lines(done.stdout)] == [0, 1, 2]


def test_what_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([str(tmp_path / "missing.ts")]) == 1
    assert "no such file" in capsys.readouterr().err
    assert main(["gopher://host/a"]) == 1
    assert "scheme 'gopher' is none of" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"no video" * 1000)))
    assert main(["-"]) == 1
    assert "the standard input" in capsys.readouterr().err
    assert main([str(tmp_path / "missing.ts"), "--token_price", "0"]) == 2
    assert "token_price must be above 0" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "--window_seconds" in capsys.readouterr().out
