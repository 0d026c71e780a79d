"""Files to visual segments: images, frames, raw videos, mosaics with positions, codec assets.

The one way from a path to what the model takes, for training, evaluation and chat. The ``count_``
functions give the same numbers of language tokens from file headers alone.

Axis letters: F frames, G mosaics, N rows of positions.
"""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cv_reader.assets import read_asset, read_positions
from cv_reader.shards import file_bytes, is_in_shard, open_file
from llava.visual.batch import VisualSegment
from llava.visual.config import VisualConfig
from llava.visual.pictures import load_image, read_image_size
from llava.visual.segments import check_blocks, codec_visual, frames_visual, image_visual
from llava.visual.sizes import plan_images
from llava.visual.video_process import read_uniform_frames, read_within
from onevision_encoder.patches import uniform_slots

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_HEADER_BYTES = 4096


def is_video(path: str) -> bool:
    """Return whether a path names a video: neither an image by its suffix nor a folder."""
    return Path(path).suffix.lower() not in IMAGE_SUFFIXES and not os.path.isdir(path)


def load_images(paths: Sequence[Path], config: VisualConfig) -> list[VisualSegment]:
    """Read the images of one sample, each its own segment.

    Raises:
        ValueError: if a file is missing, damaged or has no size that fits; the message names it.
    """
    images = [load_image(path) for path in paths]
    plans = plan_images([image.size for image in images], config)
    return [image_visual(image, config, plan) for image, plan in zip(images, plans, strict=True)]


def load_frames(paths: Sequence[Path], config: VisualConfig) -> VisualSegment:
    """Read the uniformly sampled frames of one video, given as F image files in order."""
    return frames_visual([load_image(path) for path in paths], config)


def load_frame_folder(folder: Path, num_frames: int, config: VisualConfig) -> VisualSegment:
    """Read uniform frames of a video that is a folder of images, sorted by the numbers in names.

    Raises:
        ValueError: if the folder holds no images, or one of them cannot be read.
    """
    paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise ValueError(f"{folder} holds no images, so it is no folder of a video's frames")
    paths.sort(key=_natural)
    slots = uniform_slots(num_frames, len(paths)).tolist()
    images = {slot: load_image(paths[slot]) for slot in sorted(set(slots))}
    return frames_visual([images[slot] for slot in slots], config)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts frame_2 before frame_10, with and without leading zeros."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def load_video(
    path: str | Path,
    num_frames: int,
    config: VisualConfig,
    *,
    time_limit_seconds: float | None = None,
    sampling: str = "uniform",
) -> VisualSegment:
    """Read uniform frames of a raw video as one segment.

    Args:
        path: a local video file.
        num_frames: F; a video with fewer frames repeats some.
        config: the preprocessing settings.
        time_limit_seconds: end the reading after this time; None reads in this process, without
            a limit.
        sampling: ``uniform``, or ``cheap`` to move frames to near ones that cost little to reach.

    Raises:
        ValueError: if the video cannot be read, or not in time; the message names it.
    """
    if time_limit_seconds is None:
        frames = read_uniform_frames(path, num_frames, sampling)
    else:
        frames = read_within(path, num_frames, time_limit_seconds, sampling)
    return frames_visual([Image.fromarray(frame) for frame in frames], config)


def load_mosaics(images: Sequence[Path], positions: Path, config: VisualConfig) -> VisualSegment:
    """Read the G mosaics of a codec clip and the file of their positions as one segment.

    Raises:
        ValueError: if a file is missing or damaged, or they do not belong together.
    """
    rows = read_positions(positions, num_images=len(images))
    return codec_visual([load_image(path) for path in images], rows, config)


def load_asset(folder: str | Path, config: VisualConfig) -> VisualSegment:
    """Read a codec asset folder as one segment.

    Raises:
        ValueError: if a file is missing, damaged or breaks the contract of assets.
    """
    asset = read_asset(folder)
    return codec_visual([load_image(path) for path in asset.images], asset.positions, config)


def count_images(paths: Sequence[Path], config: VisualConfig) -> list[int]:
    """Return the language tokens of each image of a sample, from the images' headers.

    Raises:
        ValueError: if a file is missing, its header damaged, or a size does not fit.
    """
    plans = plan_images([read_image_size(path) for path in paths], config)
    return [plan.rows * plan.columns // config.patches_per_token for plan in plans]


def count_frames(num_frames: int, config: VisualConfig) -> list[int]:
    """Return the language tokens of each frame of a stack."""
    return [config.patches_per_side**2 // config.patches_per_token] * num_frames


def count_mosaics(images: Sequence[Path], positions: Path, config: VisualConfig) -> list[int]:
    """Return the language tokens of each mosaic, from the header of the positions.

    Where patches are merged, the positions are read to check that they may be.

    Raises:
        ValueError: if a file is missing or empty, or the positions cannot belong to the mosaics.
    """
    check_not_empty(images)
    rows = _count_rows(positions)
    cells, rest = divmod(rows, max(1, len(images)))
    if rest or not cells or math.isqrt(cells) ** 2 != cells:
        raise ValueError(
            f"{positions}: must have grid x grid rows for each of the {len(images)} mosaics, "
            f"got {rows} rows; make the asset again"
        )
    if config.merge_side_patches > 1:
        check_blocks(read_positions(positions, num_images=len(images)), len(images), config)
    return [cells // config.patches_per_token] * len(images)


def check_not_empty(paths: Sequence[Path]) -> None:
    """Check that files exist and are not empty, without opening them.

    Raises:
        ValueError: naming the first that is not.
    """
    for path in paths:
        try:
            size = file_bytes(path) if is_in_shard(path) else path.stat().st_size
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        if not size:
            raise ValueError(f"{path} cannot be read: the file is empty")


def _count_rows(path: Path) -> int:
    """Return N of a file of positions, integers (N, 3), without reading them."""
    read = np.lib.format
    try:
        with open_file(path) as file:
            version = read.read_magic(file)
            header = read.read_array_header_1_0 if version == (1, 0) else read.read_array_header_2_0
            shape, _, dtype = header(file, max_header_size=_HEADER_BYTES)
            missing = file.tell() + math.prod(shape) * dtype.itemsize - file_bytes(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}; make the asset again") from error
    if dtype.kind not in "iu" or len(shape) != 2 or shape[1] != 3 or missing > 0:
        raise ValueError(
            f"{path}: must be integers (N, 3), complete, got {dtype} {shape} with "
            f"{max(missing, 0)} bytes missing; make the asset again"
        )
    return int(shape[0])
