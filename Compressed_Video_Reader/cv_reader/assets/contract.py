"""Codec assets on disk: what they hold, how they are written, read and checked.

An asset is a folder: mosaics, ``positions_thw.npy`` int32 (N, 3), ``frame_ids.npy`` int32 (T,),
``meta.json``; evaluation assets also ``visible_indices.npy`` int64 (N,), t*grid^2 + h*grid + w.
Row ``m * grid^2 + r * grid + c`` of the positions is the origin (t, h, w) of the cell at row r,
column c of mosaic m. t is a slot of ``frame_ids``; h and w are cells of the padded square.

A folder is written beside its place and renamed into it (``files``): one that exists is complete.

Axis letters: N rows (num_images * grid^2), T slots, G mosaics.
"""

import hashlib
import json
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cv_reader.assets.names import evaluation_key
from cv_reader.errors import AssetError, StaleAssetError
from cv_reader.select.config import ALGORITHM_VERSION, AssetConfig

__all__ = [
    "Asset",
    "AssetConfig",
    "check_settings",
    "evaluation_key",
    "read_asset",
    "read_meta",
    "read_positions",
]

SCHEMA_VERSION = 1
META = "meta.json"
POSITIONS = "positions_thw.npy"
FRAME_IDS = "frame_ids.npy"
VISIBLE_INDICES = "visible_indices.npy"
MOSAIC_STEM = "mosaic"


@dataclass(frozen=True)
class Asset:
    """One checked asset.

    Attributes:
        folder: where it lies.
        images: the G mosaics, in order.
        positions: int32 (N, 3), rows (t, h, w).
        frame_ids: int32 (T,), the frame of the video behind each slot.
        meta: the content of ``meta.json``.
    """

    folder: Path
    images: tuple[Path, ...]
    positions: NDArray[np.int32]
    frame_ids: NDArray[np.int32]
    meta: dict[str, Any]


def read_asset(folder: str | Path, *, expected: AssetConfig | None = None) -> Asset:
    """Read an asset and check it against the contract; pixels are not decoded.

    Args:
        folder: the asset's folder.
        expected: the settings it must have been made with; None accepts any.

    Raises:
        AssetError: if a file is missing, unreadable or breaks the contract.
        StaleAssetError: if it was made with other settings than ``expected``.
    """
    folder = Path(folder)
    meta = read_meta(folder / META)
    if expected is not None:
        check_settings(meta, expected, folder)
    check_files(folder, meta)
    config = AssetConfig.from_dict(meta["cfg"], folder / META)
    images = _find_images(folder, meta, config)
    positions = read_positions(folder / POSITIONS, num_images=len(images))
    frame_ids = load_array(folder / FRAME_IDS)
    if frame_ids.dtype != np.int32 or frame_ids.shape != (config.sequence_length,):
        raise AssetError(
            f"{folder / FRAME_IDS}: must be int32 ({config.sequence_length},), "
            f"got {frame_ids.dtype} {frame_ids.shape}; make the asset again"
        )
    num_rows = len(images) * config.grid**2
    if positions.shape[0] != num_rows or positions[:, 0].max() >= config.sequence_length:
        raise AssetError(
            f"{folder / POSITIONS}: must hold {num_rows} rows with t below "
            f"{config.sequence_length}, got {positions.shape[0]} rows with t up to "
            f"{positions[:, 0].max()}; make the asset again"
        )
    return Asset(folder, images, positions, frame_ids, meta)


def _find_images(folder: Path, meta: dict[str, Any], config: AssetConfig) -> tuple[Path, ...]:
    stem = str(meta["image_stem"])
    count = count_images(meta, config, folder / META)
    images = tuple(folder / f"{stem}_{index:03d}.jpg" for index in range(count))
    for image in images:
        try:
            opened = Image.open(image)
        except OSError as error:
            raise AssetError(
                f"{image}: not a readable JPEG ({error}); make the asset again"
            ) from error
        size = opened.size
        opened.close()
        if size != (config.square_size, config.square_size):
            raise AssetError(
                f"{image}: must be {config.square_size} x {config.square_size} pixels, "
                f"got {size[0]} x {size[1]}; make the asset again"
            )
    return images


def count_images(meta: dict[str, Any], config: AssetConfig, where: object) -> int:
    """Return how many mosaics a selection fills; fewer than the budget where its length is free.

    Args:
        meta: content of ``meta.json``.
        config: its settings.
        where: names the source in errors.

    Raises:
        AssetError: if the recorded number cannot be.
    """
    count: Any = meta.get("num_images", config.num_images)
    least = 1 if config.has_free_length else config.num_images
    if not isinstance(count, int) or not least <= count <= config.num_images:
        raise AssetError(
            f"{where}: num_images must be in {least}..{config.num_images}, got {count!r}; "
            "make the asset again"
        )
    return count


def is_sound(folder: Path) -> bool:
    """Whether an asset can be read."""
    try:
        read_asset(folder)
    except AssetError:
        return False
    return True


