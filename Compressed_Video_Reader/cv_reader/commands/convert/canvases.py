"""Canvases of LLaVA-OneVision-2, as its evaluation and training read them.

A folder ``<stem>__<8 digits of the SHA-1 of the video's name>/`` holds ``canvas_000.jpg`` ...,
``src_patch_position.npy`` int32 (N, 3), ``frame_ids.npy`` int32 (T,), ``meta.json`` and, last,
``_DONE``. A row of the positions is (frame of the video, h, w), or -1 three times for black
padding. Rows come block by block: blocks of 2 x 2 patches in raster order of the canvas, and in a
block the upper left, upper right, lower left and lower right patch. The model merges each block
into a token.

Assets chosen with ``block_cells`` 2 are packed in the same blocks, so that their mosaics are such
canvases as they are, and their files are copied. ``meta.json`` of the canvases keeps that of the
asset, so that the way back gives the same bytes. Canvases made elsewhere are put into the order of
assets, which encodes them again; padding repeats the last patch, as ``padding_policy`` ``repeat``.

Axis letters: N rows, T slots, G canvases, g cells along a side, p side of a cell, S of a canvas.
"""

import hashlib
import json
import re
import shutil
from math import isqrt
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cv_reader.assets.arrays import load_array
from cv_reader.assets.contract import (
    FRAME_IDS,
    META,
    MOSAIC_STEM,
    PICTURE_ERRORS,
    POSITIONS,
    VISIBLE_INDICES,
    check_files,
    is_asset_file,
    read_asset,
    write_asset,
)
from cv_reader.assets.files import array_bytes, json_bytes, new_folder
from cv_reader.assets.freshness import selection_hash
from cv_reader.assets.metadata import MAX_META_BYTES, build_meta
from cv_reader.assets.names import asset_key, image_stem
from cv_reader.errors import AssetError, SettingsError
from cv_reader.select.config import AssetConfig
from cv_reader.select.geometry import letterbox
from cv_reader.select.mosaics import arrange_rows

CANVAS_POSITIONS = "src_patch_position.npy"
_SLOTS, _DONE = "src_slots.npy", "_DONE"
_BLOCK = 2
_MAX_PIXELS = 1 << 28
_CANVAS = re.compile(r"canvas_\d{3,}\.(jpg|jpeg)")
_UNKNOWN_RATE = 30.0
"""Frames per second that readers of this layout take where none is recorded."""

Rows = NDArray[np.int32]
Pixels = NDArray[np.uint8]


def canvas_order(num_canvases: int, grid: int) -> NDArray[np.intp]:
    """Return for each row of the canvases its row in ``positions_thw.npy``: intp (N,)."""
    side = grid // _BLOCK
    numbers = np.arange(num_canvases * grid**2).reshape(-1, side, _BLOCK, side, _BLOCK)
    return numbers.transpose(0, 1, 3, 2, 4).reshape(-1)


def canvas_folder_name(video: str) -> str:
    """Return the name of the folder of a video's canvases."""
    digest = hashlib.sha1(video.encode("utf-8", "surrogateescape"), usedforsecurity=False)
    return f"{image_stem(video)}__{digest.hexdigest()[:8]}"


