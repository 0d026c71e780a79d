"""The videos of a benchmark on disk: found, named by key, and what their assets will take."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from cv_reader.assets import AssetConfig, evaluation_key
from llava.eval.benchmarks.table import VIDEO_SUFFIXES

_JPEG_BYTES_PER_PIXEL = 0.5
"""Of a mosaic at quality 95: the most that detailed videos took."""
_TABLE_BYTES_PER_CELL = 3 * 4 + 8
"""positions_thw.npy (three int32) and visible_indices.npy (int64)."""
_META_BYTES = 8192


def find_videos(folder: Path) -> list[Path]:
    """Every video below a folder, links followed, sorted; suffixes in any case."""
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
    """Key to video. Files that differ in nothing but the suffix: the first has the plain key, the
    others keep the suffix in theirs."""
    named: dict[str, Path] = {}
    for video in videos:
        key = evaluation_key(video, root)
        if key in named:
            key = evaluation_key(video.with_name(f"{video.name}.again"), root)
        named[key] = video
    return named


def write_listing(named: dict[str, Path], path: Path) -> None:
    """Write the asset tool's input, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"video": str(video), "key": key}) for key, video in named.items()]
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(path)


def asset_bytes(config: AssetConfig) -> int:
    """What one asset takes at most on disk, roughly."""
    pixels = config.num_images * config.square_size**2
    cells = config.num_images * (config.square_size // config.patch_size) ** 2
    return int(pixels * _JPEG_BYTES_PER_PIXEL) + cells * _TABLE_BYTES_PER_CELL + _META_BYTES
