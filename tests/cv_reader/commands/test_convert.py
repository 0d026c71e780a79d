"""Canvases of LLaVA-OneVision-2: byte for byte there and back, and canvases made elsewhere."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cv_reader.assets import AssetConfig, read_asset
from cv_reader.assets.make import write_evaluation_asset
from cv_reader.commands.main import main
from support.media import moving_square, texture, write_video

CONFIG = AssetConfig(
    sequence_length=8, num_images=2, square_size=96, patch_size=12, block_cells=2, order="zigzag"
)
BLOCK = [(0, 0), (0, 1), (1, 0), (1, 1)]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _convert(place: Path, layout: str, out: Path, *flags: str) -> int:
    return main(["convert", str(place), "--to", layout, "--out", str(out), *flags])


@pytest.fixture(scope="module", params=[5, 20])
def asset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An asset of a short video, whose frames repeat, and of a longer one."""
    folder = tmp_path_factory.mktemp("asset")
    video = write_video(folder / "a clip.mp4", moving_square(request.param, 54, 96, (1, 3)))
    made = write_evaluation_asset(
        video, key="clip", out_root=folder, config=CONFIG, video="v/a.mp4"
    )
    return made.folder


def test_there_and_back_gives_the_same_bytes(asset: Path, tmp_path: Path) -> None:
    assert _convert(asset, "onevision2", tmp_path / "theirs") == 0
    assert _convert(tmp_path / "theirs", "cv_reader", tmp_path / "back") == 0
    assert _files(tmp_path / "back" / "clip") == _files(asset)


def test_uncompressed_mosaics_are_no_canvases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "a.mp4", moving_square(5, 54, 96, (1, 3)))
    config = replace(CONFIG, jpg_quality=0)
    made = write_evaluation_asset(video, key="clip", out_root=tmp_path, config=config)
    assert _convert(made.folder, "onevision2", tmp_path / "theirs") == 1
    assert "make it with --jpg_quality 95" in capsys.readouterr().err


def test_canvases_are_what_their_readers_expect(asset: Path, tmp_path: Path) -> None:
    _convert(asset, "onevision2", tmp_path)
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"a__{hashlib.sha1(b'v/a.mp4').hexdigest()[:8]}"
    rows, frame_ids = np.load(folder / "src_patch_position.npy"), np.load(folder / "frame_ids.npy")
    meta = json.loads((folder / "meta.json").read_text())
    assert (rows.shape, rows.dtype) == ((128, 3), np.int32) and frame_ids.dtype == np.int32
    assert set(rows[:, 0].tolist()) <= set(frame_ids.tolist())
    assert meta["fps"] == 25.0 and meta["canvas_files"] == ["canvas_000.jpg", "canvas_001.jpg"]
    assert (folder / "_DONE").exists()
    ours = read_asset(asset)
    for canvas in range(2):
        assert (folder / f"canvas_00{canvas}.jpg").read_bytes() == ours.images[canvas].read_bytes()
        for block in range(16):
            row, column = (2 * part for part in divmod(block, 4))
            for inside, (down, right) in enumerate(BLOCK):
                theirs = rows[canvas * 64 + block * 4 + inside]
                mine = ours.positions[canvas * 64 + (row + down) * 8 + column + right]
                assert theirs.tolist() == [ours.frame_ids[mine[0]], mine[1], mine[2]]


def test_what_is_there_is_kept(
    asset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for expected, flags in (("1 made", ()), ("1 kept", ()), ("1 made", ("--overwrite",))):
        assert _convert(asset, "onevision2", tmp_path, *flags) == 0
        assert expected in capsys.readouterr().err


def test_assets_of_single_cells_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "a.mp4", moving_square(9, 54, 96))
    config = AssetConfig(**{**CONFIG.to_dict(), "block_cells": 1})
    made = write_evaluation_asset(video, key="clip", out_root=tmp_path, config=config)
    assert _convert(made.folder, "onevision2", tmp_path / "out") == 1
    assert "make it with --block_cells 2" in capsys.readouterr().err
    assert _convert(tmp_path / "out", "cv_reader", tmp_path / "x") == 2


