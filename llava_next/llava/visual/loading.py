"""Files to visual segments: images, frames, raw videos, mosaics with positions, codec assets.

The one way from a path to what the model takes, for training, evaluation and chat. The ``count_``
functions give the same numbers of language tokens from file headers alone.

Axis letters: F frames, G mosaics, N rows of positions.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cv_reader.assets import read_asset, read_positions
from cv_reader.remote.cache import default_cache, in_use, keep_within
from cv_reader.remote.videos import RemoteReading
from cv_reader.shards import file_bytes, is_plain, open_file
from llava.constants import Expansion
from llava.visual.batch import VisualSegment
from llava.visual.config import VisualConfig
from llava.visual.pictures import Picture, PictureBytes, load_image, read_image_size
from llava.visual.segments import (
    check_blocks,
    codec_visual,
    frames_visual,
    image_visuals,
    token_slots,
)
from llava.visual.sizes import plan_images
from llava.visual.time_marks import NO_TIMES, expansions, slot_seconds, time_marks
from llava.visual.video_process import UniformFrames, read_uniform_frames, read_within
from onevision_encoder.patches import uniform_slots

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".gif", ".tif", ".tiff"}
)
_HEADER_BYTES = 4096


def is_video(path: str) -> bool:
    """Return whether a path names a video: neither an image by its suffix nor a folder."""
    return Path(path).suffix.lower() not in IMAGE_SUFFIXES and not os.path.isdir(path)


def load_images(paths: Sequence[Picture], config: VisualConfig) -> list[VisualSegment]:
    """Read the images of one sample, each its own segment.

    Raises:
        ValueError: if a file is missing, damaged or has no size that fits; the message names it.
    """
    return image_visuals([load_image(path) for path in paths], config)


def load_frames(paths: Sequence[Picture], config: VisualConfig) -> VisualSegment:
    """Read the uniformly sampled frames of one video, given as F image files in order."""
    return frames_visual(paths, config)


def load_frame_folder(folder: Path, num_frames: int, config: VisualConfig) -> VisualSegment:
    """Read uniform frames of a video that is a folder of images, sorted by the numbers in names.

    Raises:
        ValueError: if the folder holds no images, or one of them cannot be read.
    """
    paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise ValueError(f"{folder} holds no images, so it is no folder of a video's frames")
    paths.sort(key=natural_order)
    slots = uniform_slots(num_frames, len(paths)).tolist()
    images = {slot: load_image(paths[slot]) for slot in sorted(set(slots))}
    return frames_visual([images[slot] for slot in slots], config)


def natural_order(path: Path) -> list[tuple[int, str]]:
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
    frames = _read_frames(path, num_frames, time_limit_seconds, sampling)
    assert frames.pixels is not None
    images = [Image.fromarray(frame) for frame in frames.pixels]
    return frames_visual(images, config, seconds=frames.seconds)


def _read_frames(
    path: str | Path,
    num_frames: int,
    time_limit_seconds: float | None,
    sampling: str,
    *,
    with_pixels: bool = True,
) -> UniformFrames:
    # Whole, as the process that reads with a limit of time sees no other file.
    with RemoteReading(whole_mib=math.inf).local_video(Path(path)) as local:
        if time_limit_seconds is None:
            return read_uniform_frames(local, num_frames, sampling, with_pixels=with_pixels)
        return read_within(local, num_frames, time_limit_seconds, sampling, with_pixels=with_pixels)


def load_mosaics(images: Sequence[Picture], positions: Path, config: VisualConfig) -> VisualSegment:
    """Read the G mosaics of a codec clip and the file of their positions as one segment.

    Raises:
        ValueError: if a file is missing or damaged, or they do not belong together.
    """
    rows = read_positions(positions, num_images=len(images))
    seconds = slot_seconds(positions.parent) if config.time_marks else None
    return codec_visual(images, rows, config, seconds=seconds)


def load_asset(folder: str | Path, config: VisualConfig) -> VisualSegment:
    """Read a codec asset folder as one segment.

    Raises:
        ValueError: if a file is missing, damaged or breaks the contract of assets.
    """
    asset = read_asset(folder)
    seconds = slot_seconds(asset.folder) if config.time_marks else None
    return codec_visual(asset.images, asset.positions, config, seconds=seconds)


def load_kept(
    folder: Path, make: Callable[[], object], config: VisualConfig, cache: Path
) -> VisualSegment:
    """Make an asset of a cache, or see that it is up to date, and read it.

    The cache keeps the size of ``CV_READER_CACHE_GB``: assets that were used longest ago go.

    Args:
        folder: of the asset, ``<cache>/<fingerprint>/assets/<key>``.
        make: makes the asset where it is not there, or outdated.
        config: the preprocessing settings.
        cache: the folder of all assets that are computed.

    Raises:
        ValueError: as ``make`` and ``load_asset``.
    """
    while True:
        was_there = folder.is_dir()
        make()
        # Another process may have needed the room.
        with in_use(folder) as is_there:
            if is_there:
                if not was_there:
                    keep_within(cache, default_cache().max_bytes)
                return load_asset(folder, config)


def count_images(paths: Sequence[Picture], config: VisualConfig) -> list[int]:
    """Return the language tokens of each image of a sample, from the images' headers.

    Raises:
        ValueError: if a file is missing, its header damaged, or a size does not fit.
    """
    plans = plan_images([read_image_size(path) for path in paths], config)
    return [plan.rows * plan.columns // config.patches_per_token for plan in plans]


def count_stack(num_frames: int, config: VisualConfig) -> list[Expansion]:
    """Return the language tokens of each frame of a stack of images.

    Raises:
        ValueError: if time marks are asked for, which need a video.
    """
    if config.time_marks:
        raise ValueError(NO_TIMES)
    return [config.patches_per_side**2 // config.patches_per_token] * num_frames


def count_video(
    path: Path,
    num_frames: int,
    config: VisualConfig,
    *,
    time_limit_seconds: float | None = None,
    sampling: str = "uniform",
) -> list[Expansion]:
    """Return what the placeholder of each frame of a raw video becomes; see ``load_video``.

    The file is opened for time marks alone, and nothing is decoded but its first picture.

    Raises:
        ValueError: if times are needed, and the video cannot be read; the message names it.
    """
    tokens = config.patches_per_side**2 // config.patches_per_token
    if not config.time_marks:
        return [tokens] * num_frames
    frames = _read_frames(path, num_frames, time_limit_seconds, sampling, with_pixels=False)
    slots: list[int] = uniform_slots(num_frames, config.virtual_frames).tolist()
    seconds = dict(zip(slots, frames.seconds, strict=True))
    marks = time_marks([slot for slot in slots for _ in range(tokens)], seconds)
    return expansions([tokens] * num_frames, marks)


def count_mosaics(
    images: Sequence[Picture], positions: Path, config: VisualConfig
) -> list[Expansion]:
    """Return what the placeholder of each mosaic becomes, from the header of the positions.

    Where patches are merged, the positions are read to check that they may be; for time marks, they
    are read for the runs of equal t.

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
    tokens = [cells // config.patches_per_token] * len(images)
    if config.merge_side_patches == 1 and not config.time_marks:
        return [*tokens]
    read = read_positions(positions, num_images=len(images))
    check_blocks(read, len(images), config)
    if not config.time_marks:
        return [*tokens]
    slots = token_slots(read[:, 0], len(images), config)
    return expansions(tokens, time_marks(slots, slot_seconds(positions.parent)))


def check_not_empty(paths: Sequence[Picture]) -> None:
    """Check that files exist and are not empty, without opening them.

    Raises:
        ValueError: naming the first that is not.
    """
    for path in paths:
        try:
            size = _size(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        if not size:
            raise ValueError(f"{path} cannot be read: the file is empty")


def _size(path: Picture) -> int:
    """Return the bytes of a picture's file."""
    if isinstance(path, PictureBytes):
        return len(path.content)
    return path.stat().st_size if is_plain(path) else file_bytes(path)


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
