"""The estimated backend: known motion is found, and stillness stays still."""

from pathlib import Path

import numpy as np
import pytest

from cv_reader import open_video
from cv_reader.backends.blockmotion import Pyramid, block_motion
from support.media import moving_square, panning, texture, write_video


def _luma(seed: int = 0, height: int = 96, width: int = 128) -> np.ndarray:
    return texture(height, width, seed)[..., 0]


@pytest.mark.parametrize("velocity", [(0, 1), (3, 5), (-7, 2), (0, 24), (20, -20)])
def test_shift_is_found(velocity: tuple[int, int]) -> None:
    before, after = (frame[..., 0] for frame in panning(2, 144, 176, velocity))
    vectors, inter = block_motion(Pyramid.of(after), Pyramid.of(before))
    assert vectors.shape == (9, 11, 2)
    middle = np.s_[2:-2, 2:-2]
    assert inter[middle].all()
    assert (vectors[middle] == velocity[::-1]).all(axis=-1).mean() > 0.8


def test_still_picture_does_not_move_whatever_the_noise() -> None:
    generator = np.random.default_rng(0)
    noisy = [
        np.clip(_luma() + generator.normal(0, 4, (96, 128)), 0, 255).astype(np.uint8)
        for _ in range(2)
    ]
    vectors, inter = block_motion(Pyramid.of(noisy[1]), Pyramid.of(noisy[0]))
    assert inter.all()
    assert not vectors.any()


def test_equal_costs_leave_a_block_where_it_is() -> None:
    flat = np.full((64, 64), 90, np.uint8)
    brighter = np.full((64, 64), 120, np.uint8)
    vectors, inter = block_motion(Pyramid.of(brighter), Pyramid.of(flat))
    assert not vectors.any()
    assert not inter.any()


def test_new_content_counts_as_intra() -> None:
    before, after = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    before[:] = _luma(1, 64, 64)
    after[:] = before
    after[16:32, 32:48] = 250
    _, inter = block_motion(Pyramid.of(after), Pyramid.of(before))
    assert not inter[1, 2]
    assert inter.sum() == inter.size - 1


@pytest.mark.parametrize("codec", ["libx265", "libvpx-vp9", "libsvtav1", "ffv1"])
def test_moving_square_moves_and_the_rest_does_not(tmp_path: Path, codec: str) -> None:
    clip = moving_square(6, 96, 128, (0, 4), square_px=48, start=(16, 16))
    path = write_video(tmp_path / "clip.mkv", clip, codec=codec, options={"g": "50"})
    with open_video(path, "estimated") as video:
        (frame,) = video.frames([4])
        assert set(video.exactness.values()) == {"estimated", "none", "exact"}
    assert frame.motion.shape == (2, 24, 32, 2)
    inside = frame.motion[0, 4:16, 8:20].reshape(-1, 2)
    assert np.median(inside, axis=0).tolist() == [-16, 0]
    assert not frame.motion[0, 16:].any()
    assert (frame.motion_ref[0, 16:] == -1).all()
    assert not frame.motion[1].any()


def test_first_and_key_frames_are_intra(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "clip.mkv", moving_square(12, 64, 96), codec="libx265", options={"g": "5"}
    )
    with open_video(path) as video:
        keys = np.flatnonzero(video.index.is_key)
        assert len(keys) > 1
        for frame in video.frames():
            assert frame.motion_ref.any() == (frame.index not in keys)


def test_residual_is_small_where_prediction_holds(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "clip.mkv", panning(6, 96, 128, (2, 4)), codec="ffv1", options={"g": "50"}
    )
    with open_video(path) as video:
        before, frame = video.frames([3, 4])
    difference = np.abs(frame.luma().astype(int) - before.luma()).mean()
    assert np.abs(frame.residual_y[16:-16, 16:-16]).mean() < 0.1 * difference
