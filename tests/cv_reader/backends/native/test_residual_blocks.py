"""Blocks without a residual, as the decoder knows them, against the residual itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cv_reader import open_video
from cv_reader.select.config import AssetConfig
from cv_reader.select.energy import CellScorer
from cv_reader.select.geometry import letterbox
from support.media import set_mp4_rotation
from support.native.clips import Kind, make

pytestmark = pytest.mark.usefixtures("native_reader")

SIZES = {"whole": (96, 128), "cut": (90, 122), "narrow": (104, 72)}


def _clip(codec: str, size: str, folder: Path) -> Path:
    height, width = SIZES[size]
    kind = Kind(codec=codec, params="crf=34", height_px=height, width_px=width)
    return make(kind, folder / "clip.mp4")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_what_is_not_marked_is_zero(codec: str, size: str, tmp_path: Path) -> None:
    height, width = SIZES[size]
    config = AssetConfig(square_size=128, patch_size=16, num_images=1)
    box = letterbox(height, width, square_px=128, patch_px=16)
    knowing, looking = CellScorer(box, config), CellScorer(box, config)
    num_marked, num_blocks = 0, 0
    with open_video(_clip(codec, size, tmp_path), backend="native") as video:
        for frame in video.frames():
            blocks, residual = frame.residual_blocks, frame.residual_y
            assert blocks is not None and residual is not None
            marked = blocks.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
            assert not residual[~marked].any(), frame
            num_marked, num_blocks = num_marked + int(blocks.sum()), num_blocks + blocks.size
            scores = knowing.score(frame)
            blind = replace(frame, residual_blocks=None)
            np.testing.assert_array_equal(scores, looking.score(blind))
    assert 0 < num_marked < num_blocks


def test_turned_pictures_say_nothing_of_blocks(tmp_path: Path) -> None:
    path = _clip("libx264", "cut", tmp_path)
    set_mp4_rotation(path, 90)
    with open_video(path, backend="native") as video:
        assert all(frame.residual_blocks is None for frame in video.frames())
