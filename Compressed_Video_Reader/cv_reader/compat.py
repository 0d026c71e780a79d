"""The calls of the reference reader, for code that was written for it.

What differs, on purpose:

- ``residual`` is the true luma residual, 128 + r clipped to 0..255, the same in all three channels.
  The reference gives a picture in which old residuals and predictions linger. The exact values
  (int16, unclipped) come with ``cv_reader.open_video``.
- ``motion_vector`` is exact before it is cut to whole pixels, for HEVC too, and belongs to the
  picture it comes with. Both lists are filled where the picture uses them.
- Frames are identified by their packet, not by time x frame rate: ``frame_idx`` is right for
  variable frame rates.
- With ``seek_to_frame``, ``decode_len`` counts from that frame, not from the key frame before it.
- All formats are read; where nothing exact can be had the best there is (``cv_reader doctor``).
- ``width`` and ``height`` count samples, as all maps here do, where these are not square.
- Errors are exceptions of ``cv_reader.errors``, raised after the frames that could be read.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.media.frames import CELL_PX, CodecFrame, VideoIndex
from cv_reader.reader import open_video

_NEUTRAL = 128
_QPELS_PER_PIXEL = 4

FrameDict = dict[str, Any]


def read_video(
    path: str | os.PathLike[str], without_residual: int = 0, max_frames: int = 0
) -> list[FrameDict]:
    """Return all frames of a video, in memory at once; prefer ``read_video_cb`` or ``open_video``.

    Args:
        without_residual: leave ``residual`` out if not 0.
        max_frames: stop after so many; 0 or less = all.

    Returns:
        Per frame: width, height, frame_idx, pict_type, codec_name, motion_vector int32
        (H // 4, W // 4, 4) of whole pixels (L0 x, L0 y, L1 x, L1 y) from the block to its
        reference, and residual uint8 (H, W, 3).

    Raises:
        VideoError: the video cannot be read.
    """
    frames: list[FrameDict] = []
    read_video_cb(path, frames.append, without_residual, max_frames)
    return frames


def read_video_cb(
    path: str | os.PathLike[str],
    callback: Callable[[FrameDict], object],
    without_residual: int = 0,
    max_frames: int = 0,
    frame_ids: Sequence[int] | None = None,
    seek_to_frame: int = -1,
    decode_len: int = 0,
) -> None:
    """Call back with each frame, in presentation order; memory does not grow.

    Args:
        callback: gets what ``read_video`` returns per frame, and ``residual_y`` uint8 (H, W);
            returning False ends the reading.
        frame_ids: only these frames, once per time that they are named; those that the video does
            not have are left out.
        seek_to_frame: begin here, if 0 or more.
        decode_len: with ``seek_to_frame``, look at no more than so many frames from there.

    Raises:
        VideoError: the video cannot be read.
    """
    with open_video(path) as video:
        index = video.index
        first = max(seek_to_frame, 0)
        last = min(first + decode_len, index.num_frames) if decode_len > 0 else index.num_frames
        ids = range(first, last)
        if frame_ids is not None:
            ids = sorted(number for number in frame_ids if first <= number < last)
        limit = max_frames if max_frames > 0 else len(ids)
        for _, frame in zip(range(limit), video.at(ids), strict=False):
            if callback(_as_dict(frame, index, with_residual=not without_residual)) is False:
                return


def _as_dict(frame: CodecFrame, index: VideoIndex, *, with_residual: bool) -> FrameDict:
    content: FrameDict = {
        "width": index.num_columns,
        "height": index.num_rows,
        "frame_idx": frame.index,
        "pict_type": frame.pict_type,
        "codec_name": index.codec_name,
        "motion_vector": _whole_pixels(frame, index),
    }
    if with_residual and frame.residual_y is not None:
        centred = np.clip(frame.residual_y, -_NEUTRAL, _NEUTRAL - 1) + _NEUTRAL
        luma = centred.astype(np.uint8)
        content["residual_y"] = luma
        content["residual"] = np.repeat(luma[..., None], 3, axis=2)
    return content


def _whole_pixels(frame: CodecFrame, index: VideoIndex) -> NDArray[np.int32]:
    """int32 (H // 4, W // 4, 4): quarter pixels with their fraction cut off, towards 0."""
    rows, columns = index.num_rows // CELL_PX, index.num_columns // CELL_PX
    if frame.motion is None:
        return np.zeros((rows, columns, 4), np.int32)
    exact = frame.motion[:, :rows, :columns].astype(np.int32)
    whole = np.sign(exact) * (np.abs(exact) // _QPELS_PER_PIXEL)
    return np.ascontiguousarray(np.moveaxis(whole, 0, 2)).reshape(rows, columns, 4)
