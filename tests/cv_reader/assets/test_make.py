"""Video to asset: what is kept, what it shows, and when it is made again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cv_reader import open_video
from cv_reader.assets.make import collect_mosaics, select_from_video, write_evaluation_asset
from cv_reader.assets.validation import Checks, check_asset
from cv_reader.errors import AssetError, StaleAssetError, UnsupportedVideoError
from cv_reader.reader import ReadOptions
from cv_reader.select.config import AssetConfig
from cv_reader.select.energy import needs_signals
from cv_reader.select.geometry import letterbox
from cv_reader.select.mosaics import sort_rows, square_frame, to_image
from cv_reader.select.selection import sample_frame_ids
from support.media import moving_square, set_mp4_rotation, write_video
from support.paths import require_shared_data

HEIGHT, WIDTH, SQUARE = 96, 128, 128
CONFIG = AssetConfig(square_size=SQUARE, patch_size=16, num_images=2, sequence_length=8)
START, SPEED, SIDE = (32, 8), (0, 3), 24


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """33 frames of a square that moves right by 3 pixels a frame over a still background."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    frames = moving_square(33, HEIGHT, WIDTH, SPEED, square_px=SIDE, start=START)
    return write_video(path, frames)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_pass_gives_what_two_stages_give(clip: Path, tmp_path: Path) -> None:
    asset = write_evaluation_asset(clip, key="clip", out_root=tmp_path, config=CONFIG)
    selection = select_from_video(clip, CONFIG, ReadOptions())
    rows = sort_rows(selection.rows, "raster")
    np.testing.assert_array_equal(asset.positions, rows)
    mosaics = list(collect_mosaics(clip, rows, selection.frame_ids, CONFIG, ReadOptions()))
    for index, path in enumerate(asset.images):
        mosaics[index].save(tmp_path / "x.jpg", quality=95, subsampling="4:2:0")
        assert (tmp_path / "x.jpg").read_bytes() == path.read_bytes()


def test_quality_0_keeps_all_pixels_in_files_without_compression(
    clip: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, jpg_quality=0)
    asset = write_evaluation_asset(clip, key="clip", out_root=tmp_path, config=config)
    mosaics = collect_mosaics(clip, asset.positions, asset.frame_ids, CONFIG, ReadOptions())
    for path, mosaic in zip(asset.images, mosaics, strict=True):
        assert path.suffix == ".ppm"
        assert path.stat().st_size == 15 + 3 * SQUARE**2
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(mosaic.convert("RGB")))
    check_asset(asset.folder, Checks(is_deep=True, video_root=clip.parent))
    with pytest.raises(StaleAssetError, match="jpg_quality 0 where 95 is asked for"):
        write_evaluation_asset(clip, key="clip", out_root=tmp_path, config=CONFIG)
    write_evaluation_asset(clip, key="clip", out_root=tmp_path, config=CONFIG, overwrite=True)
    names = {path.name for path in asset.folder.glob("mosaic_*")}
    assert names == {"mosaic_000.jpg", "mosaic_001.jpg"}


def test_the_asset_keeps_the_contract(clip: Path, tmp_path: Path) -> None:
    asset = write_evaluation_asset(clip, key="clip", out_root=tmp_path, config=CONFIG)
    assert asset.folder == tmp_path / "assets" / "clip"
    assert asset.frame_ids.tolist() == sample_frame_ids(33, 8).tolist()
    assert asset.positions.tolist() == sorted(asset.positions.tolist())
    assert len(np.unique(asset.positions, axis=0)) == CONFIG.num_rows
    first = np.stack(np.unravel_index(np.arange(64), (1, 8, 8)), axis=1)
    np.testing.assert_array_equal(asset.positions[:64], first)
    visible = np.load(asset.folder / "visible_indices.npy")
    assert visible.dtype == np.int64
    np.testing.assert_array_equal(visible, asset.positions @ [64, 8, 1])
    meta = json.loads((asset.folder / "meta.json").read_text())
    assert meta["fingerprint"] == CONFIG.fingerprint
    assert (meta["H0"], meta["W0"], meta["num_frames"]) == (HEIGHT, WIDTH, 33)
    assert meta["source"]["size_bytes"] == clip.stat().st_size


