"""Choices from videos: what must not matter does not, and blocks stay blocks into the mosaics."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from cv_reader.assets.make import select_from_video, write_evaluation_asset
from cv_reader.errors import SettingsError
from cv_reader.reader import ReadOptions
from cv_reader.select.config import ORDERS, PADDING_POLICIES, SELECTORS, AssetConfig
from cv_reader.select.mosaics import arrange_rows
from cv_reader.select.selection import whole_frame_slots
from support.media import moving_square, write_video

SIZES = {"square_size": 64, "patch_size": 8, "sequence_length": 8, "num_images": 2}
RATE = AssetConfig(**SIZES, select="rate_distortion")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def _clip(folder: Path, key_interval: int, num_frames: int = 24, crf: int = 6) -> Path:
    path = folder / f"{key_interval}_{num_frames}_{crf}.mp4"
    frames = moving_square(num_frames, 48, 64, (1, 2), square_px=16)
    options = {"g": str(key_interval), "crf": str(crf)}
    return path if path.exists() else write_video(path, frames, options=options)


def _rows(path: Path, config: AssetConfig, **options: Any) -> np.ndarray:
    return select_from_video(path, config, ReadOptions(**options)).rows


def test_key_frames_do_not_decide(folder: Path) -> None:
    kept = [set(map(tuple, _rows(_clip(folder, g), RATE).tolist())) for g in (3, 250)]
    changed = 1 - len(kept[0] & kept[1]) / len(kept[0])
    # Other key frames give slightly other pixels.
    assert changed < 0.05
    exact = [_rows(_clip(folder, g, crf=0), RATE) for g in (3, 250)]
    np.testing.assert_array_equal(*exact)


def test_backends_and_threads_do_not_decide(folder: Path) -> None:
    path = _clip(folder, 250)
    one = _rows(path, RATE, backend="pyav", num_threads=1)
    for backend in ("pyav", "estimated"):
        np.testing.assert_array_equal(one, _rows(path, RATE, backend=backend, num_threads=2))


@pytest.mark.parametrize("select", SELECTORS)
@pytest.mark.parametrize("shape", [(49, 65), (65, 49)])
def test_odd_sides_with_colours_at_half_the_resolution(
    folder: Path, select: Any, shape: tuple[int, int]
) -> None:
    path = folder / f"odd_{shape[0]}.mp4"
    if not path.exists():
        frames = moving_square(12, *shape, (1, 2), square_px=16)
        write_video(path, frames, codec="mpeg4", options={"qscale": "2"})
    config = AssetConfig(**SIZES, select=select)
    found = select_from_video(path, config, ReadOptions(), keep_pictures=True)
    assert found.rows.shape == (128, 3)
    with av.open(str(path)) as container:
        plane = next(container.decode(video=0)).planes[0]
    height, width = shape
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    luma = Image.fromarray(np.ascontiguousarray(lines[:height, :width]))
    scaled = np.asarray(luma.resize((64, 48) if width > height else (48, 64)), np.int64)
    square, margin = found.squares[0], slice(8, 56)
    shown = square.luma[0][(margin, slice(None)) if width > height else (slice(None), margin)]
    difference = np.abs(shown + np.int64(square.colors.black_luma) - scaled)
    assert difference.mean() < 2
    assert square.luma[0].astype(bool).sum() <= 48 * 64


@pytest.mark.parametrize("select", SELECTORS)
@pytest.mark.parametrize("padding_policy", PADDING_POLICIES)
@pytest.mark.parametrize("block_cells", [1, 2])
@pytest.mark.parametrize("num_frames", [24, 3])
def test_the_budget_is_met_whatever_the_settings(
    folder: Path, select: Any, padding_policy: Any, block_cells: int, num_frames: int
) -> None:
    config = AssetConfig(
        **SIZES, select=select, padding_policy=padding_policy, block_cells=block_cells
    )
    rows = _rows(_clip(folder, 250, num_frames), config)
    assert rows.shape == (128, 3)
    assert padding_policy == "repeat" or len(np.unique(rows, axis=0)) == 128
    assert (rows[:, 0] == 0).sum() >= 64
    blocks, counts = np.unique(rows // (1, block_cells, block_cells), axis=0, return_counts=True)
    assert (counts % block_cells**2 == 0).all()
    assert len(blocks) <= 128 // block_cells**2


@pytest.mark.parametrize("num_frames", [2, 3, 6])
@pytest.mark.parametrize("whole_first", ["keep_first_full_frame", "keep_uniform_first", ""])
@pytest.mark.parametrize("mode", [{"quality_db": 30.0}, {"direction": "hold"}])
def test_a_middle_slot_that_repeats_a_frame_is_kept_whole_too(
    folder: Path, whole_first: str, mode: dict[str, Any], num_frames: int
) -> None:
    """Of 2, 3 and 6 frames slot 4 of 8 repeats the first, begins the second, repeats the third."""
    first = {"keep_first_full_frame": False} | ({whole_first: True} if whole_first else {})
    settings: dict[str, Any] = SIZES | {"num_images": 3} | mode | first
    config = AssetConfig(**settings, select="rate_distortion", keep_mid_full_frame=True)
    found = select_from_video(_clip(folder, 250, num_frames), config, ReadOptions())
    rows, facts = found.rows, found.facts
    assert len(rows) == len(np.unique(rows, axis=0)) == 64 * facts["num_images"]
    assert facts["num_images"] == 3 or mode == {"quality_db": 30.0}
    per_slot = np.bincount(rows[:, 0], minlength=8)
    assert per_slot[4] == 64
    assert (
        per_slot[0] >= {"keep_first_full_frame": 64, "keep_uniform_first": 48, "": 0}[whole_first]
    )
    # 6 x 8 of 8 x 8 cells are content: what was chosen is in the rows.
    assert 48 * (1 + bool(whole_first)) <= facts["num_chosen"] <= len(rows)


def test_uniform_keeps_whole_frames(folder: Path) -> None:
    config = AssetConfig(**SIZES | {"num_images": 3}, select="uniform")
    assert whole_frame_slots(config) == [0, 3, 7]
    rows = _rows(_clip(folder, 250), config)
    assert np.bincount(rows[:, 0]).tolist() == [64, 0, 0, 64, 0, 0, 0, 64]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("select", ["topk", "rate_distortion"])
def test_each_block_of_a_mosaic_is_a_block_of_one_frame(
    folder: Path, tmp_path: Path, order: Any, select: str
) -> None:
    config = AssetConfig(**SIZES, select=select, block_cells=2, order=order)
    path = _clip(folder, 250)
    asset = write_evaluation_asset(path, key="a", out_root=tmp_path, config=config)
    grid = asset.positions.reshape(2, 4, 2, 4, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, 3)
    first = grid[:, 0]
    assert (first[:, 1:] % 2 == 0).all()
    for number, step in enumerate(((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1))):
        np.testing.assert_array_equal(grid[:, number], first + step)
    assert (np.diff(first[:, 0]) >= 0).all()
    # The pixels are those of the places that the positions name.
    squares = select_from_video(path, config, ReadOptions(), keep_pictures=True).squares
    mosaics = [np.asarray(Image.open(image).convert("L")).astype(int) for image in asset.images]
    for number in range(0, 128, 7):
        slot, row, column = asset.positions[number].tolist()
        image, cell = divmod(number, 64)
        top, left = cell // 8 * 8, cell % 8 * 8
        shown = mosaics[image][top : top + 8, left : left + 8]
        luma = squares[slot].luma[0, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
        black = luma == 0
        expected = np.where(black, 0, luma * (255 / 219))
        assert np.abs(shown - expected).mean() < 8


def test_a_block_that_is_kept_twice_stays_together() -> None:
    config = AssetConfig(square_size=32, patch_size=8, num_images=1, block_cells=2)
    block = np.array([(3, 2, 0), (3, 2, 1), (3, 3, 0), (3, 3, 1)], np.int32)
    other = block - (3, 2, 0)
    rows = arrange_rows(np.concatenate([block, block, other, block]), config).reshape(4, 4, 3)
    for number, (top, left) in enumerate(((0, 0), (0, 2), (2, 0), (2, 2))):
        expected = other if number == 0 else block
        np.testing.assert_array_equal(rows[top : top + 2, left : left + 2].reshape(4, 3), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_cells": 3}, "block_cells must be 1 or 2"),
        ({"square_size": 24, "patch_size": 8, "block_cells": 2}, "block_cells"),
        ({"quality_db": 30.0}, "quality_db must be 0 unless select"),
        ({"select": "rate_distortion", "quality_db": 30.0, "token_price": 1.0}, "token_price"),
        ({"select": "rate_distortion", "quality_db": float("nan")}, "quality_db"),
        ({"select": "rate_distortion", "quality_db": 101.0}, "quality_db must be at most 100"),
        ({"select": "uniform", "keep_uniform_first": True}, "keep_uniform_first"),
        ({"select": "best"}, "select must be one of"),
        ({"num_images": 1, "keep_mid_full_frame": True}, "num_images must be at least 2"),
        ({"sequence_length": 1, "num_images": 2}, "sequence_length"),
        (
            {
                "num_images": 1,
                "keep_first_full_frame": False,
                "keep_uniform_first": True,
                "keep_mid_full_frame": True,
            },
            "num_images must be at least 2",
        ),
        ({"select": "rate_distortion", "token_price": 1e19}, "token_price must be at most 1e"),
        ({"square_size": 1 << 40, "patch_size": 1 << 20}, "square_size must be at most"),
        ({"sequence_length": 1 << 20}, "sequence_length must be at most 65536"),
        ({"sequence_length": 60_000}, "sequence_length must be at most 51781 where a side has 36"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        AssetConfig(**settings)
