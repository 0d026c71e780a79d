"""Training and questions read assets and videos of a store as they read files of this machine."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cv_reader.assets.make import write_evaluation_asset
from cv_reader.commands import convert
from cv_reader.remote.cache import cache_settings, choose_cache
from cv_reader.remote.files import forget_looked_up
from cv_reader.remote.transfer import traffic
from cv_reader.select.config import AssetConfig
from llava.data.records import CodecRecord, VideoRecord, parse_record
from llava.visual.clips import ClipSettings, load_clip
from llava.visual.config import VisualConfig
from llava.visual.loading import count_mosaics, load_mosaics, load_video
from support.media import moving_square, write_video

fsspec = pytest.importorskip("fsspec")
CONFIG = AssetConfig(square_size=64, num_images=2, sequence_length=8, patch_size=16)
VISUAL = VisualConfig(patch_size_px=16, patches_per_side=4)
TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A"}]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A video, its asset, and a shard of it, here and in a store in memory."""
    tmp_path = tmp_path_factory.mktemp("store")
    video = write_video(tmp_path / "one.mp4", moving_square(10, 48, 64))
    write_evaluation_asset(video, key="one", out_root=tmp_path, config=CONFIG)
    assert convert.main([str(tmp_path / "assets"), "--to", "tar", "--out", str(tmp_path)]) == 0
    store: Any = fsspec.filesystem("memory")
    store.store.clear()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            store.pipe_file(f"/data/{path.relative_to(tmp_path)}", path.read_bytes())
    choose_cache(cache_settings(tmp_path / "cache", 0.01))
    forget_looked_up()
    yield tmp_path
    store.store.clear()
    choose_cache(cache_settings())


def _record(place: str, folder: Path) -> CodecRecord:
    names = ["mosaic_000.jpg", "mosaic_001.jpg"]
    entry = {"image": [f"{place}/{n}" for n in names], "conversations": TURNS}
    entry |= {"positions_thw": f"{place}/positions_thw.npy"}
    record = parse_record(entry, where="x:1", image_folder=folder, video_folder=folder)
    assert isinstance(record, CodecRecord)
    return record


def test_entries_that_name_addresses_give_the_same_segments(root: Path) -> None:
    mine = _record("assets/one", root)
    wanted = load_mosaics(mine.images, mine.positions, VISUAL)
    places = [
        ("memory://data/assets/one", root),
        ("assets/one", Path("memory://data")),
        ("memory://data/shard_000000.tar#one", root),
    ]
    for place, folder in places:
        record = _record(place, folder)
        counts = count_mosaics(record.images, record.positions, VISUAL)
        assert counts == count_mosaics(mine.images, mine.positions, VISUAL)
        before = traffic.copy()
        for _ in range(2):
            found = load_mosaics(record.images, record.positions, VISUAL)
            assert torch.equal(found.patches, wanted.patches)
            assert torch.equal(found.positions, wanted.positions)
        # An epoch later nothing is fetched again, and of a tar no more than its members.
        sizes = sum(path.stat().st_size for path in mine.images)
        assert traffic.bytes_read - before.bytes_read <= sizes


def test_what_a_store_lacks_is_named(root: Path) -> None:
    record = _record("memory://data/assets/two", root)
    with pytest.raises(ValueError, match="mosaic_000.jpg cannot be read.*no such object"):
        count_mosaics(record.images, record.positions, VISUAL)
    record = _record("memory://data/shard_000000.tar#two", root)
    with pytest.raises(ValueError, match="holds no positions_thw.npy of 'two'"):
        load_mosaics(record.images, record.positions, VISUAL)


def test_videos_and_assets_of_a_store_are_shown(root: Path) -> None:
    entry = {"video": "memory://data/one.mp4", "num_frames": 4, "conversations": TURNS}
    record = parse_record(entry, where="x:1", image_folder=root, video_folder=root)
    assert isinstance(record, VideoRecord)
    found, wanted = (load_video(p, 4, VISUAL) for p in (record.video, root / "one.mp4"))
    assert torch.equal(found.patches, wanted.patches)
    for settings, place in (
        (ClipSettings(asset={}, input="frames"), "one.mp4"),
        (ClipSettings(asset={"sequence_length": 8}), "one.mp4"),
        (ClipSettings(asset={}), "assets/one"),
    ):
        one = load_clip(f"memory://data/{place}", VISUAL, settings)
        assert torch.equal(one.patches, load_clip(root / place, VISUAL, settings).patches)


@pytest.mark.slow
def test_computed_assets_stay_within_the_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    settings = ClipSettings(asset={"sequence_length": 8}, cache=kept)
    videos = [tmp_path / name for name in ("a.mp4", "b.mp4")]
    for video in videos:
        shutil.copy(root / "one.mp4", video)
    wanted = load_clip(root / "one.mp4", VISUAL, ClipSettings(asset={"sequence_length": 8}))

    def shown(video: Path) -> list[str]:
        assert torch.equal(load_clip(video, VISUAL, settings).patches, wanted.patches)
        return sorted(path.name[-1] for path in kept.glob("*/assets/[!.]*"))

    assert shown(videos[0]) == ["a"]
    assert shown(videos[1]) == ["a", "b"]
    monkeypatch.setattr("llava.visual.loading.default_cache", lambda: cache_settings(kept, 1e-9))
    shutil.copy(root / "one.mp4", tmp_path / "c.mp4")
    assert shown(tmp_path / "c.mp4") == ["c"]
    assert shown(videos[0]) == ["a"]


def test_a_video_larger_than_the_cache_is_refused_before_it_is_fetched(
    root: Path, tmp_path: Path
) -> None:
    before = traffic.copy()
    choose_cache(cache_settings(tmp_path, 1e-6))
    try:
        with pytest.raises(ValueError, match="exceeds the cache of 1000 .*CV_READER_CACHE_GB"):
            load_clip("memory://data/one.mp4", VISUAL, ClipSettings(asset={}))
    finally:
        choose_cache(cache_settings(root / "cache", 0.01))
    assert traffic.bytes_read == before.bytes_read
