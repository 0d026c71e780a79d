"""Pictures show what is kept: kept cells keep their pixels, all others are washed out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cv_reader.assets.make import select_from_video
from cv_reader.reader import ReadOptions
from cv_reader.select.config import AssetConfig
from cv_reader.views import visualize
from cv_reader.views.visualize import (
    ShownVideo,
    animation,
    fitting,
    heat,
    kept_tile,
    label_font,
    show_video,
    strip,
    strips,
)
from support.media import moving_square, write_video

CONFIG = AssetConfig(square_size=128, patch_size=16, num_images=2, sequence_length=8)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 frames, twice as wide as high: 4 of 8 rows of cells are picture."""
    folder = tmp_path_factory.mktemp("clips")
    return write_video(folder / "clip.mp4", moving_square(21, 64, 128, (0, 3), start=(20, 8)))


@pytest.fixture(scope="module")
def shown(path: Path) -> ShownVideo:
    return show_video(path, CONFIG, ReadOptions())


def test_what_is_shown_is_what_is_selected(path: Path, shown: ShownVideo) -> None:
    rows = select_from_video(path, CONFIG, ReadOptions()).rows
    assert set(map(tuple, np.argwhere(shown.kept).tolist())) == set(map(tuple, rows.tolist()))
    assert shown.kept_share == 2 / 8
    assert shown.uniform_slots == [0, 7]
    assert len(shown.tiles) == 8
    assert shown.tiles[0].shape == (64, 128, 3)


def test_kept_cells_keep_their_pixels_and_others_are_pale(shown: ShownVideo) -> None:
    for slot in (0, 3):
        tile = kept_tile(shown, slot)
        for row in range(4):
            for column in range(8):
                place = np.s_[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
                if shown.kept[slot, row + 2, column]:
                    np.testing.assert_array_equal(tile[place], shown.tiles[slot][place])
                else:
                    assert tile[place].min() >= 214


def test_five_strips_with_captions(shown: ShownVideo) -> None:
    captions = [caption for caption, _ in strips(shown)]
    assert [caption.split(":")[0].split(" (")[0] for caption in captions] == [
        "Original", "Uniform sampling", "Temporal saliency", "Codec patches", "Mosaics",
    ]  # fmt: skip
    assert "25 %" in captions[3]
    assert ", ".join(map(str, shown.frame_ids.tolist())) in captions[0]


def test_captions_name_what_is_drawn_and_fit(shown: ShownVideo) -> None:
    names: list[tuple[dict[str, Any], str]] = [
        ({"signal": "bits"}, "bits"),
        ({"select": "rate_distortion"}, "change since last slot"),
        ({"select": "uniform"}, "none"),
    ]
    for settings, name in names:
        config = replace(shown.config, **settings)
        assert f"Temporal saliency ({name}" in strips(replace(shown, config=config))[2][0]
    assert fitting("uniform", 80, 13) == "uniform"
    short = fitting("select=rate_distortion,num_images=4", 80, 13)
    assert short.startswith("select=")
    assert short.endswith("...")
    assert label_font(13).getlength(short) <= 80


def test_one_moment_per_slot_all_of_one_size(
    shown: ShownVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = animation(shown)
    assert len(moments) == 8
    assert len({moment.size for moment in moments}) == 1
    assert moments[1].tobytes() != moments[5].tobytes()
    # More slots than the bars have pixels.
    slots = 2000
    config = replace(shown.config, sequence_length=slots)
    some = {"kept": shown.kept[[0] * slots], "saliency": shown.saliency[[0] * slots]}
    ids, tiles = np.arange(slots, dtype=np.int32), shown.tiles[:1] * slots
    long = replace(shown, tiles=tiles, frame_ids=ids, config=config, **some)
    monkeypatch.setattr(visualize, "_MAX_PICTURES", 2)
    assert len(animation(long)) == 2
    monkeypatch.setattr(visualize, "_MAX_PICTURES", 3)
    assert [one.tobytes() for one in animation(shown)] == [moments[n].tobytes() for n in (0, 3, 7)]


@pytest.mark.parametrize(("size", "columns"), [((72, 128), 8), ((128, 72), 16)])
def test_upright_tiles_stand_closer(size: tuple[int, int], columns: int) -> None:
    sheet = strip([np.zeros((*size, 3), np.uint8)] * 16, tile_px=128)
    width = 128 if size[1] == 128 else 72
    assert sheet.width == columns * (width + 4) - 4


def test_heat_rises_in_lightness() -> None:
    lightness = heat(np.linspace(0, 1, 50, dtype=np.float32)).astype(int) @ [299, 587, 114]
    assert (np.diff(lightness) >= 0).all()
