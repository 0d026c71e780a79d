"""Uniform frames of a raw video: the one sampling of training and evaluation."""

from pathlib import Path

from PIL import Image

from cv_reader import open_video
from llava.visual.positions import uniform_slots


def read_uniform_frames(path: str | Path, num_frames: int) -> list[Image.Image]:
    """Read the frames floor(linspace(0, N - 1, num_frames)) of a video of N frames.

    Returns:
        ``num_frames`` RGB images in order; a video shorter than that repeats frames.

    Raises:
        ValueError: if the video cannot be read or ``num_frames`` is below 1.
    """
    with open_video(path) as video:
        ids = uniform_slots(num_frames, video.index.num_frames).tolist()
        frames = video.frames(sorted(set(ids)), signals=False)
        images = {frame.index: Image.fromarray(frame.rgb()) for frame in frames}
    return [images[index] for index in ids]
