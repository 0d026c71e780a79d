"""The gallery's scripts run as printed, and their pictures show what the text says."""

import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.paths import ROOT

GALLERY = ROOT / "examples" / "gallery"


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.syspath_prepend(str(GALLERY))
    for name in ("train", "evaluate", "encode"):  # names that other folders could use, too
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_signals_are_drawn_where_the_object_moves(
    gallery: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = gallery / "signals.png"
    import_module("read_signals").main(["--out", str(out)])
    assert "64 frames of h264" in capsys.readouterr().out
    panels = np.asarray(Image.open(out).convert("L")).astype(int)
    assert panels.shape == (256, 3 * 256 + 2 * 8)
    # Motion belongs to a disc and a square on a still ground: white somewhere, black mostly.
    motion = panels[:, 264:520]
    assert motion.max() == 255 and (motion == 0).mean() > 0.5


def test_mosaics_hold_the_first_frame_and_the_colour_of_a_moment(gallery: Path) -> None:
    out = gallery / "mosaics.png"
    import_module("select_patches").main(["--out", str(out)])
    sheet = np.asarray(Image.open(out)).astype(int)
    assert sheet.shape == (256, 4 * 264 - 8, 3)
    is_red = (sheet[..., 0] > 150) & (sheet[..., 1:] < 90).all(axis=2)
    assert not is_red[:, :256].any() and is_red[:, 264:].sum() > 256


def test_features_differ_between_patches(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = gallery / "features.png"
    import_module("encode").main(["--out", str(out)])
    assert "clip (1024, 128), image (256, 128)" in capsys.readouterr().out
    colours = np.asarray(Image.open(out)).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 100


@pytest.mark.slow
def test_a_model_is_trained_and_evaluated(gallery: Path) -> None:
    import_module("train").main(["--out", str(gallery / "train"), "--steps", "2"])
    checkpoint = gallery / "train" / "model"
    assert "<svg" in (gallery / "train" / "training.html").read_text(encoding="utf-8")
    out = gallery / "eval"
    import_module("evaluate").main(["--checkpoint", str(checkpoint), "--out", str(out)])
    assert "gallery_colour" in (out / "evaluation.html").read_text(encoding="utf-8")


def test_scripts_are_short_and_their_pictures_exist() -> None:
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    scripts = set(re.findall(r"python (examples/gallery/\w+\.py)", page))
    assert len(scripts) == 6
    for script in scripts:
        assert (ROOT / script).read_text(encoding="utf-8").count("\n") <= 70
    pictures = re.findall(r"\]\(((?:gallery|\.\./docs)/[\w/]+\.\w+)\)", page)
    assert len(pictures) >= 6
    for picture in pictures:
        file = ROOT / "examples" / picture
        assert file.is_file() and file.stat().st_size < 500_000
