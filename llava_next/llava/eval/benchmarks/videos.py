"""Find the videos of a benchmark, name them by key, and estimate the size of their assets."""

import os
from collections.abc import Sequence
from pathlib import Path

from cv_reader.assets import AssetConfig, evaluation_key
from llava.eval.benchmarks.table import VIDEO_SUFFIXES
from llava.files import write_json_lines

_JPEG_BYTES_PER_PIXEL = 0.5
"""Of a mosaic at quality 95: the most that detailed videos took."""
_TABLE_BYTES_PER_CELL = 3 * 4 + 8
"""positions_thw.npy (three int32) and visible_indices.npy (int64)."""
_META_BYTES = 8192


def find_videos(folder: Path) -> list[Path]:
    """Return every video below a folder, sorted; links are followed, suffixes in any case."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name)
            for name in names
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith(".")
        ]
    return sorted(found)


def name_videos(videos: Sequence[Path], root: Path) -> dict[str, Path]:
    """Return the videos by key.

    Of files that differ only in the suffix the first gets the plain key; the others keep their
    suffix in the key.
    """
    named: dict[str, Path] = {}
    for video in videos:
        key = evaluation_key(video, root)
        if key in named:
            key = evaluation_key(video.with_name(f"{video.name}.again"), root)
        named[key] = video
    return named


def write_listing(named: dict[str, Path], path: Path) -> None:
    """Write the asset tool's input atomically."""
    write_json_lines(path, ({"video": str(video), "key": key} for key, video in named.items()))


def asset_bytes(config: AssetConfig) -> int:
    """Return roughly the most bytes that one asset takes on disk."""
    pixels = config.num_images * config.square_size**2
    cells = config.num_images * (config.square_size // config.patch_size) ** 2
    return int(pixels * _JPEG_BYTES_PER_PIXEL) + cells * _TABLE_BYTES_PER_CELL + _META_BYTES