def test_mosaics_show_the_cells_that_positions_name(clip: Path) -> None:
    selection = select_from_video(clip, CONFIG, ReadOptions())
    rows = sort_rows(selection.rows, "zigzag")
    mosaics = list(collect_mosaics(clip, rows, selection.frame_ids, CONFIG, ReadOptions()))
    box = letterbox(HEIGHT, WIDTH, square_px=SQUARE, patch_px=16)
    with open_video(clip) as video:
        frames = {
            frame.index: np.asarray(to_image(square_frame(frame, box))) for frame in video.frames()
        }
    for number, (t, h, w) in enumerate(rows.tolist()):
        image, (row, column) = number // 64, divmod(number % 64, 8)
        source = frames[int(selection.frame_ids[t])]
        np.testing.assert_array_equal(
            np.asarray(mosaics[image])[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16],
            source[h * 16 : h * 16 + 16, w * 16 : w * 16 + 16],
        )


@pytest.mark.parametrize("signal", ["mv_residual", "mv", "residual", "framediff"])
def test_what_moves_is_kept(clip: Path, signal: str) -> None:
    config = AssetConfig(**{**CONFIG.to_dict(), "signal": signal})
    selection = select_from_video(clip, config, ReadOptions())
    hits = []
    for t, h, w in selection.rows[64:80].tolist():  # the best cells
        frame = int(selection.frame_ids[t])
        left, top = START[1] + SPEED[1] * frame, START[0] + 16  # 16 rows of padding above
        # The cell touches the square, or the place that it left since the last sampled frame.
        is_at = left - 16 - 5 * SPEED[1] <= w * 16 < left + SIDE
        hits.append(is_at and top - 16 < h * 16 < top + SIDE)
    assert np.mean(hits) > 0.8


def test_framediff_reads_pixels_alone() -> None:
    assert [needs_signals(signal) for signal in ("mv", "framediff")] == [True, False]


@pytest.mark.parametrize("policy", ["zero", "exclude", "repeat"])
@pytest.mark.parametrize("num_frames", [1, 3])
def test_fewer_frames_than_slots(tmp_path: Path, policy: str, num_frames: int) -> None:
    path = write_video(tmp_path / "short.mp4", moving_square(num_frames, 48, 64))
    config = AssetConfig(**{**CONFIG.to_dict(), "padding_policy": policy})
    asset = write_evaluation_asset(path, key="short", out_root=tmp_path, config=config)
    assert asset.positions.shape == (128, 3)
    assert asset.frame_ids.max() == num_frames - 1
    is_unique = len(np.unique(asset.positions, axis=0)) == 128
    assert is_unique == (policy != "repeat" or num_frames == 3)


def test_equal_input_gives_equal_bytes(clip: Path, tmp_path: Path) -> None:
    one, two = (
        write_evaluation_asset(clip, key="clip", out_root=tmp_path / name, config=CONFIG).folder
        for name in "ab"
    )
    assert _files(one) == _files(two)


