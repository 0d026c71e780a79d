"""Which asset a video gets, and when none may be used."""

import json
from pathlib import Path
from typing import Any

import pytest

from cv_reader.assets import AssetConfig
from llava.eval.plugin import asset_index
from llava.eval.plugin.asset_index import (
    AssetIndex,
    AssetLookupError,
)
from llava.eval.plugin.preflight import missing_message, write_missing
from llava.eval.settings import EvalSettings, EvalSettingsError, read_settings


def _meta(folder: Path, key: str, video: str, size: int, **changes: Any) -> None:
    """An asset as far as the index reads it: its ``meta.json``."""
    config = AssetConfig()
    meta = {
        "schema_version": 1,
        "key": key,
        "video": video,
        "cfg": config.to_dict(),
        "fingerprint": config.fingerprint,
        "algorithm_version": 1,
        "source": {"size_bytes": size, "mtime_ns": 0, "sha256": ""},
        "backend": "pyav",
        "exactness": {"motion": "direction"},
        "files": {},
        "image_stem": "mosaic",
        **changes,
    }
    (folder / key).mkdir(parents=True)
    (folder / key / "meta.json").write_text(json.dumps(meta))


def _index(*roots: Path, **changes: Any) -> AssetIndex:
    return AssetIndex(EvalSettings(pretrained="", **changes), roots)


