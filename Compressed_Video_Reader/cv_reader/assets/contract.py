"""Codec assets on disk: what they hold, how they are written, read and checked.

An asset is a folder: mosaics, ``positions_thw.npy`` int32 (N, 3), ``frame_ids.npy`` int32 (T,),
``meta.json``; evaluation assets also ``visible_indices.npy`` int64 (N,), t*grid^2 + h*grid + w.
Row ``m * grid^2 + r * grid + c`` of the positions is the origin (t, h, w) of the cell at row r,
column c of mosaic m. t is a slot of ``frame_ids``; h and w are cells of the padded square.

A folder is written next to its place and renamed into it (``files``): one that exists is complete.

Axis letters: N rows (num_images * grid^2), T slots, G mosaics.
"""

import hashlib
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cv_reader.assets.arrays import load_array, read_positions
from cv_reader.assets.files import array_bytes, json_bytes, new_folder
from cv_reader.assets.metadata import (
    META,
    SCHEMA_VERSION,
    check_settings,
    config_of,
    read_meta,
)
from cv_reader.assets.names import evaluation_key
from cv_reader.errors import AssetError
from cv_reader.select.config import ALGORITHM_VERSION, AssetConfig, mosaic_name
from cv_reader.shards import file_bytes, open_file

__all__ = [
    "ALGORITHM_VERSION",
    "META",
    "SCHEMA_VERSION",
    "Asset",
    "AssetConfig",
    "check_settings",
    "evaluation_key",
    "load_array",
    "read_asset",
    "read_meta",
    "read_positions",
]

POSITIONS = "positions_thw.npy"
FRAME_IDS = "frame_ids.npy"
VISIBLE_INDICES = "visible_indices.npy"
MOSAIC_STEM = "mosaic"

PICTURE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for files that are missing, damaged, no pictures, or absurdly large."""

_MOSAIC = re.compile(r".+_\d{3,}\.(jpg|ppm)", re.DOTALL)
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Asset:
    """One checked asset.

    Attributes:
        folder: its path.
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
    config = config_of(meta, folder / META)
    _check_names(folder, meta, config)
    check_files(folder, meta)
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


def _check_names(folder: Path, meta: dict[str, Any], config: AssetConfig) -> None:
    """Check that the metadata records every file that the settings call for."""
    recorded = meta["files"]
    count = recorded_images(meta, config, folder / META)
    # Counted first: a damaged count may ask for millions of names.
    names = _image_names(meta, config, count) if count <= len(recorded) else ["all mosaics"]
    missing = [name for name in (POSITIONS, FRAME_IDS, *names) if name not in recorded]
    if missing:
        raise AssetError(f"{folder / META}: files lacks {missing[0]}; make the asset again")


def _image_names(meta: dict[str, Any], config: AssetConfig, count: int) -> list[str]:
    stem, quality = meta["image_stem"], config.jpg_quality
    return [mosaic_name(stem, index, quality) for index in range(count)]


def recorded_images(meta: dict[str, Any], config: AssetConfig, where: object) -> int:
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
    if type(count) is not int or not least <= count <= config.num_images:
        raise AssetError(
            f"{where}: num_images must be in {least}..{config.num_images}, got {count!r}; "
            "make the asset again"
        )
    return count


def is_asset_file(name: str) -> bool:
    """Return whether a file of this name can be part of an asset."""
    fixed = (META, POSITIONS, FRAME_IDS, VISIBLE_INDICES)
    return name in fixed or _MOSAIC.fullmatch(name) is not None


def _find_images(folder: Path, meta: dict[str, Any], config: AssetConfig) -> tuple[Path, ...]:
    count = recorded_images(meta, config, folder / META)
    images = tuple(folder / name for name in _image_names(meta, config, count))
    kind = "JPEG" if config.jpg_quality else "PPM"
    for image in images:
        try:
            with open_file(image) as stream, Image.open(stream, formats=(kind,)) as opened:
                size = opened.size
        except PICTURE_ERRORS as error:
            raise AssetError(
                f"{image}: not a readable {kind} ({error}); make the asset again"
            ) from error
        if size != (config.square_size, config.square_size):
            raise AssetError(
                f"{image}: must be {config.square_size} x {config.square_size} pixels, "
                f"got {size[0]} x {size[1]}; make the asset again"
            )
    return images


def file_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file of an asset but ``meta.json``, which records them."""
    facts: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        if path.name != META:
            facts[path.name] = {"size_bytes": path.stat().st_size, "sha256": file_hash(path)}
    return facts


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open_file(path) as stream:
        while chunk := stream.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def check_files(folder: Path, meta: dict[str, Any], *, with_content: bool = False) -> None:
    """Compare an asset's files with their recorded sizes, and hashes where asked for.

    Raises:
        AssetError: naming the first file that is missing or differs.
    """
    for name, recorded in meta["files"].items():
        path = folder / name
        try:
            size = file_bytes(path)
            if size != recorded["size_bytes"]:
                raise AssetError(
                    f"{path}: must have {recorded['size_bytes']} bytes, got {size}; "
                    "the file is damaged, make the asset again"
                )
            digest = file_hash(path) if with_content else recorded["sha256"]
        except OSError as error:
            raise AssetError(f"{path}: cannot be read ({error}); make the asset again") from error
        if digest != recorded["sha256"]:
            raise AssetError(
                f"{path}: its content is not what was written (SHA-256 {digest} where "
                f"{recorded['sha256']} is recorded); make the asset again"
            )


def write_asset(
    folder: Path,
    meta: dict[str, Any],
    rows: NDArray[np.int32],
    frame_ids: NDArray[np.int32],
    mosaics: Iterable[Image.Image],
) -> None:
    """Write an asset folder that appears whole; an asset of that name is replaced.

    Args:
        folder: path of the asset.
        meta: content of ``meta.json``; names the settings and the image stem.
        rows: int32 (N, 3), sorted.
        frame_ids: int32 (T,).
        mosaics: G images; each is written before the next is asked for.

    Raises:
        AssetError, OutputError: as ``new_folder``.
    """
    # Imported here: it takes PyAV, and most users of this module read.
    from cv_reader.select.mosaics import write_mosaics

    stem: str = meta["image_stem"]
    arrays: dict[str, NDArray[Any]] = {POSITIONS: rows, FRAME_IDS: frame_ids}
    if stem == MOSAIC_STEM:
        grid = int(meta["hb"])
        arrays[VISIBLE_INDICES] = rows.astype(np.int64) @ np.array([grid * grid, grid, 1])
    with new_folder(folder, is_replaceable=is_asset_file) as temporary:
        write_mosaics(mosaics, temporary, stem=stem, quality=meta["cfg"]["jpg_quality"])
        for name, array in arrays.items():
            (temporary / name).write_bytes(array_bytes(array))
        content = json_bytes(meta | {"files": file_facts(temporary)})
        (temporary / META).write_bytes(content)