@pytest.mark.parametrize("settings", [{}, {"select": "rate_distortion"}, {"frames": "cheap"}])
def test_threads_change_no_byte(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Ten groups of pictures, so that groups are decoded in parallel."""
    frames = moving_square(50, HEIGHT, WIDTH, SPEED, square_px=SIDE, start=START)
    path = write_video(tmp_path / "clip.mp4", frames, options={"g": "5", "bf": "2"})
    config = AssetConfig(**{**CONFIG.to_dict(), **settings})
    one, three = (
        write_evaluation_asset(
            path, key="a", out_root=tmp_path / str(count), config=config, num_threads=count
        )
        for count in (1, 3)
    )
    assert _files(one.folder) == _files(three.folder)


@pytest.mark.parametrize("num_frames", [3, 33])
@pytest.mark.parametrize("select", ["topk", "rate_distortion"])
def test_squares_in_a_file_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_frames: int, select: str
) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(num_frames, HEIGHT, WIDTH, SPEED))
    config = AssetConfig(**{**CONFIG.to_dict(), "select": select})
    in_memory = write_evaluation_asset(path, key="a", out_root=tmp_path / "1", config=config)
    monkeypatch.setattr("cv_reader.select.squares.MAX_MEMORY_BYTES", 0)
    in_file = write_evaluation_asset(path, key="a", out_root=tmp_path / "2", config=config)
    monkeypatch.setattr("cv_reader.assets.make.MAX_FILE_BYTES", 0)
    two_passes = write_evaluation_asset(path, key="a", out_root=tmp_path / "3", config=config)
    expected = _files(in_memory.folder)
    assert expected == _files(in_file.folder) == _files(two_passes.folder)
    assert sorted(path.name for path in (tmp_path / "2").iterdir()) == ["assets"]


def test_other_settings_are_stale_until_overwritten(clip: Path, tmp_path: Path) -> None:
    write_evaluation_asset(clip, key="clip", out_root=tmp_path, config=CONFIG)
    other = AssetConfig(**{**CONFIG.to_dict(), "order": "zigzag"})
    with pytest.raises(StaleAssetError, match="order 'raster' where 'zigzag'"):
        write_evaluation_asset(clip, key="clip", out_root=tmp_path, config=other)
    with pytest.raises(StaleAssetError, match="backend"):
        write_evaluation_asset(
            clip, key="clip", out_root=tmp_path, config=CONFIG, backend="estimated"
        )
    asset = write_evaluation_asset(
        clip, key="clip", out_root=tmp_path, config=other, overwrite=True
    )
    assert asset.meta["order"] == "zigzag"
    assert [path.name for path in (tmp_path / "assets").iterdir()] == ["clip"]


def test_an_asset_is_made_again_only_when_its_video_changed(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    shutil.copy(clip, path)
    folder = write_evaluation_asset(path, key="k", out_root=tmp_path, config=CONFIG).folder
    before = (folder / "meta.json").stat().st_mtime_ns
    path.touch()  # another time, the same content
    write_evaluation_asset(path, key="k", out_root=tmp_path, config=CONFIG)
    assert (folder / "meta.json").stat().st_mtime_ns == before
    write_video(path, moving_square(5, HEIGHT, WIDTH))
    asset = write_evaluation_asset(path, key="k", out_root=tmp_path, config=CONFIG)
    assert asset.meta["num_frames"] == 5


def test_a_foreign_folder_is_not_replaced(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "assets" / "clip"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(AssetError, match=r"holds 'notes.txt'.*move it away"):
        write_evaluation_asset(clip, key="clip", out_root=tmp_path, config=CONFIG, overwrite=True)
    assert [path.read_text() for path in folder.iterdir()] == ["mine"]
    assert len(list(folder.parent.iterdir())) == 1


def test_a_failure_leaves_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text("not a video")
    with pytest.raises(UnsupportedVideoError):
        write_evaluation_asset(path, key="clip", out_root=tmp_path, config=CONFIG)
    assert not list(tmp_path.glob("assets/*"))


def test_maps_and_pixels_turn_together(tmp_path: Path) -> None:
    frames = moving_square(9, 64, 128, (0, 3), start=(8, 8))
    path = write_video(tmp_path / "clip.mp4", frames)
    set_mp4_rotation(path, 90)
    selection = select_from_video(path, CONFIG, ReadOptions(), keep_pictures=True)
    assert (selection.facts["H0"], selection.facts["W0"]) == (128, 64)
    # Turned clockwise, the square starts at the top right and moves down.
    kept = selection.rows[64:84]
    assert np.median(kept[:, 1]) <= 3
    assert np.median(kept[:, 2]) >= 4


def test_codecs_can_be_limited(clip: Path) -> None:
    with pytest.raises(UnsupportedVideoError, match="codec h264 is not among the allowed hevc"):
        select_from_video(clip, CONFIG, ReadOptions(allowed_codecs=("hevc",)))


def test_a_real_clip_keeps_much_of_what_the_reference_implementation_keeps() -> None:
    path = require_shared_data("real_videos", "ytb_XwB-dkS5BVM.mp4")
    folder = require_shared_data("reference_outputs", "stage2")
    (recorded_path,) = folder.glob("sample_XwB*/positions_thw.npy")
    recorded = {tuple(row) for row in np.load(recorded_path)[1296:].tolist()}
    rows = select_from_video(path, AssetConfig(), ReadOptions()).rows[1296:]
    kept = {tuple(row) for row in rows.tolist()}
    # 9072 of the 63 x 720 content cells: a fifth would agree by chance.
    assert len(kept) == len(recorded) == 9072
    assert len(kept & recorded) / 9072 > 0.4
