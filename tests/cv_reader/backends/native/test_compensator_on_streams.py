"""The motion compensator against real decoders: blocks without residual must match exactly."""

from pathlib import Path

import numpy as np
import pytest

from support.native.clips import Kind, make
from support.native.compensator import Compensator, hevc_phase
from support.native.stock import decoded_luma, exported_motion

COARSE = "no-deblock=1:weightp=0:scenecut=0:qp=40:subme=9:me=umh:8x8dct=1:partitions=all"


@pytest.mark.parametrize(
    ("params", "implicit"),
    [
        ("ref=1:bframes=0", False),
        ("ref=1:bframes=1:b-adapt=0:weightb=0", False),
        ("ref=1:bframes=2:b-adapt=0:b-pyramid=none:weightb=1", True),
    ],
    ids=["p", "b", "implicit-b"],
)
def test_h264_vectors_of_stock_ffmpeg_predict_the_picture(
    params: str, implicit: bool, tmp_path: Path
) -> None:
    path = make(Kind(codec="libx264", params=f"{COARSE}:{params}"), tmp_path / "clip.mkv")
    pictures = dict(enumerate(decoded_luma(path)))
    exported = list(exported_motion(path))
    anchors = [index for index, motion in enumerate(exported) if motion.pict_type != "B"]
    compensator = Compensator(codec="h264", references=pictures, implicit_weights=implicit)
    cells, matching = np.zeros((4, 4), int), np.zeros((4, 4), int)
    for index, motion in enumerate(exported):
        past = max((at - index for at in anchors if at < index), default=0)
        future = min((at - index for at in anchors if at > index), default=0)
        distance = np.where(motion.direction > 0, future, past * (motion.direction < 0))
        predicted, inter = compensator.predict(index, motion.vectors, distance.astype(np.int16))
        equal = ((predicted == pictures[index]) & inter).reshape(24, 4, 32, 4).all((1, 3))
        for vectors, used in zip(motion.vectors, motion.direction != 0, strict=True):
            phase = (vectors[..., 1] & 3, vectors[..., 0] & 3)
            np.add.at(cells, phase, used)
            np.add.at(matching, phase, used & equal)
    assert (cells > 8).all()
    assert (matching > 0.5 * cells).all(), matching / cells


def test_x265_pictures_consist_of_hevc_predictions(tmp_path: Path) -> None:
    """Searches every vector of a small range, since stock FFmpeg exports none for HEVC."""
    params = "no-deblock=1:no-sao=1:no-weightp=1:bframes=0:ref=1:qp=46:rd=3:subme=7:min-cu-size=8"
    kind = Kind(codec="libx265", params=params)
    pictures = decoded_luma(make(kind, tmp_path / "clip.mkv"))
    found = np.zeros((4, 4, len(pictures) - 1, 12, 16), bool)
    for index in range(1, len(pictures)):
        reference = np.pad(pictures[index - 1].astype(np.int32), 16, mode="edge")
        for y, x in np.ndindex(4, 4):
            plane = np.clip((hevc_phase(reference, x, y) + 32) >> 6, 0, 255)
            found[y, x, index - 1] = _textured_blocks_found(plane, pictures[index])
    fractional = found.copy()
    fractional[0, 0] = False

    assert fractional.any((0, 1)).mean() > 0.05
    assert (found.sum((2, 3, 4)) > 2).sum() > 8, "too few phases were seen"


def _textured_blocks_found(
    plane: np.ndarray, picture: np.ndarray, border: int = 16, reach: int = 3
) -> np.ndarray:
    """Which 8x8 blocks of a picture appear in a plane within a reach, bool (H / 8, W / 8)."""
    height, width = picture.shape
    tiles = (height // 8, 8, width // 8, 8)
    found = np.zeros(tiles[::2], bool)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            moved = plane[border + dy :, border + dx :][:height, :width]
            found |= (moved == picture).reshape(tiles).all((1, 3))
    return found & (np.ptp(picture.reshape(tiles), axis=(1, 3)) > 8)