def _video(path: Path, size: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return str(path)


def test_the_longest_key_that_the_path_spells_wins(tmp_path: Path) -> None:
    for key in ("clip", "b__clip", "c__clip", ".hidden"):
        _meta(tmp_path / "assets", key, "elsewhere.mp4", 5)
    (tmp_path / "assets" / "a__b__clip").mkdir()  # no asset: it holds no meta.json
    index = _index(tmp_path / "assets", tmp_path / "not_yet_there")
    deep, flat = _video(tmp_path / "a/b/clip.mp4", 5), _video(tmp_path / "a/d/clip.mp4", 5)
    assert index.find(deep).key == "b__clip"  # type: ignore[union-attr]
    assert index.find(flat).key == "clip"  # type: ignore[union-attr]
    assert index.find(str(tmp_path / "a/d/other.mp4")) is None


def test_a_root_makes_keys_exact(tmp_path: Path) -> None:
    for key in ("clip", "b__clip"):
        _meta(tmp_path / "assets", key, "elsewhere.mp4", 5)
    index = _index(tmp_path / "assets", video_root=tmp_path / "a")
    assert index.find(_video(tmp_path / "a/b/clip.mp4", 5)).key == "b__clip"  # type: ignore[union-attr]
    assert index.find(_video(tmp_path / "a/d/clip.mp4", 5)) is None


def test_a_free_key_is_found_by_the_recorded_path(tmp_path: Path) -> None:
    video, other = _video(tmp_path / "clip.mp4", 5), _video(tmp_path / "other/clip.mp4", 5)
    _meta(tmp_path / "assets", "0007", video, 5)
    assert _index(tmp_path / "assets").find(video).key == "0007"  # type: ignore[union-attr]
    _meta(tmp_path / "assets", "clip", other, 5)  # named as the video, made from another
    assert _index(tmp_path / "assets").find(video).key == "0007"  # type: ignore[union-attr]


def test_only_the_meta_of_assets_that_fit_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        _meta(tmp_path / "assets", f"a__{number}", f"/moved/a/{number}.mp4", 5)
    read: list[str] = []
    real = asset_index.read_meta
    monkeypatch.setattr(
        asset_index, "read_meta", lambda path: read.append(path.parent.name) or real(path)
    )
    index = _index(tmp_path / "assets")
    for _ in range(2):
        found = [index.find(_video(tmp_path / f"a/{number}.mp4", 5)) for number in (3, 8)]
        assert [entry.key for entry in found if entry] == ["a__3", "a__8"]
    assert read == ["a__3", "a__8"]
    _meta(tmp_path / "assets", "linked", _video(tmp_path / "elsewhere/linked.mp4", 5), 5)
    (tmp_path / "linked.mp4").symlink_to(tmp_path / "elsewhere/linked.mp4")
    assert _index(tmp_path / "assets").find(str(tmp_path / "linked.mp4")) is not None
    assert read.pop() == "linked"
    assert read == ["a__3", "a__8"], "the recorded path leads to the same file"
    (tmp_path / "assets" / "linked").rename(tmp_path / "linked")
    assert index.find(_video(tmp_path / "b/7.mp4", 5)) is None
    assert len(read) == 30, "a video that no name fits is looked for by recorded path"
    assert index.find(_video(tmp_path / "b/8.mp4", 5)) is None
    assert len(read) == 30


def test_equal_names_in_two_roots_are_told_apart_by_size(tmp_path: Path) -> None:
    _meta(tmp_path / "one", "clip", "x/clip.mp4", 5)
    _meta(tmp_path / "two", "clip", "y/clip.mp4", 6)
    index = _index(tmp_path / "one", tmp_path / "two")
    assert index.find(_video(tmp_path / "y/clip.mp4", 6)).folder == tmp_path / "two" / "clip"  # type: ignore[union-attr]


def test_a_changed_source_is_refused_and_an_absent_one_is_not(tmp_path: Path) -> None:
    _meta(tmp_path / "assets", "clip", "clip.mp4", 5)
    index = _index(tmp_path / "assets")
    assert index.find(str(tmp_path / "gone" / "clip.mp4")) is not None
    with pytest.raises(AssetLookupError, match=r"of 5 bytes, but .*clip.mp4 has 6.*--overwrite"):
        index.find(_video(tmp_path / "clip.mp4", 6))


def test_one_asset_never_serves_two_files(tmp_path: Path) -> None:
    _meta(tmp_path / "assets", "clip", "clip.mp4", 5)
    index = _index(tmp_path / "assets")
    first, second = _video(tmp_path / "a/clip.mp4", 5), _video(tmp_path / "b/clip.mp4", 5)
    assert index.find(first) is index.find(first)
    with pytest.raises(AssetLookupError, match="matches two videos.*video_root="):
        index.find(second)


@pytest.mark.parametrize(
    ("setting", "argument", "variable"),
    [
        ("sequence_length", "codec_seq_len_frames", "LLAVA_CODEC_SEQ_LEN_FRAMES"),
        ("num_images", "codec_num_images", "LLAVA_CODEC_NUM_IMAGES"),
        ("square_size", "codec_square_size", "LLAVA_CODEC_SQUARE_SIZE"),
        ("patch_size", "codec_patch_size", "LLAVA_CODEC_PATCH_SIZE"),
    ],
)
def test_other_settings_are_refused_by_name(
    tmp_path: Path, setting: str, argument: str, variable: str
) -> None:
    _meta(tmp_path, "clip", "clip.mp4", 5)
    stored = AssetConfig().to_dict()[setting]
    index = _index(tmp_path, **{argument: stored // 2})
    expected = rf"clip: made with {setting}={stored}, .* {argument}={stored // 2}; set {variable}"
    with pytest.raises(AssetLookupError, match=expected):
        index.find("clip.mp4")
    made = EvalSettings(pretrained="", **{argument: stored // 2}).asset_config().to_dict()
    assert made == {**AssetConfig().to_dict(), setting: stored // 2}


def test_assets_of_a_run_have_one_fingerprint(tmp_path: Path) -> None:
    _meta(tmp_path, "one", "one.mp4", 5)
    other = AssetConfig(signal="mv")
    changes = {"cfg": other.to_dict(), "fingerprint": other.fingerprint}
    _meta(tmp_path, "two", "two.mp4", 5, **changes)
    _meta(tmp_path, "unused", "unused.mp4", 5, **changes)
    index = _index(tmp_path)
    assert index.find("one.mp4") is not None
    message = f"two: has fingerprint {other.fingerprint}, other assets of this run have"
    with pytest.raises(AssetLookupError, match=message):
        index.find("two.mp4")


def test_assets_of_another_version_are_refused(tmp_path: Path) -> None:
    _meta(tmp_path, "clip", "clip.mp4", 5, fingerprint="0" * 16)
    expected = "has fingerprint 0{16}, but this version makes .* made by another version"
    with pytest.raises(AssetLookupError, match=expected):
        _index(tmp_path).find("clip.mp4")


def test_a_folder_of_another_program_is_refused(tmp_path: Path) -> None:
    _meta(tmp_path, "clip", "clip.mp4", 5, schema_version="llava_codec_v1")
    with pytest.raises(ValueError, match="schema_version must be 1"):
        _index(tmp_path).find("clip.mp4")
    with pytest.raises(ValueError, match="schema_version must be 1"):
        _index(tmp_path).find("unlike.mp4")


def test_the_repair_names_every_video_and_the_command(tmp_path: Path) -> None:
    settings = EvalSettings(pretrained="", codec_root=(tmp_path / "offline/assets",))
    index = AssetIndex(settings, [])
    videos = [f"/data/{folder}/{number}.mp4" for folder in "ab" for number in range(15)]
    listing = tmp_path / "out" / "missing.jsonl"
    keys = write_missing(videos, videos, index, listing)
    rows = [json.loads(line) for line in listing.read_text().splitlines()]
    assert rows[0] == {"video": "/data/a/0.mp4", "key": "a__0"}
    assert [row["video"] for row in rows] == videos
    assert keys == [row["key"] for row in rows]
    named = dict(zip(videos, keys, strict=True))
    message = missing_message(named, 40, listing, settings, AssetConfig(select="uniform"))
    assert "  b__4: /data/b/4.mp4\n" in message
    assert message.startswith("30 of 40 videos of this run have no codec asset")
    assert message.count("/data/a/") + message.count("/data/b/") == 20
    assert "and 10 more" in message
    assert f"--jsonl {listing} --out_root {tmp_path / 'offline'} --seq_len_frames 64" in message
    assert "--patch_size 16 --select uniform\n" in message


def test_a_benchmarks_video_is_named_as_preparation_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    video = str(tmp_path / "TOMATO" / "videos" / "human" / "1.mp4")
    index = AssetIndex(EvalSettings(pretrained=""), [])
    assert write_missing([video], [video], index, tmp_path / "l.jsonl") == ["videos__human__1"]


def test_roots_may_be_addresses(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    store: Any = fsspec.filesystem("memory")
    _meta(tmp_path / "assets", "b__clip", "elsewhere.mp4", 5)
    meta = (tmp_path / "assets" / "b__clip" / "meta.json").read_bytes()
    store.pipe_file("/index/assets/b__clip/meta.json", meta)
    roots = f"memory://index:{tmp_path / 'assets'}:memory://index/assets"
    settings = read_settings({"pretrained": "x", "codec_root": roots}, {})
    assert settings.codec_root[1] == tmp_path / "assets"
    assert settings.to_dict()["codec_root"] == [
        "memory://index/assets",
        str(tmp_path / "assets"),
        "memory://index/assets",
    ]
    found = AssetIndex(settings, settings.codec_root[:1]).find(_video(tmp_path / "a/b/clip.mp4", 5))
    assert found is not None and str(found.folder) == "memory:/index/assets/b__clip"
    with pytest.raises(EvalSettingsError, match="codec_root memory:/none holds no codec assets"):
        read_settings({"pretrained": "x", "codec_root": "memory://none"}, {})
    with pytest.raises(EvalSettingsError, match="codec_root s9://b: the scheme must be one of"):
        read_settings({"pretrained": "x", "codec_root": "s9://b"}, {})
    store.rm("/index", recursive=True)
