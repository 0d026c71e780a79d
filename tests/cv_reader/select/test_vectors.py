"""Choices along the codec's vectors, from real encodings: what they show, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cv_reader.assets.make import select_from_video, write_evaluation_asset
from cv_reader.backends import BACKENDS
from cv_reader.errors import SettingsError, UnsupportedVideoError
from cv_reader.reader import ReadOptions
from cv_reader.select.config import AssetConfig
from cv_reader.streams.settings import StreamSettings, live_config
from cv_reader.views.rebuilt import score_all
from cv_reader.views.selections import read_followed, read_pictures
from support.media import panning, write_video

if BACKENDS[0].name != "native":
    pytest.skip("vectors are exact with the native decoder alone", allow_module_level=True)

NUM_FRAMES, SLOTS = 34, 12
SETTINGS = {
    "square_size": 160,
    "sequence_length": SLOTS,
    "num_images": 2,
    "select": "rate_distortion",
    "distortion": "mean",
    "keep_first_full_frame": False,
}
VECTORS = AssetConfig(**SETTINGS, predict="vectors")


@pytest.fixture(scope="module")
def pan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The camera moves by 9 pixels from slot to slot; the small search reaches 6."""
    frames = panning(NUM_FRAMES, 96, 160, (0, 3))
    return write_video(tmp_path_factory.mktemp("pan") / "pan.mp4", frames, options={"crf": "15"})


def _rows(path: Path, config: AssetConfig, **options: Any) -> np.ndarray:
    return select_from_video(path, config, ReadOptions(**options)).rows


@pytest.mark.parametrize("direction", ["hold", "nearest"])
def test_a_pan_is_shown_much_better(pan: Path, direction: str) -> None:
    chosen = {
        predict: select_from_video(
            pan, AssetConfig(**SETTINGS, predict=predict, direction=direction), ReadOptions()
        )
        for predict in ("search", "vectors")
    }
    facts = chosen["vectors"].facts["vectors"]
    assert facts["num_pictures"] == NUM_FRAMES
    assert 0.6 < facts["known_share"] <= 1
    assert "vectors" not in chosen["search"].facts
    ids = chosen["vectors"].frame_ids
    clip, _, seconds = read_pictures(pan, ids, VECTORS, ReadOptions())
    followed = read_followed(pan, ids, clip, VECTORS, ReadOptions())
    assert followed.turns[-1].tolist() == [0, 6]  # 99 pixels are 6 cells
    search, vectors = score_all(
        clip, [one.rows for one in chosen.values()], seconds, followed=followed
    )
    way = f"{direction}, along the vectors"
    searched = search.rebuilt[f"{direction}, motion followed"].psnr_db
    assert vectors.rebuilt[way].psnr_db > searched + 5
    assert vectors.rebuilt[way].psnr_db > search.rebuilt[way].psnr_db + 1


def test_threads_do_not_decide(pan: Path) -> None:
    np.testing.assert_array_equal(
        _rows(pan, VECTORS, num_threads=1), _rows(pan, VECTORS, num_threads=3)
    )


def test_a_quality_is_reached(pan: Path) -> None:
    config = AssetConfig(**SETTINGS | {"num_images": 8}, predict="vectors", quality_db=30.0)
    selection = select_from_video(pan, config, ReadOptions())
    assert 1 <= selection.facts["num_images"] < 8
    clip, _, seconds = read_pictures(pan, selection.frame_ids, config, ReadOptions())
    followed = read_followed(pan, selection.frame_ids, clip, config, ReadOptions())
    (score,) = score_all(clip, [selection.rows], seconds, followed=followed)
    assert score.rebuilt["nearest, along the vectors"].psnr_db >= 30


def test_blocks_stay_blocks(pan: Path) -> None:
    config = AssetConfig(**SETTINGS, predict="vectors", block_cells=2)
    rows = _rows(pan, config)
    assert len(np.unique(rows, axis=0)) == len(rows) == config.num_rows
    _, counts = np.unique(rows // (1, 2, 2), axis=0, return_counts=True)
    assert (counts == 4).all()


def test_an_asset_records_what_was_followed(pan: Path, tmp_path: Path) -> None:
    asset = write_evaluation_asset(pan, key="a", out_root=tmp_path, config=VECTORS)
    meta = json.loads((tmp_path / "assets" / "a" / "meta.json").read_text())
    assert meta["vectors"]["num_pictures"] == NUM_FRAMES
    assert asset.meta["cfg"]["predict"] == "vectors"


@pytest.mark.parametrize("backend", ["pyav", "estimated"])
def test_vectors_that_are_not_exact_are_refused_by_name(pan: Path, backend: str) -> None:
    with pytest.raises(
        UnsupportedVideoError, match=f"needs exact motion; what backend '{backend}' reads"
    ):
        select_from_video(pan, VECTORS, ReadOptions(backend=backend))


@pytest.mark.parametrize("direction", ["hold", "nearest"])
def test_long_clips_are_followed_window_by_window(
    pan: Path, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cv_reader.select.rate_distortion.choice.EXACT_SLOTS", 8)
    monkeypatch.setattr("cv_reader.select.rate_distortion.windows.WINDOW_SLOTS", 6)
    chosen = [
        select_from_video(
            pan, AssetConfig(**SETTINGS, predict=predict, direction=direction), ReadOptions()
        )
        for predict in ("search", "vectors")
    ]
    ids = chosen[0].frame_ids
    clip, _, seconds = read_pictures(pan, ids, VECTORS, ReadOptions())
    followed = read_followed(pan, ids, clip, VECTORS, ReadOptions())
    scores = score_all(clip, [one.rows for one in chosen], seconds, followed=followed)
    search, vectors = (score.rebuilt[f"{direction}, along the vectors"] for score in scores)
    assert vectors.psnr_db > search.psnr_db + 1


def test_streams_are_refused() -> None:
    with pytest.raises(SettingsError, match="predict must be still or search"):
        StreamSettings(config=live_config(predict="vectors"))


def test_a_picture_thinner_than_a_cell_has_no_vectors_to_follow(tmp_path: Path) -> None:
    path = write_video(tmp_path / "thin.mp4", panning(4, 16, 320, (0, 3)))
    config = AssetConfig(**SETTINGS | {"sequence_length": 4}, predict="vectors")
    selection = select_from_video(path, config, ReadOptions())
    assert len(selection.rows) == config.num_rows
    assert "vectors" not in selection.facts
