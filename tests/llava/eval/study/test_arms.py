"""Arms: equal numbers of tokens, and what they can show."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava.eval.study.arms import ARMS, asset_config, show
from llava.eval.study.clips import Clip, covered, read_clip, write_clip
from llava.eval.study.drawing import NUM_FRAMES, USUAL_SIZES, Sizes
from llava.eval.study.scenes import Question


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return write_clip(tmp_path_factory.mktemp("clips"), 12)


def test_a_clip_is_read_back(clip: Clip) -> None:
    assert read_clip(clip.path.with_suffix(".json")) == clip
    assert write_clip(clip.path.parent, 12) == clip


FIXED = [name for name, arm in ARMS.items() if arm.backend == "auto" and not arm.shares_budget]


@pytest.mark.parametrize("arm", FIXED)
def test_every_arm_shows_the_same_number_of_tokens(clip: Clip, arm: str, tmp_path: Path) -> None:
    shown = show(clip, arm, 2, tmp_path)
    rows = np.load(shown.positions, allow_pickle=False)
    assert rows.shape == (2 * USUAL_SIZES.cells, 3)
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert rows.min() >= 0
    assert (rows.max(axis=0) < (NUM_FRAMES, USUAL_SIZES.grid, USUAL_SIZES.grid)).all()
    assert [Image.open(path).size for path in shown.images] == [(USUAL_SIZES.view_px,) * 2] * 2
    assert show(clip, arm, 2, tmp_path) == shown


def test_the_oracle_can_show_every_answer(clip: Clip, tmp_path: Path) -> None:
    rows = np.load(show(clip, "oracle", 2, tmp_path).positions, allow_pickle=False)
    assert all(covered(question, rows) for question in clip.questions)


def test_cells_of_a_mosaic_come_from_their_positions(clip: Clip, tmp_path: Path) -> None:
    """A random arm's mosaic equals the cells of decoded pictures, but for JPEG's loss."""
    from cv_reader import open_video

    cell_px = USUAL_SIZES.cell_px
    shown = show(clip, "random", 2, tmp_path)
    rows = np.load(shown.positions, allow_pickle=False)
    with open_video(clip.path) as video:
        frames = [frame.rgb().copy() for frame in video.frames()]
    mosaic = np.asarray(Image.open(shown.images[1]).convert("RGB")).astype(int)
    for number in (0, 7, 15):
        t, h, w = rows[USUAL_SIZES.cells + number]
        top, left = (cell_px * part for part in divmod(number, USUAL_SIZES.grid))
        y, x = cell_px * h, cell_px * w
        expected = frames[t][y : y + cell_px, x : x + cell_px].astype(int)
        found = mosaic[top : top + cell_px, left : left + cell_px]
        assert abs(found - expected).mean() < 12


def test_every_group_of_evidence_is_needed() -> None:
    first, second = frozenset({(1, 0, 0), (2, 0, 0)}), frozenset({(9, 1, 1)})
    question = Question("order", "disc", (first, second))
    assert covered(question, np.array([[2, 0, 0], [9, 1, 1]]))
    assert not covered(question, np.array([[2, 0, 0], [8, 1, 1]]))


@pytest.mark.slow
def test_clips_that_share_a_budget_keep_one_price(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    clips = [write_clip(tmp_path / "clips", seed) for seed in (0, 1)]
    config = asset_config(ARMS["adaptive"], 4, USUAL_SIZES, tmp_path, [clip.path for clip in clips])
    assert config.token_price > 0
    assert asset_config(ARMS["adaptive"], 4, USUAL_SIZES, tmp_path) == config
    counts = [len(show(clip, "adaptive", 4, tmp_path).images) for clip in clips]
    assert 1 <= min(counts) <= max(counts) <= 16
    assert sum(counts) <= 2 * 4


@pytest.mark.slow
def test_a_larger_picture_has_more_and_smaller_cells(tmp_path: Path) -> None:
    sizes = Sizes(view_px=224, cell_px=14)
    (tmp_path / "clips").mkdir()
    clip = write_clip(tmp_path / "clips", 1, sizes=sizes)
    assert read_clip(clip.path.with_suffix(".json")) == clip
    for arm in ("reference", "oracle"):
        shown = show(clip, arm, 2, tmp_path)
        rows = np.load(shown.positions, allow_pickle=False)
        assert rows.shape == (2 * 256, 3)
        assert rows[:, 1:].max() == 15
        assert [Image.open(path).size for path in shown.images] == [(224, 224)] * 2
    assert all(covered(question, rows) for question in clip.questions)
