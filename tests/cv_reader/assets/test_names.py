"""Names on disk: recorded rules, and no way out of the output folder."""

import pytest

from cv_reader.assets.names import (
    asset_key,
    evaluation_key,
    safe_name,
    sample_folder_name,
    stage1_prefix,
)
from cv_reader.errors import AssetError
from cv_reader.select.config import AssetConfig

HOSTILE = ["../../x", "/etc", "..", ".", "a/b", "a\0b", "a\nb", "-", " ", "ä", "\ud800", "%2F", "~"]


def test_names_of_the_demo_clip() -> None:
    video, key = "videos/ytb_XwB-dkS5BVM.mp4", "videos/ytb_XwB-dkS5BVM.mp4|XwB-dkS5BVM|1"
    folder = "sample_XwB-dkS5BVM__ytb_XwB-dkS5BVM__69f828b5"
    assert sample_folder_name("XwB-dkS5BVM", video) == folder
    prefix = stage1_prefix("XwB-dkS5BVM", video, key, AssetConfig())
    assert prefix == f"{folder}__968ef9dc_T64_square576_p16_K10368"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_become_one_harmless_component(text: str) -> None:
    name = safe_name(text)
    assert name not in ("", ".", "..")
    assert name.isascii()
    assert set(name) <= set("%._-") | set(map(chr, range(48, 123)))
    assert not name.startswith(".")
    assert "/" not in name


def test_different_names_stay_different() -> None:
    assert len({safe_name(text) for text in HOSTILE}) == len(HOSTILE)
    long = "x" * 300
    assert safe_name(long + "a") != safe_name(long + "b")
    assert len(safe_name(long)) == 200


def test_ordinary_names_do_not_change() -> None:
    assert safe_name("YVQw-AE_KZ.paU9") == "YVQw-AE_KZ.paU9"


def test_empty_names_are_refused() -> None:
    with pytest.raises(AssetError, match="empty"):
        safe_name("")


@pytest.mark.parametrize(
    ("video", "root", "key"),
    [
        ("clip.mp4", None, "clip"),
        ("/data/a/clip.mp4", None, "clip"),
        ("/data/a/clip.v2.mp4", "/data", "a__clip.v2"),
        ("a/b c.mkv", "/data", "a__b%20c"),
        ("./a/clip.mp4", "videos", "a__clip"),
        ("/data/.hidden.mp4", "/data", "%2Ehidden"),
    ],
)
def test_evaluation_keys(video: str, root: str | None, key: str) -> None:
    assert evaluation_key(video, root) == key


def test_a_key_needs_the_video_below_the_root() -> None:
    with pytest.raises(AssetError, match="below the video root"):
        evaluation_key("/other/clip.mp4", "/data")


def test_long_names_fit_a_file_name() -> None:
    prefix = stage1_prefix("i" * 500, "v" * 500 + ".mp4", "key", AssetConfig())
    assert len(prefix + ".frame_ids.npy") <= 255


def test_a_key_that_is_safe_is_not_encoded_twice() -> None:
    for text in HOSTILE:
        assert asset_key(safe_name(text)) == safe_name(text)
    assert asset_key(evaluation_key("my clip.mp4")) == "my%20clip"


@pytest.mark.parametrize("key", ["..", ".hidden", "a/b", "a b", "é", "x" * 201])
def test_an_unsafe_key_is_made_safe(key: str) -> None:
    assert asset_key(key) == safe_name(key) != key