def write_canvases(asset_folder: Path, out_root: Path, overwrite: bool) -> str:
    """Write an asset as a folder of canvases.

    Returns:
        ``made`` or ``kept`` (there already).

    Raises:
        AssetError: it is damaged, or not chosen in blocks of 2 x 2.
        OutputError: the output cannot be written.
    """
    asset = read_asset(asset_folder)
    check_files(asset_folder, asset.meta, with_content=True)
    settings = asset.meta["cfg"]
    if settings["block_cells"] != _BLOCK:
        raise AssetError(
            f"{asset_folder}: LLaVA-OneVision-2 merges blocks of 2 x 2 patches, but this asset was "
            "chosen cell by cell; make it with --block_cells 2"
        )
    if not settings["jpg_quality"]:
        raise AssetError(
            f"{asset_folder}: canvases are JPEG files, but this asset's mosaics are PPM files; "
            "make it with --jpg_quality 95"
        )
    video = str(asset.meta["video"])
    target = out_root / canvas_folder_name(video)
    if (target / _DONE).exists() and not overwrite:
        return "kept"
    grid = settings["square_size"] // settings["patch_size"]
    rows = asset.positions[canvas_order(len(asset.images), grid)]
    names = [f"canvas_{number:03d}.jpg" for number in range(len(asset.images))]
    rate = float(asset.meta.get("frame_rate", 0.0)) or _UNKNOWN_RATE
    meta = {
        "video": video,
        "fps": rate,
        "config": {"video_fps": rate, "patch": settings["patch_size"], "block_size": _BLOCK},
        "patch": settings["patch_size"],
        "hb": grid,
        "wb": grid,
        "canvas_files": names,
        "cv_reader": asset.meta,
    }
    frames = np.column_stack([asset.frame_ids[rows[:, 0]], rows[:, 1:]]).astype(np.int32)
    arrays = {
        CANVAS_POSITIONS: frames,
        FRAME_IDS: asset.frame_ids,
        _SLOTS: np.ascontiguousarray(rows[:, 0]),
    }
    with new_folder(target, is_replaceable=_is_canvas_file) as folder:
        for name, image in zip(names, asset.images, strict=True):
            shutil.copyfile(image, folder / name)
        for name, array in arrays.items():
            (folder / name).write_bytes(array_bytes(array))
        (folder / META).write_bytes(json_bytes(meta))
        (folder / _DONE).write_bytes(b"")
    return "made"


def _is_canvas_file(name: str) -> bool:
    fixed = (META, CANVAS_POSITIONS, FRAME_IDS, _SLOTS, _DONE)
    return name in fixed or _CANVAS.fullmatch(name) is not None