def file_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file of an asset but ``meta.json``, which records them."""
    facts: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        if path.name != META:
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            facts[path.name] = {"size_bytes": len(content), "sha256": digest}
    return facts


def check_files(folder: Path, meta: dict[str, Any], *, with_content: bool = False) -> None:
    """Hold an asset's files against their recorded sizes, and hashes where asked for.

    Raises:
        AssetError: naming the first file that is missing or differs.
    """
    for name, recorded in meta["files"].items():
        path = folder / name
        try:
            size = path.stat().st_size
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if with_content else None
        except OSError as error:
            raise AssetError(f"{path}: cannot be read ({error}); make the asset again") from error
        if size != recorded["size_bytes"]:
            raise AssetError(
                f"{path}: must have {recorded['size_bytes']} bytes, got {size}; "
                "the file is damaged, make the asset again"
            )
        if digest is not None and digest != recorded["sha256"]:
            raise AssetError(
                f"{path}: its content is not what was written (SHA-256 {digest} where "
                f"{recorded['sha256']} is recorded); make the asset again"
            )


def read_positions(path: str | Path, *, num_images: int) -> NDArray[np.int32]:
    """Read ``positions_thw.npy`` of any maker and check its shape and ranges.

    Args:
        path: the file.
        num_images: G, mosaics that the rows describe.

    Returns:
        int32 (N, 3), N = G * grid^2, rows (t, h, w) with t >= 0 and h, w in [0, grid). Rows need
        not be unique.

    Raises:
        AssetError: if the file cannot be read or breaks a rule above.
    """
    positions = load_array(path)
    if str(positions.dtype) not in ("int32", "int64"):
        raise AssetError(f"{path}: dtype must be int32 or int64, got {positions.dtype}")
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise AssetError(f"{path}: shape must be (N, 3), got {positions.shape}")
    rows = positions.shape[0]
    per_image, rest = divmod(rows, num_images)
    grid = isqrt(per_image)
    if rest or grid < 1 or grid * grid != per_image:
        raise AssetError(
            f"{path}: rows must be num_images x grid x grid, got {rows} rows for {num_images} "
            "images; check that images and positions belong together"
        )
    low, high = positions.min(axis=0), positions.max(axis=0)
    if low.min() < 0 or high[1:].max() >= grid or high[0] > np.iinfo(np.int32).max:
        raise AssetError(
            f"{path}: t must be at least 0 and h, w in [0, {grid}), "
            f"got t {low[0]}..{high[0]}, h {low[1]}..{high[1]}, w {low[2]}..{high[2]}"
        )
    return positions.astype(np.int32, copy=False)


def load_array(path: str | Path) -> NDArray[Any]:
    """``np.load`` without pickles.

    Raises:
        AssetError: if the file is missing, unreadable or no array.
    """
    try:
        array: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise AssetError(f"{path}: cannot be read as an array ({error})") from error
    if not isinstance(array, np.ndarray):
        raise AssetError(f"{path}: must be one .npy array, got an archive")
    return cast("NDArray[Any]", array)


def read_meta(path: Path) -> dict[str, Any]:
    """Read a ``meta.json`` and check its version and its required keys.

    Raises:
        AssetError: if it is missing, unreadable or of another schema.
    """
    try:
        meta: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssetError(f"{path}: cannot be read ({error}); make the asset again") from error
    found = cast("dict[str, Any]", meta) if isinstance(meta, dict) else {}
    if found.get("schema_version") != SCHEMA_VERSION:
        raise AssetError(
            f"{path}: schema_version must be {SCHEMA_VERSION}; the asset was made by another "
            "version or program, make it again"
        )
    required = _REQUIRED + (_REQUIRED_OF_FOLDERS if path.name == META else ())
    missing = [name for name in required if name not in found]
    if missing:
        raise AssetError(f"{path}: lacks {missing}; make the asset again")
    return found


_REQUIRED = (
    "key",
    "video",
    "cfg",
    "fingerprint",
    "algorithm_version",
    "source",
    "backend",
    "exactness",
)
_REQUIRED_OF_FOLDERS = ("files", "image_stem")


def check_settings(meta: dict[str, Any], expected: AssetConfig, where: object) -> None:
    """Hold an asset's metadata against the settings asked for.

    Raises:
        StaleAssetError: naming the first settings that differ, both values, and the remedy.
    """
    if meta["fingerprint"] == expected.fingerprint:
        return
    stored = {**meta["cfg"], "algorithm_version": meta["algorithm_version"]}
    asked = {**expected.to_dict(), "algorithm_version": ALGORITHM_VERSION}
    differing = [
        f"{name} {stored.get(name)!r} where {asked.get(name)!r} is asked for"
        for name in sorted(stored.keys() | asked.keys())
        if stored.get(name) != asked.get(name)
    ]
    raise StaleAssetError(
        f"{where}: made with {', '.join(differing) or 'settings unlike its recorded ones'}; "
        "ask for the settings it was made with, or pass --overwrite to make it again"
    )
