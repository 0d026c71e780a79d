"""Videos and images as segments: codec assets, assets made on the fly, uniform frames."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from loguru import logger
from PIL import Image

from cv_reader import open_video
from llava.eval.plugin.visuals import VisualLoader
from llava.eval.settings import read_settings
from llava.visual.batch import VisualSegment
from llava.visual.config import VisualConfig
from llava.visual.loading import is_video
from llava.visual.segments import codec_visual, frames_visual, image_visual
from support.eval_toy import CODEC_ARGUMENTS, Toy
from support.media import moving_square, texture, write_video

CONFIG = VisualConfig(patches_per_side=8)


def _loader(toy: Toy, **changes: object) -> VisualLoader:
    return VisualLoader(read_settings(toy.arguments(**changes), {}), CONFIG)


def _assert_equal(one: VisualSegment, two: VisualSegment) -> None:
    torch.testing.assert_close(one.patches, two.patches, rtol=0, atol=0)
    assert torch.equal(one.positions, two.positions)
    assert one.placeholder_tokens == two.placeholder_tokens


def _frames(video: Path, ids: list[int]) -> VisualSegment:
    """Oracle: decode everything, then choose."""
    with open_video(video) as reader:
        pictures = [Image.fromarray(frame.rgb()) for frame in reader.frames(signals=False)]
    return frames_visual([pictures[index] for index in ids], CONFIG)


def test_a_hit_is_the_assets_mosaics_and_positions(toy: Toy) -> None:
    [visual] = _loader(toy).load([str(toy.videos[0])])
    folder = toy.assets / "a__clip"
    mosaics = [Image.open(path) for path in sorted(folder.glob("mosaic_*.jpg"))]
    expected = codec_visual(mosaics, np.load(folder / "positions_thw.npy"), CONFIG)
    _assert_equal(visual.segment, expected)
    assert (visual.source, visual.missed) == ("codec", False)
    assert visual.asset is not None
    assert visual.asset.folder == folder


@pytest.mark.parametrize(
    ("num_frames", "ids"), [(1, [0]), (2, [0, 11]), (5, [0, 2, 5, 8, 11]), (12, list(range(12)))]
)
def test_frames_are_spread_over_the_whole_video(toy: Toy, num_frames: int, ids: list[int]) -> None:
    video = toy.videos[0]
    [visual] = _loader(toy, video_input="frames", num_frames=num_frames).load([str(video)])
    _assert_equal(visual.segment, _frames(video, ids))
    assert (visual.source, visual.asset, visual.missed) == ("frames", None, False)


def test_a_short_video_repeats_frames(toy: Toy, tmp_path: Path) -> None:
    video = write_video(tmp_path / "short.mp4", moving_square(3, 48, 64))
    [visual] = _loader(toy, video_input="frames", num_frames=5).load([str(video)])
    _assert_equal(visual.segment, _frames(video, [0, 0, 1, 1, 2]))


def test_more_frames_than_the_time_line_are_refused_at_once(toy: Toy) -> None:
    with pytest.raises(ValueError, match="num_frames must be at most 64.*got 65"):
        _loader(toy, num_frames=65)


def test_codec_and_frames_cost_the_same_tokens(toy: Toy) -> None:
    video = [str(toy.videos[1])]
    assert "num_frames" not in toy.arguments()
    [codec], [frames] = _loader(toy).load(video), _loader(toy, video_input="frames").load(video)
    assert codec.segment.placeholder_tokens == frames.segment.placeholder_tokens == (64, 64)


def test_online_assets_equal_offline_ones_byte_for_byte(toy: Toy, tmp_path: Path) -> None:
    changes = {
        "codec_root": None,
        "codec_miss": "online",
        "codec_cache": tmp_path,
        "video_root": toy.video_root,
    }
    video = toy.videos[1]
    [visual] = _loader(toy, **changes).load([str(video)])
    assert (visual.source, visual.missed) == ("online", True)
    assert visual.asset is not None
    offline = toy.assets / "b__clip"
    made = {path.name: path.read_bytes() for path in visual.asset.folder.iterdir()}
    assert made == {path.name: path.read_bytes() for path in offline.iterdir()}
    [expected] = _loader(toy).load([str(video)])
    _assert_equal(visual.segment, expected.segment)
    [again] = _loader(toy, **changes).load([str(video)])
    assert (again.source, again.missed) == ("codec", False)


def test_a_merging_projector_needs_assets_of_blocks(toy: Toy, tmp_path: Path) -> None:
    merging = VisualConfig(patches_per_side=8, merge_side_patches=2)
    loader = VisualLoader(read_settings(toy.arguments(), {}), merging)
    with pytest.raises(ValueError, match=r"assets/b__clip: .*spatial_merge.*block_cells = 2"):
        loader.missing([str(toy.videos[1])])
    online = toy.arguments(codec_root=None, codec_miss="online", codec_cache=tmp_path)
    [made] = VisualLoader(read_settings(online, {}), merging).load([str(toy.videos[1])])
    assert made.segment.placeholder_tokens == (16, 16)
    assert made.asset is not None
    assert made.asset.config["block_cells"] == 2
    frames = VisualLoader(read_settings(toy.arguments(video_input="frames"), {}), merging)
    [visual] = frames.load([str(toy.videos[1])])
    assert visual.segment.placeholder_tokens == (16, 16)


def test_online_keeps_equal_stems_apart(toy: Toy, tmp_path: Path) -> None:
    loader = _loader(toy, codec_root=None, codec_miss="online", codec_cache=tmp_path)
    first, second = loader.load([str(video) for video in toy.videos[:2]])
    assert first.asset is not None
    assert second.asset is not None
    assert first.asset.folder != second.asset.folder
    assert not torch.equal(first.segment.patches, second.segment.patches)


def test_assets_follow_a_data_set_that_moved(toy: Toy, tmp_path: Path) -> None:
    shutil.copytree(toy.video_root, tmp_path / "moved")
    loader = _loader(toy)
    for video in toy.videos[:2]:
        entry = loader.index.find(str(tmp_path / "moved" / video.relative_to(toy.video_root)))
        assert entry is not None
        assert entry.video == str(video)


@pytest.mark.parametrize(
    ("debug", "rank", "logged"), [("0", 0, 0), ("1", 0, 2), ("1", 1, 0), ("all", 1, 2)]
)
def test_debug_names_every_hit_and_miss(
    toy: Toy, tmp_path: Path, debug: str, rank: int, logged: int
) -> None:
    settings = read_settings(toy.arguments(codec_miss="frames"), {"LLAVA_CODEC_DEBUG": debug})
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    loader = VisualLoader(settings, CONFIG, rank)
    copy = tmp_path / "unknown.mp4"
    copy.symlink_to(toy.videos[0])
    loader.load([str(toy.videos[0]), str(copy)])
    logger.remove(sink)
    expected = [f"codec asset HIT: {toy.videos[0]}\n", f"codec asset MISS: {copy}\n"]
    assert lines == expected[:logged]


def test_a_miss_becomes_frames_only_on_request(toy: Toy, tmp_path: Path) -> None:
    video = write_video(tmp_path / "new.mp4", moving_square(9, 48, 64))
    [visual] = _loader(toy, codec_miss="frames").load([str(video)])
    assert (visual.source, visual.missed) == ("frames", True)
    _assert_equal(visual.segment, _frames(video, [0, 8]))
    with pytest.raises(ValueError, match="new.mp4 has no codec asset"):
        _loader(toy).load([str(video)])


def test_missing_videos_are_listed_once_in_order(toy: Toy) -> None:
    videos = ["/none/z.mp4", str(toy.videos[0]), "/none/y.mp4", "/none/z.mp4"]
    assert _loader(toy).missing(videos) == ["/none/z.mp4", "/none/y.mp4"]


def test_images_are_read_as_images(toy: Toy) -> None:
    picture = Image.open(toy.images[0])
    expected = image_visual(picture, CONFIG)
    for visual in _loader(toy).load([picture, str(toy.images[0])]):
        assert visual.source == "image"
        _assert_equal(visual.segment, expected)
    assert is_video("clip.mp4")
    assert not is_video("folder/PICTURE.JPG")


def test_other_media_are_refused(toy: Toy) -> None:
    with pytest.raises(ValueError, match="PIL image or a path, got dict"):
        _loader(toy).load([{"array": [0.0], "sampling_rate": 16000}])


def test_a_damaged_asset_is_named(toy: Toy, tmp_path: Path) -> None:
    loader = _loader(
        toy, codec_root=None, codec_miss="online", codec_cache=tmp_path, **CODEC_ARGUMENTS
    )
    [visual] = loader.load([str(toy.videos[2])])
    assert visual.asset is not None
    (visual.asset.folder / "mosaic_001.jpg").unlink()
    loader.load([str(toy.videos[1])])  # the last video read would not be read again
    with pytest.raises(ValueError, match="mosaic_001.jpg"):
        loader.load([str(toy.videos[2])])


def test_damage_is_found_before_the_first_sample(toy: Toy, tmp_path: Path) -> None:
    assets = shutil.copytree(toy.assets, tmp_path / "assets")
    (assets / "long%20walk" / "positions_thw.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"positions_thw.npy: must have \d+ bytes, got 0"):
        _loader(toy, codec_root=assets).missing([str(video) for video in toy.videos])


def test_a_folder_of_frames_is_uniform_frames_in_every_mode(toy: Toy, tmp_path: Path) -> None:
    for number in range(12):
        picture = Image.fromarray(texture(48, 64, seed=number))
        picture.save(tmp_path / f"frame_{number}.png")
    (tmp_path / "notes.txt").touch()
    chosen = [Image.open(tmp_path / f"frame_{number}.png") for number in (0, 2, 5, 8, 11)]
    for video_input in ("codec", "frames"):
        loader = _loader(toy, num_frames=5, video_input=video_input)
        [visual] = loader.load([str(tmp_path)])
        _assert_equal(visual.segment, frames_visual(chosen, CONFIG))
        assert (visual.source, visual.missed) == ("frame_folder", False)
    assert not is_video(str(tmp_path))


def test_an_empty_folder_is_no_video(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no images"):
        _loader(toy).load([str(tmp_path)])


def test_the_last_video_is_not_read_twice(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = _loader(toy)
    [first], [other] = loader.load([str(toy.videos[0])]), loader.load([str(toy.videos[1])])
    monkeypatch.setattr("llava.eval.plugin.visuals.read_asset", None)
    [again] = loader.load([str(toy.videos[1])])
    assert again.segment is other.segment
    assert again.segment is not first.segment


def test_an_asset_computed_in_the_run_is_a_hit_the_second_time(toy: Toy, tmp_path: Path) -> None:
    loader = _loader(toy, codec_root=None, codec_miss="online", codec_cache=tmp_path)
    seen = [loader.load([str(toy.videos[0])])[0] for _ in range(2)]
    assert [(visual.source, visual.missed) for visual in seen] == [
        ("online", True),
        ("codec", False),
    ]


def test_assets_without_times_are_found_before_the_first_sample(toy: Toy, tmp_path: Path) -> None:
    """A checkpoint that was trained with time marks needs the times of every clip."""
    config = VisualConfig(patches_per_side=8, time_marks=True)
    video = str(toy.videos[0])
    [visual] = VisualLoader(read_settings(toy.arguments(), {}), config).load([video])
    assert visual.segment.time_marks[0] == (0, "<0.0 seconds>")
    copied = shutil.copytree(toy.assets, tmp_path / "assets")
    for path in copied.glob("*/meta.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"frame_rate": None}))
    settings = read_settings(toy.arguments(codec_root=copied), {})
    assert VisualLoader(settings, CONFIG).missing([video]) == []
    with pytest.raises(ValueError, match="carries no time stamps"):
        VisualLoader(settings, config).missing([video])