def read_canvases(folder: Path, out_root: Path, overwrite: bool) -> str:
    """Write a folder of canvases as an asset of ``out_root``.

    Returns:
        ``made`` or ``kept`` (there already).

    Raises:
        AssetError: it is incomplete, damaged, or its canvases are not squares of whole blocks.
        OutputError: the output cannot be written.
    """
    if not (folder / _DONE).exists():
        raise AssetError(f"{folder}: lacks {_DONE}, so that it is not complete; make it again")
    meta = _read_meta(folder / META)
    ours = meta.get("cv_reader")
    if isinstance(ours, dict):
        return _restored(folder, cast("dict[str, Any]", ours), out_root, overwrite)
    images = _canvases(folder)
    rows = load_array(folder / CANVAS_POSITIONS)
    size_px = _size_of(images[0])
    grid = isqrt(len(rows) // len(images)) if rows.ndim == 2 else 0
    is_sound = rows.dtype.kind == "i" and rows.shape == (len(images) * grid**2, 3)
    if not is_sound or grid < _BLOCK or grid % _BLOCK or size_px % grid:
        raise AssetError(
            f"{folder / CANVAS_POSITIONS}: must be whole numbers (canvases x patches, 3) of "
            f"squares of whole blocks, got {rows.dtype} {rows.shape} for {len(images)} canvases "
            f"of {size_px} pixels"
        )
    target = out_root / asset_key(folder.name)
    if (target / META).exists() and not overwrite:
        return "kept"
    slots, frame_ids = _slots_of(rows, folder, grid)
    frame_ids = np.pad(frame_ids, (0, max(0, len(images) - len(frame_ids))), "edge")
    config = _config(len(frame_ids), len(images), size_px, grid, folder)
    # From blocks to rows of cells, and from there to the order of assets.
    placed = np.empty_like(slots)
    placed[canvas_order(len(images), grid)] = slots
    positions = arrange_rows(placed, config)
    keys, wanted = (found.astype(np.int64) @ (grid**2, grid, 1) for found in (placed, positions))
    order = np.argsort(keys, kind="stable")
    origin = order[np.searchsorted(keys[order], wanted)]
    mosaics = _mosaics(_cells_of(images, grid, size_px)[origin], grid, size_px)
    rate = meta.get("fps")
    rate = float(rate) if isinstance(rate, (int, float)) and rate > 0 else _UNKNOWN_RATE
    facts: dict[str, Any] = {
        "source": {"size_bytes": 0, "mtime_ns": 0, "sha256": ""},
        "backend": "imported",
        "exactness": dict.fromkeys(("motion", "residual_y", "bits", "qp"), "none"),
        "imported_from": "LLaVA-OneVision-2",
        "num_frames": int(frame_ids[-1]) + 1,
        "frame_rate": rate,
        **letterbox(size_px, size_px, square_px=size_px, patch_px=size_px // grid).facts(),
        "padding_patch_filtered": 0,
        "num_images": len(images),
        "K": len(positions),
        "selection_hash": selection_hash(positions, frame_ids),
        "image_stem": MOSAIC_STEM,
    }
    video = str(meta.get("video", folder.name))
    built = build_meta(config, facts, key=target.name, video=video)
    write_asset(target, built, positions, frame_ids, mosaics)
    return "made"


def _restored(folder: Path, meta: dict[str, Any], out_root: Path, overwrite: bool) -> str:
    """Write back the asset that canvases were made of, byte for byte."""
    try:
        key, stem = asset_key(str(meta["key"])), str(meta["image_stem"])
        count, grid = int(meta["num_images"]), int(meta["hb"])
        recorded = set(meta["files"])
    except (KeyError, TypeError, ValueError) as error:
        raise AssetError(f"{folder / META}: its cv_reader record is damaged ({error})") from error
    target = out_root / key
    if (target / META).exists() and not overwrite:
        return "kept"
    rows, slots = load_array(folder / CANVAS_POSITIONS), load_array(folder / _SLOTS)
    images = _canvases(folder)
    num_rows = count * grid**2
    if rows.shape != (num_rows, 3) or slots.shape != (num_rows,) or len(images) != count:
        raise AssetError(
            f"{folder}: must hold {count} canvases of {grid} x {grid} patches, got {len(images)} "
            f"canvases, positions {rows.shape} and slots {slots.shape}"
        )
    positions = np.empty((num_rows, 3), np.int32)
    positions[canvas_order(count, grid)] = np.column_stack([slots, rows[:, 1:]])
    frame_ids = load_array(folder / FRAME_IDS)
    names = [f"{stem}_{number:03d}.jpg" for number in range(count)]
    arrays = {POSITIONS: positions, FRAME_IDS: frame_ids}
    if VISIBLE_INDICES in recorded:
        arrays[VISIBLE_INDICES] = positions.astype(np.int64) @ np.array([grid**2, grid, 1])
    if recorded != {*names, *arrays} or not all(is_asset_file(name) for name in recorded):
        raise AssetError(f"{folder / META}: its cv_reader record names other files than it has")
    with new_folder(target, is_replaceable=is_asset_file) as temporary:
        for name, image in zip(names, images, strict=True):
            shutil.copyfile(image, temporary / name)
        for name, array in arrays.items():
            (temporary / name).write_bytes(array_bytes(array))
        (temporary / META).write_bytes(json_bytes(meta))
        check_files(temporary, meta, with_content=True)
    return "made"


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > 2 * MAX_META_BYTES:
            raise ValueError(f"must have at most {2 * MAX_META_BYTES} bytes")
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise AssetError(f"{path}: cannot be read ({error}); make the canvases again") from error
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _canvases(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.name.startswith("canvas_"))
    if not found:
        raise AssetError(f"{folder}: holds no canvas_*.jpg; make the canvases again")
    others = [path.name for path in found if not _CANVAS.fullmatch(path.name)]
    if others:
        raise AssetError(f"{folder / others[0]}: canvases must be JPEG files; make them as such")
    return found


def _size_of(path: Path) -> int:
    with _opened(path) as image:
        width, height = image.size
    if width != height or width * height > _MAX_PIXELS:
        raise AssetError(
            f"{path}: canvases must be squares to become mosaics, got {width} x {height} pixels"
        )
    return width


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=("JPEG",))
    except PICTURE_ERRORS as error:
        raise AssetError(f"{path}: not a readable JPEG ({error})") from error


def _slots_of(rows: NDArray[Any], folder: Path, grid: int) -> tuple[Rows, NDArray[np.int32]]:
    """Return rows (t, h, w), block by block as ``rows``, and the frame of each slot.

    Args:
        rows: (N, 3), frame of the video, h and w, block by block.
        folder: that they are from.
        grid: g.
    """
    where = folder / CANVAS_POSITIONS
    blocks = rows.astype(np.int64).reshape(-1, _BLOCK**2, 3)
    is_kept = (blocks >= 0).all(axis=(1, 2))
    if not is_kept.any() or not (blocks[~is_kept] == -1).all():
        raise AssetError(f"{where}: a block must be four patches, or four times -1 -1 -1")
    corners = np.stack(np.unravel_index(np.arange(_BLOCK**2), (_BLOCK, _BLOCK)), axis=1)
    kept = blocks[is_kept]
    first = kept[:, :1]
    is_block = (kept[:, :, 0] == first[:, :, 0]) & (
        kept[:, :, 1:] == first[:, :, 1:] + corners
    ).all(2)
    if not is_block.all() or (first[:, 0, 1:] % _BLOCK).any() or kept[:, :, 1:].max() >= grid:
        raise AssetError(
            f"{where}: each four rows must be a block of 2 x 2 patches of one frame, below {grid}"
        )
    # Padding shows the last block once more.
    latest = np.maximum.accumulate(np.where(is_kept, np.arange(len(blocks)), -1))
    latest = np.where(latest < 0, np.flatnonzero(is_kept)[0], latest)
    filled = blocks[latest].reshape(-1, 3)
    path = folder / FRAME_IDS
    ids = np.unique(load_array(path) if path.exists() else filled[:, 0])
    place = np.searchsorted(ids, filled[:, 0]).clip(max=len(ids) - 1)
    if (ids[place] != filled[:, 0]).any() or ids[0] < 0 or ids[-1] > np.iinfo(np.int32).max:
        raise AssetError(f"{where}: names frames that {FRAME_IDS} lacks")
    return np.column_stack([place, filled[:, 1:]]).astype(np.int32), ids.astype(np.int32)


def _config(num_slots: int, num_images: int, size_px: int, grid: int, folder: Path) -> AssetConfig:
    """Return settings of the same sizes; how cells were chosen is not known."""
    try:
        return AssetConfig(
            sequence_length=num_slots,
            num_images=num_images,
            square_size=size_px,
            patch_size=size_px // grid,
            block_cells=_BLOCK,
            padding_policy="repeat",
            keep_first_full_frame=False,
            signal="bits",
        )
    except SettingsError as error:
        raise AssetError(f"{folder}: cannot be an asset: {error}") from error


def _cells_of(images: list[Path], grid: int, size_px: int) -> Pixels:
    """Return the cells of all canvases, row by row of each: uint8 (N, p, p, 3), Y, Cb, Cr."""
    if len(images) * size_px**2 > _MAX_PIXELS:
        raise AssetError(
            f"{images[0].parent}: {len(images)} canvases of {size_px} pixels exceed the limit of "
            f"{_MAX_PIXELS} pixels"
        )
    side = size_px // grid
    cells = np.empty((len(images), grid, grid, side, side, 3), np.uint8)
    for number, path in enumerate(images):
        with _opened(path) as image:
            if image.size != (size_px, size_px):
                raise AssetError(f"{path}: must have {size_px} pixels a side, got {image.size}")
            image.draft("YCbCr", None)
            try:
                pixels = np.asarray(image.convert("YCbCr"))
            except PICTURE_ERRORS as error:
                raise AssetError(f"{path}: is damaged ({error})") from error
        parts = pixels.reshape(grid, side, grid, side, 3)
        cells[number] = parts.transpose(0, 2, 1, 3, 4)
    return cells.reshape(-1, side, side, 3)


def _mosaics(cells: Pixels, grid: int, size_px: int) -> list[Image.Image]:
    """Return mosaics of cells, row by row."""
    side = size_px // grid
    placed = cells.reshape(-1, grid, grid, side, side, 3).transpose(0, 1, 3, 2, 4, 5)
    pixels = np.ascontiguousarray(placed).reshape(-1, size_px, size_px, 3)
    return [Image.fromarray(mosaic, mode="YCbCr") for mosaic in pixels]
