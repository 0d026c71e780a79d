"""``cv_reader visualize`` and ``cv_reader stats``."""

import html.parser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cv_reader.commands import precompute, stats, visualize
from cv_reader.views.statistics import new_totals, read_kept
from support.corpus import Corpus

SMALL = ["--square_size", "64", "--num_images", "2"]


class _Page(html.parser.HTMLParser):
    """Tags of a page, and every address in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.addresses = [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]


@pytest.mark.parametrize("suffix", [".gif", ".png", ".jpg", ".html"])
def test_pictures_of_a_video(corpus: Corpus, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out{suffix}"
    args = [str(corpus.root / "good.mp4"), "-o", str(target), "--sequence_length", "4", *SMALL]
    assert visualize.main(args) == 0
    if suffix == ".html":
        page = _Page(target.read_text())
        assert page.tags.count("img") == 6
        assert all(address.startswith("data:image/") for address in page.addresses)
        assert "32 of 64 (50 %)" in target.read_text()
        assert page.tags.count("table") == 2
        assert "nearest, motion followed" in target.read_text()
    else:
        with Image.open(target) as picture:
            assert getattr(picture, "n_frames", 1) == (4 if suffix == ".gif" else 1)
            picture.load()


def test_what_cannot_be_shown(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, text = (str(corpus.root / f"{name}.mp4") for name in ("good", "text"))
    assert visualize.main([good, "-o", str(tmp_path / "x.bmp")]) == 2
    assert visualize.main([good, "-o", "/dev/null/x.png", "--square_size", "70"]) == 2
    assert visualize.main([text, "-o", str(tmp_path / "x.png")]) == 1
    assert "text.mp4" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def root(corpus: Corpus, tmp_path: Path) -> Path:
    names = ("good", "other", "short")
    lines = ({"video": str(corpus.root / f"{name}.mp4")} for name in names)
    data = corpus.write(tmp_path / "v.jsonl", *lines)
    args = ["--jsonl", str(data), "--out_root", str(tmp_path / "out"), "--seq_len_frames", "8"]
    assert precompute.main([*args, *SMALL]) == 0
    return tmp_path / "out"


def test_totals_add_up(root: Path) -> None:
    kepts = [read_kept(folder) for folder in sorted((root / "assets").iterdir())]
    totals = new_totals(kepts[0])
    for kept in kepts:
        totals.add(kept)
        assert kept.per_slot.sum() == 2 * 16
    good = np.load(root / "assets" / "good" / "positions_thw.npy")
    assert totals.per_slot[0].tolist() == np.bincount(good[:, 0], minlength=8).tolist()
    assert totals.per_cell.sum() == 3 * 16  # the other mosaic is the whole first slot
    assert totals.makers.total() == totals.num_videos == 3
    # 48 x 64 pixels in a square of 4 x 4 cells: 12 cells of a frame are picture.
    assert 0 <= min(totals.padding_shares) <= max(totals.padding_shares) <= 1
    counts = np.sort(totals.per_slot[0][1:])[::-1]
    half = totals.half_slots()[0]
    assert counts[:half].sum() >= 8 > counts[: half - 1].sum()
    assert totals.num_images == {2: 3}
    # A video of which nothing competes has no such number; nor have videos of whole slots alone.
    totals.per_slot[1][1:] = 0
    assert len(totals.half_slots()) == 2
    totals.free_slots[:] = False
    assert len(totals.half_slots()) == 0


def test_a_page_that_needs_no_other_file(corpus: Corpus, root: Path, tmp_path: Path) -> None:
    target = tmp_path / "measured.html"
    assert stats.main([str(root), "-o", str(target), "--video_root", str(corpus.root)]) == 0
    assert "rebuilt from what is kept" in target.read_text()
    assert "dB (nearest" in target.read_text()
    assert stats.main([str(root), "-o", str(tmp_path / "page.html")]) == 0
    page = _Page((tmp_path / "page.html").read_text())
    assert page.tags.count("svg") == 4
    assert page.addresses == []


def test_what_cannot_be_read_is_left_out(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "assets" / "good" / "mosaic_000.jpg").unlink()
    assert stats.main([str(root), "-o", str(tmp_path / "page.html")]) == 1
    shown = capsys.readouterr().err
    assert "left out" in shown
    assert "2 assets, 1 left out" in shown
    assert stats.main([str(tmp_path / "missing"), "-o", "x.html"]) == 2
