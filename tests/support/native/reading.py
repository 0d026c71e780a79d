"""Reading through the native backend, as the proofs do."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cv_reader import open_video
from cv_reader.errors import CvReaderError, UnsupportedVideoError
from cv_reader.media.frames import CodecFrame

MAPS = ("motion", "motion_ref", "residual_y", "bits", "qp")


def read(
    path: Path,
    ids: Sequence[int] | None = None,
    *,
    num_threads: int = 1,
    signals: bool = True,
) -> list[CodecFrame]:
    """Frames by the native backend."""
    with open_video(path, backend="native", num_threads=num_threads) as video:
        return list(video.frames(ids, signals=signals))


def read_or_refusal(path: Path) -> list[CodecFrame] | str:
    """Frames with signals, or why the reader refuses to give signals."""
    try:
        with open_video(path, backend="native") as video:
            frames = list(video.frames())
            if any(frame.motion is None for frame in frames):
                assert video.exactness["motion"] != "exact"
                return f"exactness {video.exactness}"
            return frames
    except UnsupportedVideoError as error:
        return error.reason


def read_pixels(path: Path) -> list[CodecFrame]:
    """Frames without signals, by the first backend that reads a file refused by the native one."""
    try:
        return read(path, signals=False)
    except UnsupportedVideoError:
        with open_video(path) as video:
            return list(video.frames(signals=False))


def read_until_error(path: Path, **settings: int) -> tuple[list[CodecFrame], CvReaderError | None]:
    """The frames that come out, and the error of this package that ended the reading, if any."""
    frames: list[CodecFrame] = []
    try:
        with open_video(path, backend="native", **settings) as video:
            for frame in video.frames():
                frames.append(frame)
    except CvReaderError as error:
        return frames, error
    return frames, None


def differing_fields(first: CodecFrame, second: CodecFrame) -> list[str]:
    """Names of all fields in which two frames differ, pixels included."""
    plain = ("index", "pts_seconds", "duration_seconds", "pict_type", "is_key", "packet_bytes")
    names = [name for name in plain if getattr(first, name) != getattr(second, name)]
    for name in MAPS:
        if not _equal(getattr(first, name), getattr(second, name)):
            names.append(name)
    if not np.array_equal(first.luma(), second.luma()):
        names.append("luma")
    if not np.array_equal(first.rgb(), second.rgb()):
        names.append("rgb")
    return names


def _equal(first: NDArray[np.generic] | None, second: NDArray[np.generic] | None) -> bool:
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)
