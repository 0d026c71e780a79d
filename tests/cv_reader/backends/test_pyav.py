"""The pyav backend: known motion, what prediction leaves over, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest

from cv_reader import open_video
from cv_reader.backends import native
from cv_reader.errors import SettingsError, UnsupportedVideoError
from support.media import moving_square, panning, set_mp4_rotation, texture, write_video

CODECS = [("libx264", {"bf": "0"}), ("mpeg4", {}), ("mpeg2video", {})]


@pytest.mark.parametrize(("codec", "options"), CODECS)
@pytest.mark.parametrize("velocity", [(0, 4), (2, -6)])
def test_pan_gives_its_vector(
    tmp_path: Path, codec: str, options: dict[str, str], velocity: tuple[int, int]
) -> None:
    clip = panning(8, 96, 128, velocity)
    path = write_video(tmp_path / "clip.mkv", clip, codec=codec, options={"b": "4M", **options})
    with open_video(path, "pyav") as video:
        frames = list(video.frames([2, 5, 7]))
    for frame in frames:
        assert frame.pict_type == "P"
        assert frame.motion is not None
        assert frame.motion_ref is not None
        used = frame.motion_ref[0] == -1
        assert used.mean() > 0.7
        expected = (velocity[1] * 4, velocity[0] * 4)
        assert (np.abs(frame.motion[0][used] - expected).max(axis=-1) <= 2).mean() > 0.7
        assert not frame.motion_ref[1].any()


def test_b_pictures_use_both_directions(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", panning(12, 96, 128, (0, 4)), options={"bf": "2"})
    with open_video(path, "pyav") as video:
        frames = [frame for frame in video.frames() if frame.pict_type == "B"]
    assert frames
    motion_ref = np.stack([frame.motion_ref for frame in frames])
    assert set(np.unique(motion_ref[:, 0])) == {-1, 0}
    assert set(np.unique(motion_ref[:, 1])) == {0, 1}
    future = np.concatenate([frame.motion[1][frame.motion_ref[1] == 1] for frame in frames])
    past = np.concatenate([frame.motion[0][frame.motion_ref[0] == -1] for frame in frames])
    assert np.median(past[:, 0]) > 0 > np.median(future[:, 0])


def test_still_video_leaves_nothing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", [texture(64, 96)] * 8, options={"bf": "2"})
    with open_video(path, "pyav") as video:
        for frame in video.frames(range(1, 8)):
            assert not frame.motion.any()
            assert np.abs(frame.residual_y).mean() < 0.5


def test_residual_stands_where_the_change_is(tmp_path: Path) -> None:
    frames = [texture(64, 96) for _ in range(6)]
    frames[4] = frames[4].copy()
    frames[4][16:48, 32:64] = 255 - frames[4][16:48, 32:64]
    path = write_video(tmp_path / "clip.mp4", frames, options={"bf": "0", "g": "50"})
    with open_video(path, "pyav") as video:
        (frame,) = video.frames([4])
    strength = np.abs(frame.residual_y)
    assert strength[16:48, 32:64].mean() > 10 * np.delete(strength, np.s_[16:48], axis=0).mean()


@pytest.mark.parametrize(
    "options", [{"bf": "0"}, {"bf": "2"}, {"bf": "3", "x264-params": "b-pyramid=0"}]
)
def test_compensation_explains_a_pan(tmp_path: Path, options: dict[str, str]) -> None:
    path = write_video(tmp_path / "clip.mp4", panning(12, 96, 128, (0, 4)), options=options)
    with open_video(path, "pyav") as video:
        lumas = [frame.luma().astype(int) for frame in video.frames(signals=False)]
        for frame in video.frames(range(4, 12)):
            difference = np.abs(lumas[frame.index] - lumas[frame.index - 1]).mean()
            assert np.abs(frame.residual_y).mean() < 0.4 * difference


def test_key_frames_have_no_vectors_but_a_residual(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(12, 64, 96), options={"g": "6"})
    with open_video(path, "pyav") as video:
        for frame in video.frames(np.flatnonzero(video.index.is_key)):
            assert frame.pict_type == "I"
            assert not frame.motion_ref.any()
            assert np.abs(frame.residual_y).mean() > 5


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_turns_vectors_and_residual(tmp_path: Path, degrees: int) -> None:
    path = write_video(tmp_path / "clip.mp4", panning(6, 64, 96, (0, 4)), options={"bf": "0"})
    with open_video(path, "pyav") as video:
        (upright,) = video.frames([4])
    set_mp4_rotation(path, degrees)
    with open_video(path, "pyav") as video:
        (turned,) = video.frames([4])
    turns = -degrees // 90
    np.testing.assert_array_equal(turned.residual_y, np.rot90(upright.residual_y, turns))
    np.testing.assert_array_equal(turned.motion_ref[0], np.rot90(upright.motion_ref[0], turns))
    main = np.median(turned.motion[0].reshape(-1, 2), axis=0).tolist()
    assert main == {90: [0, 16], 180: [-16, 0], 270: [0, -16]}[degrees]


def test_says_how_exact_it_is(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(3, 64, 96))
    with open_video(path, "pyav") as video:
        assert video.backend == "pyav"
        assert video.exactness == {
            "motion": "direction",
            "residual_y": "approximate",
            "bits": "none",
            "qp": "none",
            "packet_bytes": "exact",
            "pts": "exact",
        }
        (first,) = video.frames([0])
        assert first.bits is None
        assert first.qp is None


def test_exact_values_are_refused_where_there_are_none(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(3, 64, 96))
    with pytest.raises(UnsupportedVideoError, match="exact values are required"):
        open_video(path, "pyav", require_exact=True)


def test_formats_without_vectors_are_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", moving_square(3, 64, 96), codec="libvpx-vp9")
    with pytest.raises(UnsupportedVideoError, match="no motion vectors for vp9"):
        open_video(path, "pyav")
    with open_video(path) as video:
        assert video.backend == "estimated"


def test_large_cropping_is_refused_by_name(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "clip.mp4",
        moving_square(3, 96, 128),
        options={"x264-params": "crop-rect=0,32,0,0"},
    )
    with pytest.raises(UnsupportedVideoError, match="cropped"):
        open_video(path, "pyav")
    with open_video(path) as video:
        assert video.backend != "pyav"
        assert video.index.height_px == 64


def test_unknown_backends_are_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(3, 64, 96))
    with pytest.raises(SettingsError, match="auto, native, pyav, estimated"):
        open_video(path, "fast")
    with pytest.raises(ValueError, match="num_threads"):
        open_video(path, num_threads=0)


@pytest.mark.skipif(native.is_installed(), reason="the native reader is installed")
def test_absent_native_backend_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(3, 64, 96))
    with pytest.raises(SettingsError, match="native.*not installed"):
        open_video(path, "native")
    with open_video(path) as video:
        assert video.backend == "pyav"
