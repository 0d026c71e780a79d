"""The reference reader's calls on top of ours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cv_reader import open_video
from cv_reader.compat import read_video, read_video_cb
from support.media import write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows, columns = np.mgrid[:50, :70]
    frames = [
        np.stack([(rows * 3 + columns * 2 + 7 * number) % 256] * 3, axis=-1).astype(np.uint8)
        for number in range(10)
    ]
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames)


def test_every_frame_has_the_promised_fields(clip: Path) -> None:
    frames = read_video(clip)
    assert [frame["frame_idx"] for frame in frames] == list(range(10))
    for frame in frames:
        assert (frame["width"], frame["height"], frame["codec_name"]) == (70, 50, "h264")
        assert frame["motion_vector"].shape == (12, 17, 4)
        assert frame["motion_vector"].dtype == np.int32
        assert frame["residual"].shape == (50, 70, 3)
        assert frame["pict_type"] in "IPB"


def test_values_are_ours_cut_to_whole_pixels_and_bytes(clip: Path) -> None:
    with open_video(clip) as video:
        for frame, old in zip(video.frames(), read_video(clip), strict=True):
            assert frame.motion is not None and frame.residual_y is not None
            for side in (0, 1):
                cut = np.trunc(frame.motion[side, :12, :17] / 4)
                assert np.array_equal(old["motion_vector"][..., 2 * side : 2 * side + 2], cut)
            expected = np.clip(frame.residual_y.astype(int) + 128, 0, 255)
            assert np.array_equal(old["residual_y"], expected)


def test_limits(clip: Path) -> None:
    assert len(read_video(clip, 1, 4)) == 4
    assert "residual" not in read_video(clip, 1, 1)[0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"frame_ids": [5, 2, 5, 99]}, [2, 5, 5]),
        ({"seek_to_frame": 6}, [6, 7, 8, 9]),
        ({"seek_to_frame": 3, "decode_len": 2}, [3, 4]),
        ({"max_frames": 2, "frame_ids": [1, 1, 1]}, [1, 1]),
    ],
)
def test_callback_gets_the_chosen_frames(
    clip: Path, settings: dict[str, Any], expected: list[int]
) -> None:
    seen: list[int] = []
    read_video_cb(clip, lambda frame: seen.append(frame["frame_idx"]), **settings)
    assert seen == expected


def test_callback_ends_the_reading(clip: Path) -> None:
    seen: list[int] = []

    def take(frame: dict[str, Any]) -> bool:
        seen.append(frame["frame_idx"])
        return len(seen) < 3

    read_video_cb(clip, take)
    assert seen == [0, 1, 2]
