"""Parameters that a container changes on the way: noticed, and never decoded wrongly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cv_reader import open_video
from cv_reader.backends import native
from cv_reader.errors import UnsupportedVideoError
from cv_reader.media.container_header import FLV, MP4, read_header
from cv_reader.media.index import scan
from support.joined import join_flv, join_mp4
from support.media import panning, write_video

PARAMETERS = {
    "libx264": ("x264-params", ["bframes=0:cabac=1", "bframes=0:cabac=0:ref=3"]),
    "libx265": ("x265-params", ["bframes=0:ctu=64", "bframes=0:ctu=16:max-tu-size=16:ref=3"]),
}
JOIN: dict[str, Callable[[Path, Path, Path], Path]] = {
    "flv": lambda first, second, target: join_flv(first, second, target, 240),
    "mp4": join_mp4,
}


def _clips(folder: Path, codec: str, suffix: str) -> list[Path]:
    name, settings = PARAMETERS[codec]
    return [
        write_video(
            folder / f"{number}.{suffix}",
            panning(6, 64, 96, seed=number),
            codec=codec,
            options={name: params},
        )
        for number, params in enumerate(settings)
    ]


def _luma(path: Path, backend: str, *, signals: bool) -> list[np.ndarray]:
    with open_video(path, backend=backend) as video:
        return [frame.luma() for frame in video.frames(signals=signals)]


@pytest.mark.parametrize("suffix", JOIN)
@pytest.mark.parametrize("codec", PARAMETERS)
def test_changes_are_noticed_and_pictures_are_right(
    codec: str, suffix: str, tmp_path: Path
) -> None:
    clips = _clips(tmp_path, codec, suffix)
    joined = JOIN[suffix](*clips, tmp_path / f"joined.{suffix}")
    assert scan(joined).changes_parameters
    assert not any(scan(clip).changes_parameters for clip in clips)
    expected = [luma for clip in clips for luma in _luma(clip, "estimated", signals=False)]
    for backend in ("auto", "estimated"):
        shown = _luma(joined, backend, signals=backend == "auto")
        assert all(map(np.array_equal, shown, expected)) and len(shown) == 12
    if native.is_installed():
        with pytest.raises(UnsupportedVideoError, match="parameters"):
            open_video(joined, backend="native")


@pytest.mark.parametrize("suffix", JOIN)
def test_the_same_parameters_again_are_no_change(suffix: str, tmp_path: Path) -> None:
    clip = _clips(tmp_path, "libx264", suffix)[0]
    joined = JOIN[suffix](clip, clip, tmp_path / f"joined.{suffix}")
    assert not scan(joined).changes_parameters


@pytest.mark.parametrize("length", [40, 200, 600])
def test_cut_headers_are_survived(length: int, tmp_path: Path) -> None:
    """The scan meets them only in files that FFmpeg opens; the search itself has no such luck."""
    for suffix, container in (("flv", FLV), ("mp4", MP4)):
        clip = _clips(tmp_path, "libx264", suffix)[0]
        data = clip.read_bytes()
        start = data.index(b"moov") - 4 if suffix == "mp4" else 0
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(data[start:][:length])
        facts = read_header(str(cut), container)
        assert not facts.is_encrypted and not facts.changes_parameters
