"""Native residuals of intra pictures are exact: each block follows from its neighbours."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cv_reader import CodecFrame
from support.native.clips import FILTERED, TIER2, UNFILTERED, Kind, make
from support.native.intra_h264 import explained_macroblocks
from support.native.intra_hevc import IntraOracle
from support.native.reading import read_or_refusal
from support.native.stock import decoded_luma

Clip = Callable[[str, Kind], Path]

H264 = [
    "h264-p",
    "h264-cavlc",
    "h264-cavlc-8x8",
    "h264-matrices",
    "h264-fine",
    "h264-no-weights",
    "h264-lossless",
]
HEVC = [
    "hevc-p",
    "hevc-ctu16",
    "hevc-signhide-off",
    "hevc-min-cu16",
    "hevc-filtered",
    "hevc-lossless",
]
KINDS = {**UNFILTERED, **FILTERED, **TIER2}


@pytest.mark.usefixtures("native_reader")
@pytest.mark.parametrize("name", H264)
def test_h264_intra_blocks_follow_from_their_neighbours(name: str, clip: Clip) -> None:
    checked = 0
    for frame, picture in _frames_and_pictures(name, clip):
        assert frame.motion_ref is not None and frame.residual_y is not None
        inter = (frame.motion_ref != 0).any(0).reshape(6, 4, 8, 4)
        intra = ~inter.any((1, 3))
        if intra.any():
            explained = explained_macroblocks(picture, frame.residual_y)
            assert explained[intra].all(), (frame, np.argwhere(intra & ~explained)[:4].tolist())
            checked += int(intra.sum())
    assert checked >= 48


@pytest.mark.usefixtures("native_reader")
@pytest.mark.parametrize("name", HEVC)
def test_hevc_intra_blocks_follow_from_their_neighbours(name: str, clip: Clip) -> None:
    checked = 0
    for frame, picture in _frames_and_pictures(name, clip):
        assert frame.motion_ref is not None and frame.residual_y is not None
        intra = ~(frame.motion_ref != 0).any(0)
        explained = _hevc_oracle(name, picture, frame.residual_y, intra).explained()
        assert explained[intra].all(), (frame, np.argwhere(intra & ~explained)[:4].tolist())
        checked += int(intra.sum())
    assert checked >= 24 * 32


def _frames_and_pictures(name: str, clip: Clip) -> list[tuple[CodecFrame, np.ndarray]]:
    """Return the frames of a clip, each with the stock decoder's luma; skip what is refused."""
    path = clip(name, KINDS[name])
    pictures = decoded_luma(path, skip_loop_filter=True)
    frames = read_or_refusal(path)
    if isinstance(frames, str):
        assert name in TIER2
        pytest.skip(f"refused: {frames}")
    return [(frame, pictures[frame.index]) for frame in frames]


def _hevc_oracle(
    name: str, picture: np.ndarray, residual: np.ndarray, intra: np.ndarray
) -> IntraOracle:
    unit_px = 16 if "ctu=16" in KINDS[name].params else 32
    return IntraOracle(
        picture=picture.astype(np.int64), residual=residual, is_intra=intra, unit_px=unit_px
    )


COARSE_H264 = "no-deblock=1:bframes=0:8x8dct=1:partitions=all:subme=9:psy=0:qp=51:keyint=1"
COARSE_HEVC = "no-deblock=1:no-sao=1:bframes=0:rd=4:psy-rd=0:qp=51:keyint=1:ctu=32:min-cu-size=8"


def test_stock_h264_pictures_consist_of_intra_predictions(tmp_path: Path) -> None:
    path = make(Kind(codec="libx264", params=COARSE_H264), tmp_path / "clip.mkv", 2)
    share = [
        explained_macroblocks(p, np.zeros_like(p, np.int16)).mean() for p in decoded_luma(path)
    ]
    assert np.mean(share) > 0.3, share


def test_stock_hevc_pictures_consist_of_intra_predictions(tmp_path: Path) -> None:
    path = make(Kind(codec="libx265", params=COARSE_HEVC), tmp_path / "clip.mkv", 2)
    share = []
    for picture in decoded_luma(path):
        zero, cells = np.zeros_like(picture, np.int16), np.ones((24, 32), np.bool_)
        share.append(_hevc_oracle("hevc-p", picture, zero, cells).explained().mean())
    assert np.mean(share) > 0.3, share
