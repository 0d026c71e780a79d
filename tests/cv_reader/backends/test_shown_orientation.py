"""Every display matrix of right angles, mirrored or not, is applied to pixels, maps and vectors."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from cv_reader import open_video
from cv_reader.backends import native
from cv_reader.media.frames import CodecFrame
from support.media import panning, set_mp4_rotation, write_video

BACKENDS = ["pyav", "estimated", *(["native"] if native.is_installed() else [])]
MATRICES = [(degrees, mirrored) for mirrored in (False, True) for degrees in (0, 90, 180, 270)][1:]


def _turned(array: np.ndarray, degrees: int, is_mirrored: bool) -> np.ndarray:
    """Rows and columns (the first two axes) mirrored left to right, then turned clockwise."""
    return np.rot90(array[:, ::-1] if is_mirrored else array, -degrees // 90)


def _turned_vectors(motion: np.ndarray, degrees: int, is_mirrored: bool) -> np.ndarray:
    """(2, h, w, 2): the places and the vectors (x, y), y down."""
    places = np.moveaxis(_turned(np.moveaxis(motion, 0, 2), degrees, is_mirrored), 2, 0)
    x, y = (-1 if is_mirrored else 1) * places[..., 0], places[..., 1]
    turned = {0: (x, y), 90: (-y, x), 180: (-x, -y), 270: (y, -x)}[degrees]
    return np.stack(turned, axis=-1)


def _frames(path: Path, backend: str) -> list[CodecFrame]:
    with open_video(path, backend=backend) as video:
        return list(video.frames())


@pytest.fixture(scope="module", params=[(64, 96), (51, 86)], ids=["whole cells", "odd size"])
def upright(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    # Colour at full resolution: odd sides then need no rule for half a sample.
    return write_video(
        folder / "upright.mp4", panning(5, *request.param, velocity=(2, 4)), pixel_format="yuv444p"
    )


@pytest.mark.parametrize(("degrees", "is_mirrored"), MATRICES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_pixels_maps_and_vectors_are_turned(
    upright: Path, backend: str, degrees: int, is_mirrored: bool, tmp_path: Path
) -> None:
    path = Path(shutil.copy(upright, tmp_path / "clip.mp4"))
    set_mp4_rotation(path, degrees, is_mirrored=is_mirrored)
    before, after = _frames(upright, backend), _frames(path, backend)
    for plain, shown in zip(before, after, strict=True):
        assert plain.motion is not None and shown.motion is not None
        assert plain.motion_ref is not None and shown.motion_ref is not None
        for name in ("luma", "rgb"):
            expected = _turned(getattr(plain, name)(), degrees, is_mirrored)
            np.testing.assert_array_equal(getattr(shown, name)(), expected)
        np.testing.assert_array_equal(
            shown.residual_y, _turned(plain.residual_y, degrees, is_mirrored)
        )
        if plain.luma().shape == (64, 96):  # cells before and after cover the same pixels
            expected = _turned_vectors(plain.motion, degrees, is_mirrored)
            np.testing.assert_array_equal(shown.motion, expected)
            expected = _turned(np.moveaxis(plain.motion_ref, 0, 2), degrees, is_mirrored)
            np.testing.assert_array_equal(shown.motion_ref, np.moveaxis(expected, 2, 0))
            for name in ("bits", "qp"):
                if getattr(plain, name) is not None:
                    expected = _turned(getattr(plain, name), degrees, is_mirrored)
                    np.testing.assert_array_equal(getattr(shown, name), expected)
    assert sum(int((frame.motion != 0).sum()) for frame in after if frame.motion is not None) > 100


def test_the_index_and_the_facts_say_it(upright: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(upright, tmp_path / "clip.mp4"))
    set_mp4_rotation(path, 90, is_mirrored=True)
    with open_video(path) as video:
        assert video.index.rotation_degrees == 90
        assert video.index.shown["is_mirrored"] is True
        assert video.index.display.orientation == (90, True)
