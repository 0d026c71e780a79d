"""Everything the contract says about what lies on disk, checked again.

Looks at evaluation and training assets, at stage 1's files, and at the lines of a training JSONL.

Axis letters: N rows, T slots, g cells along a side.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cv_reader.assets.contract import (
    META,
    MOSAIC_STEM,
    VISIBLE_INDICES,
    Asset,
    check_files,
    count_images,
    load_array,
    read_asset,
    read_meta,
    read_positions,
)
from cv_reader.assets.files import is_leftover
from cv_reader.assets.freshness import same_content, selection_hash
from cv_reader.assets.samples import IMAGE_PLACEHOLDER, Row, read_rows
from cv_reader.assets.stage1 import FRAME_IDS_SUFFIX, META_SUFFIX, ROWS_SUFFIX
from cv_reader.errors import AssetError, SampleError, StaleAssetError
from cv_reader.select.config import AssetConfig
from cv_reader.select.mosaics import arrange_rows

ASSET, SELECTION, LEFTOVER, RECORD = "asset", "selection", "leftover", "record"


@dataclass(frozen=True)
class Target:
    """One thing to check: its kind, its path or its place in a file, and a JSONL line's content."""

    kind: str
    where: str
    row: Row | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What to check beside the contract.

    Attributes:
        is_deep: decode every mosaic, and hold contents and source videos against their hashes.
        video_root: where relative videos lie; None = as written.
        image_folder: where relative paths of a JSONL lie; None = as written.
    """

    is_deep: bool = False
    video_root: Path | None = None
    image_folder: Path | None = None


def find_targets(place: Path) -> Iterator[Target]:
    """What there is to check in a folder, or the lines of a ``.json`` or ``.jsonl``."""
    if place.is_file():
        for where, row in read_rows(place):
            reason = str(row) if isinstance(row, SampleError) else ""
            yield Target(RECORD, where, None if isinstance(row, SampleError) else row, reason)
        return
    for folder, folders, files in os.walk(place):
        for name in [name for name in folders if is_leftover(name)]:
            folders.remove(name)
            yield Target(LEFTOVER, os.path.join(folder, name))
        folders.sort()
        for name in sorted(files):
            if name == META:
                yield Target(ASSET, folder)
            elif name.endswith(META_SUFFIX):
                yield Target(SELECTION, os.path.join(folder, name))
            elif is_leftover(name):
                yield Target(LEFTOVER, os.path.join(folder, name))


def check_target(checks: Checks, target: Target) -> str:
    """Check one target.

    Returns:
        What made it, such as ``native 0123456789abcdef``; "" for what does not say.

    Raises:
        AssetError: what is wrong with it; StaleAssetError where only its age is.
        SampleError: what is wrong with a line.
    """
    if target.kind == ASSET:
        return _maker(check_asset(Path(target.where), checks).meta)
    if target.kind == SELECTION:
        return _maker(check_selection(Path(target.where), checks))
    if target.kind == LEFTOVER:
        raise AssetError(f"{target.where}: a killed run left it; run the same command again")
    return check_record(target, checks)


def _maker(meta: dict[str, Any]) -> str:
    return f"{meta['backend']} {meta['fingerprint']}"


def check_asset(folder: Path, checks: Checks) -> Asset:
    """Check an asset folder against everything that its metadata says.

    Raises:
        AssetError: naming the file and the rule that it breaks.
        StaleAssetError: if its source is another file now, or this version would give another.
    """
    asset = read_asset(folder)
    config = AssetConfig.from_dict(asset.meta["cfg"], folder / META)
    _check_version(asset.meta, config, folder / META)
    _check_frame_ids(asset.frame_ids, asset.meta, folder)
    _check_rows(asset.positions, config, folder, is_sorted=True)
    _require(
        _count_padding(asset.positions, asset.meta) == asset.meta["padding_patch_filtered"],
        f"{folder}: the number of padding cells is not the recorded one",
    )
    if asset.meta["image_stem"] == MOSAIC_STEM:
        flat = asset.positions.astype(np.int64) @ np.array([config.grid**2, config.grid, 1])
        stored = load_array(folder / VISIBLE_INDICES)
        _require(
            stored.dtype == np.int64 and np.array_equal(stored, flat),
            f"{folder / VISIBLE_INDICES}: must be int64 t * g^2 + h * g + w of the positions",
        )
    if checks.is_deep:
        check_files(folder, asset.meta, with_content=True)
        for image in asset.images:
            _decode(image)
        _check_source(asset.meta, checks, folder)
    return asset


def check_selection(meta_path: Path, checks: Checks) -> dict[str, Any]:
    """Check stage 1's three files of a sample; returns the metadata.

    Raises:
        AssetError, StaleAssetError: as ``check_asset``.
    """
    prefix = str(meta_path).removesuffix(META_SUFFIX)
    meta = read_meta(meta_path)
    config = AssetConfig.from_dict(meta["cfg"], meta_path)
    _check_version(meta, config, meta_path)
    num_rows = count_images(meta, config, meta_path) * config.grid**2
    rows, frame_ids = load_array(prefix + ROWS_SUFFIX), load_array(prefix + FRAME_IDS_SUFFIX)
    _require(
        rows.dtype == np.int32 and rows.shape == (num_rows, 3),
        f"{prefix + ROWS_SUFFIX}: must be int32 ({num_rows}, 3)",
    )
    _require(
        selection_hash(rows, frame_ids) == meta["selection_hash"],
        f"{meta_path}: its arrays are not those that were written",
    )
    _check_frame_ids(frame_ids, meta, meta_path)
    _check_rows(rows, config, meta_path, is_sorted=False)
    if checks.is_deep:
        _check_source(meta, checks, meta_path)
    return meta


def check_record(target: Target, checks: Checks) -> str:
    """Check a line of a training JSONL, with the files that it names.

    Raises:
        SampleError: if the line breaks a rule.
        AssetError: if its files do.
    """
    if target.row is None:
        raise SampleError(target.reason)
    row, where = target.row, target.where
    images: Any = row.get("image", [])
    paths = [images] if isinstance(images, str) else cast("list[str]", images)
    turns = cast("list[dict[str, Any]]", row.get("conversations") or [])
    found = sum(str(turn.get("value", "")).count(IMAGE_PLACEHOLDER) for turn in turns)
    if not turns or found != len(paths):
        raise SampleError(
            f"{where}: sample {row.get('id')!r}: {found} {IMAGE_PLACEHOLDER} in its conversations "
            f"for {len(paths)} images; they must be equally many"
        )
    root = checks.image_folder or Path()
    positions = row.get("positions_thw")
    if positions is None:
        for path in paths:
            _decode(root / path) if checks.is_deep else _require_file(root / path)
        return ""
    rows = read_positions(root / str(positions), num_images=max(len(paths), 1))
    folder = (root / str(positions)).parent
    if (folder / META).exists():
        asset = check_asset(folder, checks)
        named = [(root / path).resolve() for path in paths]
        _require(
            named == [image.resolve() for image in asset.images],
            f"{where}: its images are not those of {folder}, in order",
        )
        return _maker(asset.meta)
    for path in paths:
        _require_file(root / path)
    return f"other {len(rows)} rows"


def _check_version(meta: dict[str, Any], config: AssetConfig, where: Path) -> None:
    if meta["fingerprint"] != config.fingerprint:
        raise StaleAssetError(
            f"{where}: fingerprint {meta['fingerprint']} where its settings and this version give "
            f"{config.fingerprint}; make it again with --overwrite"
        )


def _check_frame_ids(frame_ids: NDArray[Any], meta: dict[str, Any], where: Path) -> None:
    last = meta["num_frames"] - 1
    _require(
        bool((np.diff(frame_ids) >= 0).all()) and frame_ids[0] >= 0 and frame_ids[-1] <= last,
        f"{where}: frame ids must never decrease and lie in [0, {last}]",
    )


def _check_rows(
    rows: NDArray[np.int32], config: AssetConfig, where: Path, *, is_sorted: bool
) -> None:
    sorted_rows = arrange_rows(rows, config)
    _require(
        not is_sorted or np.array_equal(rows, sorted_rows),
        f"{where}: rows are not in the recorded order {config.order!r}",
    )
    low, high = rows.min(axis=0), rows.max(axis=0)
    limits = (config.sequence_length, config.grid, config.grid)
    _require(
        low.min() >= 0 and bool((high < limits).all()),
        f"{where}: rows must lie in [0, {limits}), got up to {high.tolist()}",
    )
    kept = len(np.unique(rows, axis=0))
    _require(
        kept == len(rows) or config.padding_policy == "repeat",
        f"{where}: {len(rows) - kept} rows appear twice",
    )
    for slot in config.full_slots:
        cells = len(np.unique(rows[rows[:, 0] == slot], axis=0))
        _require(
            cells == config.grid**2,
            f"{where}: slot {slot} must be whole, {cells} of {config.grid**2} cells are kept",
        )


def _count_padding(rows: NDArray[np.int32], meta: dict[str, Any]) -> int:
    valid = np.zeros((meta["hb"], meta["wb"]), bool)
    ranges = meta["valid_ranges"]
    if ranges["S_valid"]:
        valid[
            ranges["valid_h_start"] : ranges["valid_h_end"],
            ranges["valid_w_start"] : ranges["valid_w_end"],
        ] = True
    return int((~valid[rows[:, 1], rows[:, 2]]).sum())


def _decode(path: Path) -> None:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError) as error:
        raise AssetError(f"{path}: cannot be decoded ({error}); make the asset again") from error


def _check_source(meta: dict[str, Any], checks: Checks, where: Path) -> None:
    path = (checks.video_root or Path()) / meta["video"]
    if path.is_file() and not same_content(meta["source"], path):
        raise StaleAssetError(f"{where}: {path} is another file now; make the asset again")
    if checks.video_root is not None and not path.is_file():
        raise AssetError(f"{where}: its video {path} is missing; check --video_root")


def _require_file(path: Path) -> None:
    _require(path.is_file(), f"{path}: no such file")


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise AssetError(rule)
