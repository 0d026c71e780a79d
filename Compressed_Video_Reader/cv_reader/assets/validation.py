"""Find assets, selections and records on disk, and check them against the contract again.

Covers evaluation and training assets, stage 1's files, and the lines of a training JSONL.

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

import cv_reader.shards as shards
from cv_reader.assets.arrays import load_array, read_positions
from cv_reader.assets.claims import is_of_this_machine
from cv_reader.assets.contract import (
    MOSAIC_STEM,
    PICTURE_ERRORS,
    VISIBLE_INDICES,
    Asset,
    check_files,
    is_asset_file,
    read_asset,
    recorded_images,
)
from cv_reader.assets.files import is_temporary
from cv_reader.assets.freshness import same_content, selection_hash
from cv_reader.assets.metadata import META, config_of, read_meta
from cv_reader.assets.names import FRAME_IDS_SUFFIX, META_SUFFIX, ROWS_SUFFIX
from cv_reader.assets.records import check_conversation
from cv_reader.assets.rows import Row, read_rows
from cv_reader.errors import AssetError, SampleError, StaleAssetError
from cv_reader.select.config import AssetConfig
from cv_reader.select.mosaics import arrange_rows

ASSET, SELECTION, LEFTOVER, RECORD = "asset", "selection", "leftover", "record"
SHARD = "shard"


@dataclass(frozen=True)
class Target:
    """One thing to check.

    Attributes:
        kind: ``ASSET``, ``SELECTION``, ``LEFTOVER``, ``SHARD`` or ``RECORD``.
        where: its path, or file and line.
        row: content of a JSONL line.
        reason: why a line cannot be read.
    """

    kind: str
    where: str
    row: Row | None = None
    reason: str = ""


def find_targets(place: Path) -> Iterator[Target]:
    """Return what there is to check in a folder, or the lines of a ``.json`` or ``.jsonl``.

    Links to folders are followed, as evaluation follows them, and each folder is visited once.
    """
    if place.is_file():
        for where, row in read_rows(place):
            reason = str(row) if isinstance(row, SampleError) else ""
            yield Target(RECORD, where, None if isinstance(row, SampleError) else row, reason)
        return
    visited: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(place, followlinks=True):
        for name in [name for name in folders if is_temporary(name)]:
            folders.remove(name)
            yield Target(LEFTOVER, os.path.join(folder, name))
        if not _is_first_visit(folder, visited):
            folders.clear()
            continue
        folders.sort()
        if META in files or _looks_like_an_asset(Path(folder), place, [*folders, *files]):
            yield Target(ASSET, folder)
        for name in sorted(files):
            yield from _targets_of_file(Path(folder), name)


def _targets_of_file(folder: Path, name: str) -> Iterator[Target]:
    if name.endswith(".tar"):
        yield from _targets_of_shard(folder / name)
    elif name.endswith(META_SUFFIX):
        yield Target(SELECTION, str(folder / name))
    elif name.endswith(ROWS_SUFFIX):
        meta_path = folder / (name.removesuffix(ROWS_SUFFIX) + META_SUFFIX)
        if not meta_path.exists():
            yield Target(SELECTION, str(meta_path))
    elif is_temporary(name):
        yield Target(LEFTOVER, str(folder / name))


def _targets_of_shard(tar: Path) -> Iterator[Target]:
    """Return a shard, and its samples where they can be found."""
    if not shards.index_path(tar).is_file() and not tar.name.startswith("shard_"):
        return  # of another program
    yield Target(SHARD, str(tar))
    try:
        keys = list(shards.read_shard_index(tar).samples)
    except OSError:
        return
    for key in keys:
        yield Target(ASSET, str(shards.sample_path(tar, key)))


def _is_first_visit(folder: str, visited: set[tuple[int, int]]) -> bool:
    try:
        status = os.stat(folder)
    except OSError:
        return False
    identity = status.st_dev, status.st_ino
    is_first = identity not in visited
    visited.add(identity)
    return is_first


def _looks_like_an_asset(folder: Path, place: Path, names: list[str]) -> bool:
    """Return whether a folder without ``meta.json`` should be an asset: its file is missing."""
    is_empty = not names and folder != place and folder.name != "assets"
    return is_empty or any(is_asset_file(name) for name in names)


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What to check besides the contract.

    Attributes:
        is_deep: decode every mosaic, and compare contents and source videos with their hashes.
        video_root: folder of relative videos; None = as written.
        image_folder: folder of a JSONL's relative paths; None = as written.
    """

    is_deep: bool = False
    video_root: Path | None = None
    image_folder: Path | None = None


