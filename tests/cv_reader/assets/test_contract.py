"""The contract on disk: names, fingerprints, checks, atomic replacement."""

import hashlib
import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cv_reader.assets.contract import (
    check_files,
    check_settings,
    file_facts,
    load_array,
    read_asset,
    read_positions,
)
from cv_reader.assets.files import write_json
from cv_reader.assets.validation import is_sound
from cv_reader.errors import AssetError, SettingsError, StaleAssetError
from cv_reader.select.config import ALGORITHM_VERSION, AssetConfig
from support.paths import require_shared_data

CONFIG = AssetConfig(square_size=32, patch_size=8, num_images=2, sequence_length=4)


def _tiny_meta(config: AssetConfig = CONFIG) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "key": "clip",
        "video": "clip.mp4",
        "cfg": config.to_dict(),
        "fingerprint": config.fingerprint,
        "algorithm_version": 1,
        "source": {},
        "backend": "pyav",
        "exactness": {},
        "image_stem": "mosaic",
    }


def _tiny_positions(slots: int = 2, grid: int = 4) -> np.ndarray:
    axes = np.indices((slots, grid, grid)).reshape(3, -1).T
    return np.ascontiguousarray(axes, np.int32)


@pytest.fixture
def tiny_asset(tmp_path: Path) -> Path:
    """A sound asset folder of two 32-pixel mosaics."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for index in range(2):
        Image.new("RGB", (32, 32)).save(folder / f"mosaic_{index:03d}.jpg")
    np.save(folder / "positions_thw.npy", _tiny_positions())
    np.save(folder / "frame_ids.npy", np.arange(4, dtype=np.int32))
    _record(folder)
    return folder


def _record(folder: Path) -> None:
    write_json(folder / "meta.json", _tiny_meta() | {"files": file_facts(folder)})


def test_a_sound_asset_reads_back(tiny_asset: Path) -> None:
    asset = read_asset(tiny_asset, expected=CONFIG)
    assert [image.name for image in asset.images] == ["mosaic_000.jpg", "mosaic_001.jpg"]
    np.testing.assert_array_equal(asset.positions, _tiny_positions())
    assert asset.frame_ids.tolist() == [0, 1, 2, 3]
    assert asset.meta["key"] == "clip"


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _save(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, array)


def _wrong_picture(folder: Path) -> None:
    Image.new("RGB", (48, 32)).save(folder / "mosaic_001.jpg")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("mosaic_001.jpg"), "mosaic_001.jpg"),
        (_remove("positions_thw.npy"), "files lacks positions_thw.npy"),
        (_wrong_picture, "must be 32 x 32 pixels, got 48 x 32"),
        (_save("frame_ids.npy", np.arange(5, dtype=np.int32)), r"int32 \(4,\)"),
        (_save("frame_ids.npy", np.arange(4)), "int32"),
        (_save("positions_thw.npy", _tiny_positions(slots=8)), "must hold 32 rows"),
        (_save("positions_thw.npy", _tiny_positions() + np.int32([4, 0, 0])), "t below 4"),
        (lambda folder: (folder / "mosaic_000.jpg").write_bytes(b"no"), "not a readable JPEG"),
    ],
)
def test_a_broken_contract_is_named(
    tiny_asset: Path, damage: Callable[..., object], message: str
) -> None:
    damage(tiny_asset)
    _record(tiny_asset)
    with pytest.raises(AssetError, match=message):
        read_asset(tiny_asset)


def _cut(folder: Path) -> None:
    path = folder / "mosaic_000.jpg"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("meta.json"), "cannot be read"),
        (lambda folder: (folder / "meta.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "meta.json").write_text("[]"), "schema_version"),
        (_remove("frame_ids.npy"), "frame_ids.npy: cannot be read"),
        (_cut, "mosaic_000.jpg: must have .* bytes"),
    ],
)
def test_damaged_files_are_named(
    tiny_asset: Path, damage: Callable[..., object], message: str
) -> None:
    damage(tiny_asset)
    assert not is_sound(tiny_asset)
    with pytest.raises(AssetError, match=message):
        read_asset(tiny_asset)


def test_content_is_held_against_its_hash(tiny_asset: Path) -> None:
    path = tiny_asset / "mosaic_000.jpg"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    meta = read_asset(tiny_asset).meta
    with pytest.raises(AssetError, match="SHA-256"):
        check_files(tiny_asset, meta, with_content=True)


def test_other_settings_are_named_with_both_values(tiny_asset: Path) -> None:
    other = AssetConfig(**{**CONFIG.to_dict(), "mv_pct": 90.0, "order": "zigzag"})
    with pytest.raises(StaleAssetError) as caught:
        read_asset(tiny_asset, expected=other)
    message = str(caught.value)
    assert "mv_pct 95.0 where 90.0 is asked for" in message
    assert "order 'raster' where 'zigzag' is asked for" in message
    assert "--overwrite" in message
    assert "res_pct" not in message


def test_another_algorithm_version_is_stale() -> None:
    meta = {**_tiny_meta(), "algorithm_version": 0, "fingerprint": "0" * 16}
    with pytest.raises(StaleAssetError, match=f"algorithm_version 0 where {ALGORITHM_VERSION}"):
        check_settings(meta, CONFIG, "here")


def test_the_fingerprint_covers_every_setting() -> None:
    changed = {
        "sequence_length": 5, "num_images": 3, "square_size": 64, "patch_size": 4,
        "frames": "bitcost",
        "sample_start_offset": 1, "window_len": 3, "window_pick": "mid", "padding_policy": "repeat",
        "keep_first_full_frame": False, "keep_uniform_first": True, "keep_mid_full_frame": True,
        "mid_full_frame_index": 3, "topk_mode": "time_bucket", "time_bucket_count": 2,
        "signal": "mv", "mv_compensate": "none", "mv_pct": 90.0, "res_pct": 90.0, "w_mv": 2.0,
        "w_res": 2.0, "order": "zigzag", "jpg_quality": 90, "select": "topk", "block_cells": 2,
        "distortion": "mean", "direction": "hold", "predict": "still", "quality_db": 30.0,
        "token_price": 10.0, "hdr": "raw",
    }  # fmt: skip
    base = {**CONFIG.to_dict(), "select": "rate_distortion"}
    assert changed.keys() == base.keys()
    prints = {AssetConfig(**{**base, name: value}).fingerprint for name, value in changed.items()}
    assert len(prints | {AssetConfig(**base).fingerprint}) == len(changed) + 1


def test_the_default_fingerprint_outlives_releases() -> None:
    # Changes with ALGORITHM_VERSION or the settings alone: then all assets are made again.
    assert AssetConfig().fingerprint == "1c589e511d8a6fc6"


def test_assets_of_earlier_rules_are_made_again() -> None:
    """Rules are part of the fingerprint; what does not use them keeps the one it had."""

    def without_rules(config: AssetConfig) -> str:
        content = {"algorithm_version": ALGORITHM_VERSION, **config.to_dict()}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    ruled: list[tuple[dict[str, Any], set[str]]] = [
        ({}, set()),
        ({"select": "uniform"}, set()),
        ({"select": "rate_distortion"}, {"rate_distortion_version"}),
        ({"frames": "cheap"}, {"cheap_reach_steps"}),
    ]
    for settings, rules in ruled:
        config = AssetConfig(**settings)
        assert set(config.rules) == rules
        assert (config.fingerprint == without_rules(config)) == (not rules)


def test_whole_numbers_and_floats_are_one_setting() -> None:
    assert AssetConfig(mv_pct=95, w_mv=1).fingerprint == AssetConfig().fingerprint


def test_settings_survive_json() -> None:
    assert AssetConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict())), "here") == CONFIG


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"square_size": 100}, "square_size must be a multiple of patch_size 16, got 100"),
        ({"sequence_length": 4}, "sequence_length must be at least num_images"),
        ({"num_images": 0}, "num_images must be at least 1, got 0"),
        ({"signal": "magic"}, "signal must be one of"),
        ({"mv_pct": 0.0}, "mv_pct"),
        ({"w_mv": 0.0, "w_res": 0.0}, "above 0"),
        ({"num_images": 1, "keep_mid_full_frame": True}, "at least 2 for whole frames"),
        ({"mid_full_frame_index": 64}, "slot 0..63"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        AssetConfig(**settings)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(AssetError, match="magic"):
        AssetConfig.from_dict({**CONFIG.to_dict(), "magic": 1}, "here")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((32, 3), np.float32), "dtype"),
        (np.zeros((32, 2), np.int32), "shape"),
        (np.zeros(96, np.int32), "shape"),
        (np.zeros((33, 3), np.int32), "33 rows for 2 images"),
        (np.zeros((24, 3), np.int32), "24 rows"),
        (np.zeros((0, 3), np.int32), "0 rows"),
        (np.full((32, 3), -1, np.int32), "at least 0"),
        (np.full((32, 3), 4, np.int32), r"h, w in \[0, 4\)"),
        (np.array({}, dtype=object), "cannot be read as an array"),
    ],
)
def test_bad_positions_are_refused(tmp_path: Path, array: Any, message: str) -> None:
    path = tmp_path / "positions_thw.npy"
    np.save(path, array)
    with pytest.raises(AssetError, match=message):
        read_positions(path, num_images=2)


def test_positions_may_be_int64_and_repeat_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.zeros((32, 3), np.int64))
    positions = read_positions(tmp_path / "p.npy", num_images=2)
    assert positions.dtype == np.int32


def test_an_archive_is_no_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", a=np.zeros(3))
    with pytest.raises(AssetError, match="archive"):
        load_array(tmp_path / "p.npz")


def test_recorded_positions_are_accepted() -> None:
    for path in require_shared_data("reference_outputs", "stage2").glob("*/positions_thw.npy"):
        assert read_positions(path, num_images=8).shape == (10368, 3)


def _npy(path: Path, header: str, body: bytes = b"\0" * 100, version: int = 1) -> Path:
    content = header.encode()
    content += b" " * (-(11 + len(content)) % 64) + b"\n"
    length = len(content).to_bytes(2 if version == 1 else 4, "little")
    path.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + length + content + body)
    return path


@pytest.mark.parametrize(
    ("shape", "descr"),
    [
        ("(1000000000000, 3)", "<i4"),
        (f"(1{'0' * 30}, 3)", "<i4"),
        ("(-1, 3)", "<i4"),
        ("(26,)", "<i4"),
        ("(3,)", "|O"),
        ("(3,)", "|V0"),
        ("(3,)", "no type"),
        ("(" * 400, "<i4"),
        ("(" * 5000, "<i4"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_absurd_arrays_are_refused_without_memory(
    tmp_path: Path, shape: str, descr: str, version: int
) -> None:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    path = _npy(tmp_path / "a.npy", header, version=version)
    tracemalloc.start()
    with pytest.raises(AssetError, match=r"a\.npy"):
        load_array(path)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


@pytest.mark.parametrize(
    "start", [b"", b"\x93NUM", b"\x93NUMPY\x03\x00", b"\x93NUMPY\x02\x00\xff\xff"]
)
def test_a_sparse_file_is_not_read(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as stream:
        stream.write(start)
        stream.truncate(1 << 40)
    with pytest.raises(AssetError):
        load_array(path)


def test_arrays_read_as_numpy_wrote_them(tmp_path: Path) -> None:
    for number, array in enumerate([
        np.arange(12, dtype=np.int32).reshape(4, 3), np.arange(6.0).reshape(2, 3).T,
        np.zeros((0, 3), np.int64), np.array(7, np.uint8), np.arange(3, dtype=">i2"),
    ]):  # fmt: skip
        np.save(tmp_path / f"{number}.npy", array)
        found = load_array(tmp_path / f"{number}.npy")
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "folder.npy").mkdir()
    for name in ("pipe.npy", "folder.npy", "missing.npy"):
        with pytest.raises(AssetError, match=name):
            load_array(tmp_path / name)


def test_a_picture_of_absurd_size_is_refused(tiny_asset: Path) -> None:
    path = tiny_asset / "mosaic_001.jpg"
    content = bytearray(path.read_bytes())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    path.write_bytes(content)
    _record(tiny_asset)
    with pytest.raises(AssetError, match=r"mosaic_001\.jpg"):
        read_asset(tiny_asset)
