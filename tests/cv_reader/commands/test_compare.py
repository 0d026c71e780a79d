"""Selections made elsewhere are compared with ours: counts, reasons, pictures, refusals."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cv_reader import open_video
from cv_reader.assets.make import select_from_video
from cv_reader.commands.compare import main, shown_slots
from cv_reader.reader import ReadOptions
from cv_reader.views.agreement import OURS, Agreement, compare
from cv_reader.views.selections import find_chosen, read_chosen
from support.made_selection import write_selection
from support.media import moving_square, write_video
from support.paths import require_shared_data


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = moving_square(24, 48, 64, (0, 2), square_px=16)
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", frames)


@pytest.fixture
def same(clip: Path, tmp_path: Path) -> Path:
    """A folder with exactly what is selected here."""
    empty = write_selection(tmp_path / "same", np.zeros((0, 3)), np.zeros(8))
    selection = select_from_video(clip, read_chosen(empty).config, ReadOptions())
    write_selection(tmp_path / "same", selection.rows, selection.frame_ids)
    return tmp_path / "same"


def _agreement(folder: Path, clip: Path) -> Agreement:
    return compare(read_chosen(find_chosen(folder)[0]), clip, ReadOptions())


def test_a_selection_agrees_with_itself(same: Path, clip: Path) -> None:
    agreement = _agreement(same, clip)
    assert agreement.shared == agreement.jaccard == agreement.shared_by[OURS] == 1
    # Of the budget of two frames, one is the first; the clip fills 6 of 8 rows of the square.
    assert agreement.theirs.sum() == 64
    assert agreement.competing.sum() == 7 * 48
    assert agreement.chance == pytest.approx(64 / (7 * 48))


def test_cells_are_counted_and_told_apart(same: Path, clip: Path) -> None:
    rows = np.load(same / "sample.visidx_thw.npy")
    frame_ids = np.load(same / "sample.frame_ids.npy")
    ours = {tuple(row) for row in rows.tolist()}
    others = [
        (t, h, w)
        for t in range(1, 8)
        for h in range(1, 7)
        for w in range(8)
        if (t, h, w) not in ours
    ]
    with open_video(clip) as video:
        residuals = {t: frame.residual_y for t, frame in enumerate(video.frames(frame_ids))}
    coded = [
        bool(np.any(residuals[t][(h - 1) * 8 : h * 8, w * 8 : w * 8 + 8])) for t, h, w in others
    ]
    swapped = np.concatenate([rows[:-10], np.array(others[:10])])
    agreement = _agreement(write_selection(same, swapped, frame_ids).parent, clip)
    assert agreement.shared == pytest.approx(54 / 64)
    assert agreement.jaccard == pytest.approx(54 / 74)
    there_alone = agreement.shares()["the true luma residual is exactly 0"][2]
    assert there_alone == pytest.approx(1 - np.mean(coded[:10]))


def test_a_selection_of_one_whole_frame_has_nothing_to_compare(
    same: Path, clip: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = np.argwhere(np.ones((1, 8, 8), bool)).astype(np.int32)
    write_selection(same, rows, np.load(same / "sample.frame_ids.npy"))
    arguments = [str(same), "--video_root", str(clip.parent), "-o", str(tmp_path / "page.html")]
    assert main(arguments) == 0
    assert "none of their cells had to compete, read by" in capsys.readouterr().err
    assert "nan %" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("suffix", ["html", "png"])
def test_the_command_writes_a_page_or_a_picture(
    suffix: str, same: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / f"page.{suffix}"
    assert main([str(same), "--video_root", str(clip.parent), "-o", str(output)]) == 0
    assert "100.0 % of their cells" in capsys.readouterr().err
    if suffix == "png":
        assert Image.open(output).width > 500
    else:
        page = output.read_text(encoding="utf-8")
        assert "data:image/jpeg" in page and "<svg" in page
        assert "http" not in page, "the page needs no other file"


def test_shown_slots_reach_from_least_to_most_agreement(same: Path, clip: Path) -> None:
    agreement = _agreement(same, clip)
    slots = shown_slots(agreement, 3)
    values = agreement.slot_jaccard()[slots]
    assert len(slots) == 3 and (np.diff(values) >= 0).all()


def test_what_cannot_be_compared_is_told(
    same: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--video_root", str(clip.parent), "-o", str(tmp_path / "page.html")]
    rows = np.load(same / "sample.visidx_thw.npy")
    for changes, frame_ids, reason in (
        ({}, np.arange(8), "other frames were sampled"),
        ({"T": 9}, np.arange(8), "do not fit"),
        ({"patch": None}, np.arange(8), "not the metadata"),
        ({"video": "none.mp4"}, np.arange(8), "no such file"),
    ):
        write_selection(same, rows, frame_ids, **changes)
        assert main([str(same), *arguments]) == 2
        assert reason in capsys.readouterr().err
    assert main([str(tmp_path), *arguments]) == 2
    assert main([str(same), *arguments[:-1], "page.txt"]) == 2


@pytest.mark.slow
def test_the_reference_selections_differ_as_they_must(tmp_path: Path) -> None:
    """Most cells agree; most of those that they alone keep have no residual."""
    folder = require_shared_data("reference_outputs", "stage1")
    videos = require_shared_data("real_videos")
    output = tmp_path / "page.html"
    assert main([str(folder), "--video_root", str(videos), "-o", str(output)]) == 0
    for meta_path in find_chosen(folder):
        chosen = read_chosen(meta_path)
        agreement = compare(chosen, videos / Path(chosen.video).name, ReadOptions())
        assert agreement.chance == pytest.approx(0.2)
        assert 0.6 < agreement.shared < 0.9
        assert agreement.shares()["the true luma residual is exactly 0"][2] > 0.5