def _foreign(folder: Path, *, is_padded: bool) -> tuple[NDArray[np.int32], list[NDArray[np.uint8]]]:
    """Two canvases as another program packs them: a whole frame, then blocks by score."""
    folder.mkdir(parents=True)
    frames = {number: texture(48, 48, seed=number) for number in (0, 7, 9)}
    blocks = [(0, row, column) for row in range(2) for column in range(2)]
    blocks += [(9, 1, 0), (7, 0, 1), (9, 0, 0)]
    blocks.append((-1, -1, -1) if is_padded else (7, 1, 1))
    rows, canvases = [], [np.zeros((48, 48, 3), np.uint8) for _ in range(2)]
    for number, (frame, row, column) in enumerate(blocks):
        canvas, place = divmod(number, 4)
        top, left = (24 * part for part in divmod(place, 2))
        for down, right in BLOCK:
            kept = (frame, 2 * row + down, 2 * column + right)
            rows.append(kept if frame >= 0 else (-1, -1, -1))
        if frame >= 0:
            part = frames[frame][24 * row : 24 * row + 24, 24 * column : 24 * column + 24]
            canvases[canvas][top : top + 24, left : left + 24] = part
    for number, canvas in enumerate(canvases):
        Image.fromarray(canvas).save(folder / f"canvas_00{number}.jpg", quality=98, subsampling=0)
    np.save(folder / "src_patch_position.npy", np.array(rows, np.int32))
    np.save(folder / "frame_ids.npy", np.array([0, 3, 7, 9], np.int32))
    (folder / "meta.json").write_text(json.dumps({"video": "x.mp4", "fps": 24.0}))
    (folder / "_DONE").touch()
    return np.array(rows, np.int32), [frames[0], frames[0], frames[7], frames[9]]


@pytest.mark.parametrize("is_padded", [False, True])
def test_canvases_made_elsewhere_become_assets(tmp_path: Path, is_padded: bool) -> None:
    rows, slots = _foreign(tmp_path / "in" / "x__12345678", is_padded=is_padded)
    assert _convert(tmp_path / "in", "cv_reader", tmp_path / "out") == 0
    found = read_asset(tmp_path / "out" / "x__12345678")
    assert found.frame_ids.tolist() == [0, 3, 7, 9]
    kept = {tuple(row) for row in rows.tolist() if row[0] >= 0}
    assert {(int(found.frame_ids[t]), h, w) for t, h, w in found.positions.tolist()} == kept
    for number, (t, h, w) in enumerate(found.positions.tolist()):
        mosaic = np.asarray(Image.open(found.images[number // 16])).astype(int)
        row, column = (12 * part for part in divmod(number % 16, 4))
        cell = mosaic[row : row + 12, column : column + 12]
        source = slots[t][12 * h : 12 * h + 12, 12 * w : 12 * w + 12]
        assert np.abs(cell - source).mean() < 12
    assert main(["validate", str(tmp_path / "out")]) == 0


def test_damage_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each fault fails its own folder; the sound one is converted."""
    for number in range(6):
        _foreign(tmp_path / "in" / f"x__{number}", is_padded=False)
    folders = sorted((tmp_path / "in").iterdir())
    rows = np.load(folders[0] / "src_patch_position.npy")
    (folders[1] / "_DONE").unlink()
    np.save(folders[2] / "src_patch_position.npy", rows[:-4])
    odd = rows.copy()
    odd[0, 2] = 3
    np.save(folders[3] / "src_patch_position.npy", odd)
    Image.new("RGB", (48, 24)).save(folders[4] / "canvas_000.jpg")
    np.save(folders[5] / "frame_ids.npy", np.array([0, 3, 7], np.int32))
    assert _convert(tmp_path / "in", "cv_reader", tmp_path / "out") == 1
    shown = capsys.readouterr().err
    for reason in (
        "lacks _DONE",
        "(canvases x patches, 3)",
        "must be a block of 2 x 2 patches",
        "canvases must be squares",
        "names frames that frame_ids.npy lacks",
        "1 made, 0 kept, 5 failed",
    ):
        assert reason in shown
