"""Frames that cost little to reach: near, in order, and never more costly than those asked for."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cv_reader import open_video
from cv_reader.assets.freshness import usable_meta
from cv_reader.assets.make import select_from_video, write_evaluation_asset
from cv_reader.errors import SettingsError, StaleAssetError, UnsupportedVideoError
from cv_reader.media import decoding
from cv_reader.media.frames import FrameReach
from cv_reader.reader import ReadOptions
from cv_reader.select import cheap
from cv_reader.select.cheap import cheap_frame_ids, pictures_needed, sampled_frames
from cv_reader.select.config import ALGORITHM_VERSION, CHEAP_REACH_STEPS, AssetConfig
from cv_reader.select.selection import sample_frame_ids
from support.media import moving_square, write_video

CONFIG = AssetConfig(sequence_length=12, num_images=2, square_size=64, patch_size=8, frames="cheap")


def _reach(groups: str) -> FrameReach:
    """One letter per frame, a word per group: K a key picture, P a reference, b none."""
    start, references, is_reference = [], [], []
    for word in groups.split():
        first, count = len(start), 0
        for letter in word:
            count += letter != "b"
            start.append(first)
            references.append(count)
            is_reference.append(letter != "b")
    return FrameReach(
        start=np.array(start, np.int32),
        references=np.array(references, np.int32),
        is_reference=np.array(is_reference),
    )


def _decoded(ids: Sequence[int], groups: str) -> int:
    """Count by hand: in each group the references up to the last frame wanted, and those wanted."""
    total, first = 0, 0
    for word in groups.split():
        inside = [number - first for number in ids if first <= number < first + len(word)]
        if inside:
            wanted = set(inside)
            total += sum(
                letter != "b" or place in wanted
                for place, letter in enumerate(word[: max(inside) + 1])
            )
        first += len(word)
    return total


GROUPS = [
    "KPPPPPPP KPPP KPPPPPP",
    "KbPbPbP KbPbP KPPbPbP",
    "K K K K K K K K K K K K K K K",
    "KPPPPPPPPPPPPPPPP",
]


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("slots", [2, 3, 4])
def test_no_other_frames_within_the_limits_need_fewer_pictures(groups: str, slots: int) -> None:
    reach = _reach(groups)
    asked = sample_frame_ids(len(reach.start), slots)
    reaches = np.diff(asked) * CHEAP_REACH_STEPS
    windows = [
        [number for number in range(len(reach.start)) if low <= number <= high]
        for low, high in zip(
            [asked[0], *(asked[1:] - reaches)], [*(asked[:-1] + reaches), asked[-1]], strict=True
        )
    ]
    in_order = (ids for ids in product(*windows) if list(ids) == sorted(set(ids)))
    least = min(_decoded(ids, groups) for ids in in_order)
    found = cheap_frame_ids(asked, reach)
    assert _decoded(found.tolist(), groups) == least == pictures_needed(found, reach)
    assert all(number in window for number, window in zip(found.tolist(), windows, strict=True))
    assert (np.diff(found) > 0).all()


def test_a_slot_stays_where_moving_saves_nothing() -> None:
    asked = np.array([0, 4, 9, 14], np.int32)
    assert cheap_frame_ids(asked, _reach("K " * 15)).tolist() == asked.tolist()


def test_what_is_decoded_anyway_is_free() -> None:
    # The last slot needs 6, and 4 is decoded on the way to it.
    assert cheap_frame_ids(np.array([0, 4, 8], np.int32), _reach("KPPPPPPPP")).tolist() == [0, 4, 6]


def test_two_slots_that_want_one_key_picture_stay_in_order() -> None:
    # Both 5 and 10 may show the key picture 7: the earlier slot takes it, the later one the next.
    found = cheap_frame_ids(np.array([0, 5, 10], np.int32), _reach("KPPPPPP KPPP"))
    assert found.tolist() == [0, 7, 8]


def test_frames_that_repeat_are_not_moved() -> None:
    asked = sample_frame_ids(5, 8)
    assert cheap_frame_ids(asked, _reach("KPPPP")).tolist() == asked.tolist()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    options = {"g": "20", "bf": "3", "x264-params": "b-pyramid=2:scenecut=0:min-keyint=20"}
    return write_video(path, moving_square(200, 64, 96, (1, 3)), options=options)


def test_a_clip_is_read_with_fewer_pictures_and_says_so(clip: Path, tmp_path: Path) -> None:
    asset = write_evaluation_asset(clip, key="clip", out_root=tmp_path, config=CONFIG)
    meta = asset.meta
    asked = sample_frame_ids(200, 12).tolist()
    assert meta["requested_frame_ids"] == asked
    used = asset.frame_ids.tolist()
    assert meta["max_moved_frames"] == max(abs(a - u) for a, u in zip(asked, used, strict=True))
    assert 0 < meta["max_moved_frames"] <= CHEAP_REACH_STEPS * 199 / 11 + 1
    assert used == sorted(set(used))
    costs = meta["pictures_needed"]
    assert costs["used"] < costs["requested"] / 3
    with open_video(clip) as video:
        assert sum(number % 20 == 0 for number in used) >= 10
        assert video.index.is_key[[u for u in used if u % 20 == 0]].all()


def test_assets_of_another_reach_are_stale(clip: Path, tmp_path: Path) -> None:
    write_evaluation_asset(clip, key="clip", out_root=tmp_path, config=CONFIG)
    path = next(tmp_path.rglob("meta.json"))
    meta = json.loads(path.read_text())
    assert usable_meta(path, CONFIG) == meta and meta["cheap_reach_steps"] == CHEAP_REACH_STEPS
    # As it was before the reach was recorded: the settings and the version alone.
    del meta["cheap_reach_steps"]
    content = {"algorithm_version": ALGORITHM_VERSION, **meta["cfg"]}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    meta["fingerprint"] = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    path.write_text(json.dumps(meta))
    with pytest.raises(StaleAssetError, match=r"cheap_reach_steps None where 0\.7 is asked for"):
        usable_meta(path, CONFIG)
    # What does not move slots has no such number, and the fingerprint of before.
    plain = replace(CONFIG, frames="uniform")
    content["frames"] = "uniform"
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert plain.fingerprint == hashlib.sha256(canonical.encode()).hexdigest()[:16]


def test_meta_counts_the_pictures_that_are_decoded(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    original = decoding.numbered

    def record(packet: Any, row: int) -> Any:
        decoded.append(row)
        return original(packet, row)

    monkeypatch.setattr(decoding, "numbered", record)
    with open_video(clip) as video:
        ids, facts = sampled_frames(video.index, CONFIG)
        list(video.frames(ids.tolist(), signals=False))
    assert abs(len(set(decoded)) - facts["pictures_needed"]["used"]) <= 4  # short gaps are decoded


def test_cells_are_those_of_the_frames_used(clip: Path) -> None:
    selection = select_from_video(clip, CONFIG, ReadOptions())
    assert selection.frame_ids.tolist() != sample_frame_ids(200, 12).tolist()
    assert selection.facts["requested_frame_ids"] == sample_frame_ids(200, 12).tolist()
    other = select_from_video(clip, CONFIG, ReadOptions(backend="pyav", num_threads=3))
    assert other.frame_ids.tolist() == selection.frame_ids.tolist()


def test_a_long_video_without_cheap_frames_is_refused(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cheap, "_SMALL_PICTURES", 10)
    with open_video(clip) as video:
        assert sampled_frames(video.index, CONFIG)[1]["pictures_needed"]["used"] > 10
        monkeypatch.setattr(cheap, "_MOST", 0.01)
        with pytest.raises(UnsupportedVideoError, match=r"clip.mp4: frames='cheap' still needs"):
            sampled_frames(video.index, CONFIG)


@pytest.mark.parametrize(
    "settings",
    [
        {"signal": "bits_between"},
        {"signal": "residual_between"},
        {"select": "rate_distortion", "predict": "vectors"},
    ],
)
def test_what_needs_all_pictures_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="frames must be other than 'cheap'"):
        AssetConfig(**{"frames": "cheap", **settings})
