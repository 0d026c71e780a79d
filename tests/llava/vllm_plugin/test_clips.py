"""A codec asset as one object: what goes in comes out, and nothing else is taken."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save

from cv_reader.assets import FRAME_IDS, META, POSITIONS
from llava.vllm_plugin.clips import (
    checked_item,
    codec_item,
    is_packed_asset,
    pack_asset,
    picture_bytes,
    unpack_asset,
)


def test_a_packed_asset_holds_the_files_of_its_folder(codec_asset: Path) -> None:
    packed = pack_asset(codec_asset)
    assert is_packed_asset(packed)
    item = unpack_asset(packed)
    mosaics = [np.asarray(Image.open(path)) for path in sorted(codec_asset.glob("mosaic_*"))]
    assert len(mosaics) == 2
    np.testing.assert_array_equal(item["mosaics"], mosaics)
    np.testing.assert_array_equal(item["positions"], np.load(codec_asset / POSITIONS))
    frames = np.load(codec_asset / FRAME_IDS)
    np.testing.assert_allclose(item["seconds"], frames / 25)
    assert list(item) == list(codec_item(codec_asset))  # the order is part of a hash
    assert not is_packed_asset((codec_asset.parents[1] / "a.mp4").read_bytes())
    assert not is_packed_asset((codec_asset / META).read_bytes())


def test_equal_assets_of_other_kinds_become_equal(codec_asset: Path) -> None:
    item = codec_item(codec_asset)
    other = {
        "positions": item["positions"].astype(np.int32).tolist(),
        "mosaics": [Image.fromarray(mosaic) for mosaic in item["mosaics"]],
    }
    made = checked_item(other)
    assert list(made) == ["mosaics", "positions"]
    assert made["positions"].dtype == np.int64
    np.testing.assert_array_equal(made["mosaics"], item["mosaics"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mosaics": None}, "must be a codec asset"),
        ({"path": np.zeros(1)}, "must be a codec asset"),
        ({"mosaics": np.zeros((0, 4, 4, 3), np.uint8)}, "at least one"),
        ({"mosaics": np.zeros((2, 4, 4, 3), np.float32)}, "uint8"),
        ({"positions": np.zeros((8, 3), np.float32)}, "integers"),
        ({"positions": np.zeros((8, 2), np.int64)}, "integers"),
        ({"seconds": np.array([0.0, np.nan])}, "finite"),
    ],
)
def test_what_is_no_asset_is_refused(change: dict[str, np.ndarray | None], message: str) -> None:
    item = {"mosaics": np.zeros((2, 4, 4, 3), np.uint8), "positions": np.zeros((8, 3), np.int64)}
    arrays = {name: array for name, array in {**item, **change}.items() if array is not None}
    with pytest.raises(ValueError, match=message):
        unpack_asset(save(arrays))


def test_a_damaged_asset_is_refused(codec_asset: Path) -> None:
    packed = pack_asset(codec_asset)
    for data in (packed[:-1], packed[:100], b"", packed.replace(b'"U8"', b'"U9"', 1)):
        with pytest.raises(ValueError, match="pack it again"):
            unpack_asset(data)


def test_channels_may_come_first_and_pictures_as_tensors() -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for given in (picture, picture.transpose(2, 0, 1), torch.from_numpy(picture)):
        np.testing.assert_array_equal(picture_bytes(given), picture)
