"""The records that a reader gives: what they refuse, and what they print."""

from typing import Any

import numpy as np
import pytest

from cv_reader import CodecFrame, VideoIndex
from cv_reader.media.frames import FrameReach


class _TinyPicture:
    """A 6 x 10 picture."""

    height_px = 6
    width_px = 10
    num_rows = 6
    num_columns = 10

    def rgb(self, size_px: tuple[int, int] | None = None) -> np.ndarray:
        return np.zeros((6, 10, 3), np.uint8)

    def luma(self) -> np.ndarray:
        return np.zeros((6, 10), np.uint8)


def _tiny_maps() -> dict[str, Any]:
    return {
        "motion": np.zeros((2, 2, 3, 2), np.int16),
        "motion_ref": np.zeros((2, 2, 3), np.int16),
        "residual_y": np.zeros((6, 10), np.int16),
    }


def _tiny_frame(**changes: Any) -> CodecFrame:
    facts: dict[str, Any] = {
        "index": 3,
        "pts_seconds": 0.12,
        "duration_seconds": 0.04,
        "pict_type": "P",
        "is_key": False,
        "packet_bytes": 17,
        "picture": _TinyPicture(),
    }
    return CodecFrame(**{**facts, **_tiny_maps(), **changes})


def test_repr_shows_shapes() -> None:
    text = repr(_tiny_frame())
    assert "motion (2, 2, 3, 2)" in text
    assert "residual_y (6, 10)" in text
    assert "10x6" in text


def test_maps_may_be_absent_together() -> None:
    frame = _tiny_frame(motion=None, motion_ref=None, residual_y=None)
    assert frame.motion is None
    with pytest.raises(ValueError, match="together"):
        _tiny_frame(motion=None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("motion", np.zeros((2, 1, 2, 2), np.int16)),
        ("motion", np.zeros((2, 2, 3, 2), np.int32)),
        ("motion_ref", np.zeros((2, 3, 2), np.int16)),
        ("residual_y", np.zeros((6, 9), np.int16)),
        ("bits", np.zeros((1, 1), np.float64)),
        ("qp", np.zeros((2, 1), np.uint8)),
    ],
)
def test_wrong_maps_are_refused_by_name(field: str, value: np.ndarray) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be"):
        _tiny_frame(**{field: value})


def test_wrong_picture_type_is_refused() -> None:
    with pytest.raises(ValueError, match="pict_type"):
        _tiny_frame(pict_type="X")


def test_frame_is_frozen() -> None:
    with pytest.raises(AttributeError):
        _tiny_frame().index = 4  # type: ignore[misc]


def _tiny_index(**changes: Any) -> VideoIndex:
    facts: dict[str, Any] = {
        "path": "clip.mp4",
        "codec_name": "h264",
        "width_px": 10,
        "height_px": 6,
        "num_columns": 10,
        "num_rows": 6,
        "rotation_degrees": 0,
        "num_frames": 2,
        "pts_seconds": np.array([0.0, 0.04]),
        "is_key": np.array([True, False]),
        "packet_bytes": np.array([9, 4], np.int32),
        "duration_seconds": 0.08,
        "frame_rate": 25.0,
        "size_bytes": 99,
        "mtime_ns": 1,
        "reach": FrameReach(
            start=np.zeros(2, np.int32),
            references=np.array([1, 2], np.int32),
            is_reference=np.ones(2, np.bool_),
        ),
    }
    return VideoIndex(**{**facts, **changes})


def test_index_arrays_have_one_entry_per_frame_and_are_read_only() -> None:
    with pytest.raises(ValueError, match="is_key must be"):
        _tiny_index(is_key=np.array([True]))
    with pytest.raises(ValueError, match="read-only"):
        _tiny_index().pts_seconds[0] = 1.0


def test_index_repr_is_short() -> None:
    assert "2 frames" in repr(_tiny_index())
    assert "array" not in repr(_tiny_index())