def check_target(checks: Checks, target: Target) -> str:
    """Check one target.

    Returns:
        Backend and fingerprint that made it, such as ``native 0123456789abcdef``; "" if unknown.

    Raises:
        AssetError: if it breaks a rule; StaleAssetError if it is only outdated.
        SampleError: if a line breaks a rule.
    """
    if target.kind == ASSET:
        return _maker(check_asset(Path(target.where), checks).meta)
    if target.kind == SELECTION:
        return _maker(check_selection(Path(target.where), checks))
    if target.kind == SHARD:
        shards.check_shard(Path(target.where))
        return ""
    if target.kind == LEFTOVER:
        is_ours = is_of_this_machine(os.path.basename(target.where))
        remedy = "run the same command again" if is_ours else "remove it once no run is at work"
        raise AssetError(f"{target.where}: a killed run left it; {remedy}")
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
    config = config_of(asset.meta, folder / META)
    _check_version(asset.meta, config, folder / META)
    _require(
        asset.meta["key"] == shards.key_of(folder),
        f"{folder / META}: key {asset.meta['key']!r} must be the name of the folder, by which "
        "evaluation finds it; rename the folder or make the asset again",
    )
    _check_facts(asset.meta, config, folder / META)
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


def is_sound(folder: Path) -> bool:
    """Return whether an asset keeps every rule, and its files hold what was written."""
    try:
        asset = check_asset(folder, Checks())
        check_files(folder, asset.meta, with_content=True)
    except AssetError:
        return False
    return True


def is_sound_selection(meta_path: Path) -> bool:
    """Return whether stage 1's files of a sample keep every rule."""
    try:
        check_selection(meta_path, Checks())
    except AssetError:
        return False
    return True


def check_selection(meta_path: Path, checks: Checks) -> dict[str, Any]:
    """Check stage 1's three files of a sample, and return the metadata.

    Raises:
        AssetError, StaleAssetError: as ``check_asset``.
    """
    prefix = str(meta_path).removesuffix(META_SUFFIX)
    meta = read_meta(meta_path)
    config = config_of(meta, meta_path)
    _check_version(meta, config, meta_path)
    _check_facts(meta, config, meta_path)
    num_rows = recorded_images(meta, config, meta_path) * config.grid**2
    rows, frame_ids = load_array(prefix + ROWS_SUFFIX), load_array(prefix + FRAME_IDS_SUFFIX)
    _require(
        rows.dtype == np.int32 and rows.shape == (num_rows, 3),
        f"{prefix + ROWS_SUFFIX}: must be int32 ({num_rows}, 3)",
    )
    _require(
        frame_ids.dtype == np.int32 and frame_ids.shape == (config.sequence_length,),
        f"{prefix + FRAME_IDS_SUFFIX}: must be int32 ({config.sequence_length},)",
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
    paths = check_conversation(row, f"{where}: sample {row.get('id')!r}")
    root = checks.image_folder or Path()
    positions = row.get("positions_thw")
    if positions is None:
        for path in paths:
            _decode(root / path) if checks.is_deep else _require_file(root / path)
        return ""
    rows = read_positions(root / str(positions), num_images=max(len(paths), 1))
    folder = (root / str(positions)).parent
    if shards.is_file(folder / META):
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


def _check_facts(meta: dict[str, Any], config: AssetConfig, where: Path) -> None:
    """Check the types of the facts that further checks compute with."""
    numbers = ("num_frames", "hb", "wb", "padding_patch_filtered")
    _require(
        all(type(meta.get(name)) is int for name in numbers),
        f"{where}: {', '.join(numbers)} must be whole numbers; make the asset again",
    )
    source = meta["source"]
    _require(
        type(source.get("size_bytes")) is type(source.get("mtime_ns")) is int
        and isinstance(source.get("sha256"), str),
        f"{where}: source must hold size_bytes, mtime_ns and sha256; make the asset again",
    )
    ranges: Any = meta.get("valid_ranges")
    _require(
        meta["hb"] == meta["wb"] == config.grid and isinstance(ranges, dict),
        f"{where}: hb and wb must be {config.grid}, valid_ranges an object; make the asset again",
    )
    _require(
        all(type(value) is int for value in cast("dict[str, Any]", ranges).values())
        and isinstance(meta.get("selection_hash"), str),
        f"{where}: valid_ranges or selection_hash is damaged; make the asset again",
    )


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
        f"{where}: frame ids must never decrease and be in [0, {last}]",
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
        f"{where}: rows must be in [0, {limits}), got up to {high.tolist()}",
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
    if ranges.get("S_valid"):
        valid[
            ranges.get("valid_h_start") : ranges.get("valid_h_end"),
            ranges.get("valid_w_start") : ranges.get("valid_w_end"),
        ] = True
    return int((~valid[rows[:, 1], rows[:, 2]]).sum())


def _decode(path: Path) -> None:
    try:
        with shards.open_file(path) as stream, Image.open(stream) as image:
            image.load()
    except PICTURE_ERRORS as error:
        raise AssetError(f"{path}: cannot be decoded ({error}); make the asset again") from error


def _check_source(meta: dict[str, Any], checks: Checks, where: Path) -> None:
    path = (checks.video_root or Path()) / meta["video"]
    if path.is_file() and not same_content(meta["source"], path):
        raise StaleAssetError(f"{where}: {path} is another file now; make the asset again")
    if checks.video_root is not None and not path.is_file():
        raise AssetError(f"{where}: its video {path} is missing; check --video_root")


def _require_file(path: Path) -> None:
    _require(shards.is_file(path), f"{path}: no such file")


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise AssetError(rule)
