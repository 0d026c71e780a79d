"""Training and evaluation read an asset of a shard as they read a folder."""

from pathlib import Path

import pytest
import torch

from cv_reader.assets.make import write_evaluation_asset
from cv_reader.commands import convert
from cv_reader.select.config import AssetConfig
from cv_reader.shards import sample_path
from llava.eval.plugin.asset_index import AssetIndex
from llava.eval.settings import EvalSettings, has_assets
from llava.visual.clips import ClipSettings, load_clip
from llava.visual.config import VisualConfig
from llava.visual.loading import count_mosaics, load_asset, load_mosaics
from support.media import moving_square, write_video

CONFIG = AssetConfig(square_size=64, num_images=2, sequence_length=8, patch_size=16)
VISUAL = VisualConfig(patch_size_px=16, patches_per_side=4)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of two assets, and the same as shards beside it."""
    for name in ("one", "two"):
        video = write_video(tmp_path / f"{name}.mp4", moving_square(10, 48, 64))
        write_evaluation_asset(video, key=name, out_root=tmp_path, config=CONFIG)
    arguments = ["--to", "tar", "--out", str(tmp_path / "tars"), "--shard_samples", "1"]
    assert convert.main([str(tmp_path / "assets"), *arguments]) == 0
    return tmp_path


def test_segments_are_the_same(root: Path) -> None:
    folder, inside = root / "assets" / "two", sample_path(root / "tars" / "shard_000001.tar", "two")
    images = [f"mosaic_{number:03d}.jpg" for number in range(2)]
    loads = [
        [load_asset(place, VISUAL) for place in (folder, inside)],
        [
            load_mosaics([place / name for name in images], place / "positions_thw.npy", VISUAL)
            for place in (folder, inside)
        ],
    ]
    for one, other in loads:
        assert torch.equal(one.patches, other.patches)
        assert torch.equal(one.positions, other.positions)
    counts = [
        count_mosaics([place / name for name in images], place / "positions_thw.npy", VISUAL)
        for place in (folder, inside)
    ]
    assert counts[0] == counts[1]
    with pytest.raises(ValueError, match=r"two/mosaic_009.jpg cannot be read"):
        count_mosaics([inside / "mosaic_009.jpg"], inside / "positions_thw.npy", VISUAL)
    assert torch.equal(
        load_clip(inside, VISUAL, ClipSettings(asset={})).patches, loads[0][0].patches
    )


def test_evaluation_finds_assets_in_shards(root: Path) -> None:
    index = AssetIndex(EvalSettings(pretrained=""), [root / "tars"])
    for name in ("one", "two"):
        found = index._matches(str(root / f"{name}.mp4"), None)
        assert [entry.key for entry in found][:1] == [name]
        segment = load_asset(found[0].folder, VISUAL)
        assert torch.equal(segment.patches, load_asset(root / "assets" / name, VISUAL).patches)
    assert has_assets(root / "tars")
