"""``cv_reader score``: all kinds of selections, all kinds of output, refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cv_reader.assets.make import write_evaluation_asset
from cv_reader.backends import BACKENDS
from cv_reader.commands.score import main
from cv_reader.select.config import AssetConfig
from support.made_selection import write_selection
from support.media import moving_square, panning, write_video

CONFIG = AssetConfig(square_size=64, patch_size=8, sequence_length=8, num_images=2)
SIZES = ["--square_size", "64", "--patch_size", "8", "--sequence_length", "8", "--num_images", "2"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = moving_square(24, 48, 64, (0, 2), square_px=16)
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", frames)


def _figures(arguments: list[str], tmp_path: Path) -> tuple[int, list[dict[str, Any]]]:
    output = tmp_path / "figures.json"
    code = main([*map(str, arguments), "-o", str(output)])
    sections = json.loads(output.read_text())
    return code, [one for section in sections for one in section["selections"]]


def test_choices_are_made_and_measured_side_by_side(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choices = ["uniform", "residual", "select=rate_distortion,distortion=mean,direction=hold"]
    arguments = ["--video", clip, *SIZES]
    for choice in choices:
        arguments += ["--choose", choice]
    code, found = _figures(arguments, tmp_path)
    assert code == 0
    assert [one["name"] for one in found] == choices
    assert {one["tokens"] for one in found} == {2 * 64}
    holds = [one["psnr_db"]["hold, motion followed"] for one in found]
    assert max(holds) == holds[2]
    assert "uniform" in capsys.readouterr().out


def test_assets_selections_and_rows_give_one_score(clip: Path, tmp_path: Path) -> None:
    asset = write_evaluation_asset(clip, key="a", out_root=tmp_path, config=CONFIG)
    np.save(tmp_path / "rows.npy", asset.positions)
    selection = write_selection(tmp_path, asset.positions, asset.frame_ids, video=clip.name)
    items = [asset.folder, selection, tmp_path / "rows.npy"]
    code, found = _figures([*items, "--video", clip, *SIZES], tmp_path)
    assert code == 0
    names = [one.pop("name") for one in found]
    assert names == ["a", "sample", "rows"]
    assert found[0] == found[1] == found[2]
    code, again = _figures([asset.folder, "--video_root", clip.parent], tmp_path)
    assert again[0]["psnr_db"] == found[0]["psnr_db"]


@pytest.mark.parametrize(("suffix", "start"), [(".html", b"<!doctype html>"), (".gif", b"GIF89a")])
def test_a_page_or_a_film_is_written(clip: Path, tmp_path: Path, suffix: str, start: bytes) -> None:
    clip = shutil.copyfile(clip, tmp_path / "<b>&.mp4")
    output = tmp_path / f"score{suffix}"
    arguments = ["--video", str(clip), *SIZES, "--choose", "uniform", "-o", str(output)]
    assert main(arguments) == 0
    content = output.read_bytes()
    assert content.startswith(start)
    assert suffix != ".html" or content.count(b"data:image/webp") == 2
    assert b"<b>" not in content


@pytest.mark.skipif(BACKENDS[0].name != "native", reason="needs exact vectors")
def test_a_pan_is_rebuilt_along_the_vectors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By 6 pixels from slot to slot: twice as far as a small search reaches."""
    pan = write_video(tmp_path / "pan.mp4", panning(24, 48, 64, (0, 2)), options={"crf": "12"})
    arguments = ["--video", pan, *SIZES, "--choose", "uniform", "--rebuild", "vectors"]
    code, found = _figures(arguments, tmp_path)
    assert code == 0
    shown = found[0]["psnr_db"]
    assert shown["nearest, along the vectors"] > shown["nearest, motion followed"] + 5
    assert json.loads((tmp_path / "figures.json").read_text())[0]["vectors"]["num_pictures"] == 24
    page = tmp_path / "page.html"
    assert main([*map(str, arguments), "-o", str(page)]) == 0
    content = page.read_text()
    assert content.count("data:image/webp") == 4
    assert "nearest, along the vectors: original, rebuilt" in content
    capsys.readouterr()
    assert main([*map(str, arguments), "--backend", "pyav"]) == 2
    assert "needs exact motion; what backend 'pyav' reads" in capsys.readouterr().err


def test_what_cannot_be_measured_is_named(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "wrong.npy", np.full((4, 3), 99))
    arguments = [tmp_path / "wrong.npy", "--video", clip, *SIZES, "--choose", "uniform"]
    assert main([str(argument) for argument in arguments]) == 1
    assert "t, h, w below [8, 8, 8]" in capsys.readouterr().err
    for wrong, message in (
        (
            ["--choose", "bits", "--video", str(clip), "--backend", "pyav"],
            f"--choose 'bits': {clip}: signal 'bits' needs exact bits",
        ),
        (
            ["--choose", "uniform", "--video", str(clip), *SIZES, "--patch_size", "64"],
            f"{clip}: no cell of 64 pixels is entirely picture",
        ),
        (["--choose", "uniform"], "need --video"),
        (["--video", str(clip)], "nothing to measure"),
        (["--video", str(clip), "--choose", "sharpness"], "no selector"),
        (["--video", str(clip), "--choose", "num_images=x"], "num_images"),
        ([str(tmp_path)], "neither an asset"),
        (["--choose", "uniform", "--video", str(clip), "-o", "x.png"], ".html, .gif or .json"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err
