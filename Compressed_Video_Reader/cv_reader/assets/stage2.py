"""Stage 2: pack the cells that stage 1 chose into a sample's folder, and give its JSONL line.

Workers run these functions. Two separate stages and one decode pass for both write the same bytes.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cv_reader.assets.contract import POSITIONS, check_files, read_asset, write_asset
from cv_reader.assets.freshness import same_source, usable_meta
from cv_reader.assets.make import (
    collect_mosaics,
    is_whole,
    select_and_pack,
)
from cv_reader.assets.metadata import META, build_meta, config_of, is_consistent, read_meta
from cv_reader.assets.names import META_SUFFIX, image_stem, recorded_name, sample_folder_name
from cv_reader.assets.records import rewrite_conversations
from cv_reader.assets.samples import BadRow, VideoSample, check_video
from cv_reader.assets.stage1 import Stage1, is_selected, read_selected, write_selection
from cv_reader.errors import AssetError, SampleError, SettingsError, StaleAssetError
from cv_reader.remote.addresses import address_of
from cv_reader.remote.cache import choose_cache
from cv_reader.remote.output import move_folder
from cv_reader.remote.videos import remote_status
from cv_reader.select.config import ALGORITHM_VERSION, AssetConfig, mosaic_name
from cv_reader.select.mosaics import arrange_rows
from cv_reader.shards import is_file


@dataclass(frozen=True, kw_only=True)
class Stage2:
    """Settings of stage 2 that are the same for all samples.

    ``first`` names stage 1's files. Only its settings that are part of their names are used; the
    others are read from the files. Finished folders are moved to ``store``, if it is given, or as
    shards to ``shards``.
    """

    first: Stage1
    order: str
    jpg_quality: int
    out_image_root: Path
    first_full: bool
    overwrite: bool
    skip_missing: bool
    shard_folder: str = ""
    store: str | None = None
    shards: str | None = None

    @property
    def num_images(self) -> int:
        """Return G, mosaics per sample."""
        return self.first.config.num_images

    def packing(self, config: AssetConfig) -> AssetConfig:
        """Return stage 1's settings with this stage's order and quality."""
        return replace(config, order=self.order, jpg_quality=self.jpg_quality)

    @property
    def is_in_store(self) -> bool:
        """Return whether folders are moved, or stage 1's files are in a store."""
        return self.store is not None or self.first.store is not None

    def folder(self, sample: VideoSample) -> Path:
        """Return the path of the sample's asset, on this disk."""
        name = sample_folder_name(sample.sample_id, sample.video)
        return self.out_image_root / self.shard_folder / name

    def place(self, sample: VideoSample) -> Path:
        """Return the path or address where the sample's finished asset is."""
        return (
            Path(self.store or self.out_image_root) / self.shard_folder / self.folder(sample).name
        )


def packing_config(stage: Stage2, sample: VideoSample, selected: dict[str, Any]) -> AssetConfig:
    """Return stage 1's settings with this stage's order and quality.

    Args:
        stage: the settings.
        sample: sample to pack.
        selected: stage 1's metadata of it.

    Raises:
        AssetError: if stage 1's metadata is damaged or belongs to another sample.
        StaleAssetError: if another version made it.
        SettingsError: if the first frame must be whole and is not.
    """
    path = stage.first.file(sample, META_SUFFIX)
    if not is_consistent(selected):
        raise AssetError(f"{path}: its settings are damaged; run stage 1 again")
    if selected["algorithm_version"] != ALGORITHM_VERSION:
        raise StaleAssetError(
            f"{path}: made by version {selected['algorithm_version']} of the algorithm where this "
            f"is {ALGORITHM_VERSION}; run stage 1 again with --overwrite"
        )
    config = config_of(selected, path)
    if selected["fingerprint"] != config.fingerprint:
        rules = ", ".join(f"{name} {value}" for name, value in config.rules.items())
        raise StaleAssetError(
            f"{path}: chosen by an earlier rule of its settings where this version has {rules}; "
            "run stage 1 again with --overwrite"
        )
    key = recorded_name(sample.key)
    if selected["key"] != key:
        raise AssetError(
            f"{path}: made for {selected['key']!r} where {key!r} is asked for; "
            "run stage 1 again on this data set with --overwrite"
        )
    if stage.first_full and not config.keep_first_full_frame:
        raise SettingsError(
            f"{path}: --first_full needs a first frame that is kept whole; "
            "run stage 1 with --keep_first_full_frame, or drop --first_full"
        )
    return stage.packing(config)


def read_stage1_meta(stage: Stage2, sample: VideoSample) -> dict[str, Any]:
    """Read stage 1's metadata of a sample.

    Raises:
        AssetError: if stage 1 made nothing, or its video has changed since.
    """
    meta_path = stage.first.file(sample, META_SUFFIX)
    if not is_file(meta_path):
        raise AssetError(
            f"{meta_path}: stage 1 made nothing for this sample and these sizes; "
            "run stage 1 with the same data set, T, square, patch and number of images"
        )
    selected = read_meta(meta_path)
    path = stage.first.video(sample)
    if remote_status(path) is not None and not same_source(selected["source"], path):
        raise StaleAssetError(f"{path}: changed since stage 1 read it; run stage 1 again")
    return selected


def is_packed(
    stage: Stage2, sample: VideoSample, selected: dict[str, Any], folder: Path | None = None
) -> bool:
    """Return whether an asset, by default the sample's own, is what stage 1 chose."""
    if stage.overwrite:
        return False
    folder = folder or stage.place(sample)
    meta = usable_meta(folder / META, packing_config(stage, sample, selected))
    if meta is None:
        return False
    return meta.get("selection_hash") == selected.get("selection_hash") and is_whole(folder, meta)


def check_existing(stage: Stage2, sample: VideoSample) -> None:
    """Refuse stage 1's output, or an existing folder, that was made with other settings.

    Raises:
        CvReaderError: It was, or it cannot be read.
    """
    path = stage.first.file(sample, META_SUFFIX)
    if not is_file(path):
        return
    config = packing_config(stage, sample, read_meta(path))
    if not stage.overwrite:
        usable_meta(stage.place(sample) / META, config)


def pack_sample(stage: Stage2, sample: VideoSample | BadRow) -> str:
    """Make one sample's folder.

    Returns:
        ``made``, ``remade`` (damaged or outdated before), ``kept`` (up to date) or ``skipped``.
    """
    if isinstance(sample, BadRow):
        raise SampleError(sample.reason)
    rewrite_conversations(sample, stage.num_images)
    meta_path = stage.first.file(sample, META_SUFFIX)
    choose_cache(stage.first.remote.cache)
    if stage.skip_missing and not is_file(meta_path):
        return "skipped"
    selected = read_stage1_meta(stage, sample)
    config = packing_config(stage, sample, selected)
    if is_packed(stage, sample, selected):
        return "kept"
    outcome = _outcome_of_making(stage, sample)
    arrays = read_selected(stage.first, sample, selected)
    if arrays is None:
        raise AssetError(f"{meta_path}: its arrays are damaged; run stage 1 again")
    rows, frame_ids = arrange_rows(arrays[0], config), arrays[1]
    with stage.first.local_video(sample) as video:
        mosaics = collect_mosaics(video, rows, frame_ids, config, stage.first.options)
        _write_packed(stage, sample, selected, rows, frame_ids, mosaics)
    return outcome


def _outcome_of_making(stage: Stage2, sample: VideoSample) -> str:
    is_there = stage.folder(sample).exists() or is_file(stage.place(sample) / META)
    return "remade" if is_there and not stage.overwrite else "made"


def _write_packed(
    stage: Stage2,
    sample: VideoSample,
    selected: dict[str, Any],
    rows: NDArray[np.int32],
    frame_ids: NDArray[np.int32],
    mosaics: Iterable[Image.Image],
) -> None:
    config = packing_config(stage, sample, selected)
    folder = stage.folder(sample)
    # Rows with the same id and video share a folder: it must not name one of them.
    facts = {n: v for n, v in selected.items() if n not in ("cfg", "order", "sample_key")}
    counts = {name: selected[name] for name in ("num_images", "K")}
    meta = facts | build_meta(config, counts, key=folder.name, video=sample.video)
    write_asset(folder, meta | {"image_stem": image_stem(sample.video)}, rows, frame_ids, mosaics)
    if stage.store is not None:
        move_folder(folder, stage.place(sample), META)


def make_both(stage: Stage2, sample: VideoSample | BadRow) -> str:
    """Make both stages of one sample, in one decode pass where neither is there yet.

    Returns:
        ``made``, ``remade`` or ``kept``.
    """
    if isinstance(sample, BadRow):
        raise SampleError(sample.reason)
    rewrite_conversations(sample, stage.num_images)
    first = stage.first
    choose_cache(first.remote.cache)
    if is_selected(first, sample):
        return pack_sample(stage, sample)
    outcome = _outcome_of_making(stage, sample)
    config, scratch = stage.packing(first.config), stage.out_image_root
    with first.local_video(sample) as path:
        selection, rows, mosaics = select_and_pack(path, config, first.options, scratch=scratch)
        write_selection(first, sample, selection)
        selected = read_stage1_meta(stage, sample)
        _write_packed(stage, sample, selected, rows, selection.frame_ids, mosaics)
    return outcome


def find_packed(stage: Stage2, sample: VideoSample | BadRow) -> str:
    """Check that one sample's folder is complete, content included.

    Returns:
        ``kept`` or ``skipped``.
    """
    if isinstance(sample, BadRow):
        raise SampleError(sample.reason)
    rewrite_conversations(sample, stage.num_images)
    choose_cache(stage.first.remote.cache)
    folder = stage.place(sample)
    if stage.skip_missing and not (folder.exists() or is_file(folder / META)):
        return "skipped"
    asset = read_asset(folder)
    check_files(folder, asset.meta, with_content=True)
    budget = asset.meta["cfg"]["num_images"]
    if budget != stage.num_images:
        raise AssetError(
            f"{folder}: made for {budget} images where --num_images is {stage.num_images}"
        )
    return "kept"


def training_record(
    stage: Stage2, sample: VideoSample, *, with_positions: bool, folder: Path | None = None
) -> dict[str, Any]:
    """Return a line of the training JSONL.

    Args:
        stage: the settings.
        sample: the sample, whose asset is there.
        with_positions: name the positions.
        folder: path in a shard that the line names; None = the sample's folder.
    """
    # A shard that is still open has its samples' folders beside it.
    meta_path, stem = stage.folder(sample) / META, image_stem(sample.video)
    folder = folder or stage.place(sample)
    meta_path = meta_path if meta_path.exists() else folder / META
    meta = read_meta(meta_path)
    count, quality = int(meta["num_images"]), config_of(meta, meta_path).jpg_quality
    place = address_of(folder) or str(folder)
    record: dict[str, Any] = {
        "id": sample.sample_id,
        "conversations": rewrite_conversations(sample, count),
        "image": [os.path.join(place, mosaic_name(stem, n, quality)) for n in range(count)],
    }
    if with_positions:
        record["positions_thw"] = os.path.join(place, POSITIONS)
    return record


def packing_state(stage: Stage2, sample: VideoSample | BadRow) -> str:
    """Return ``kept`` for a sample whose folder is up to date, else ``make``.

    Raises:
        CvReaderError: It cannot be made.
    """
    if isinstance(sample, BadRow):
        raise SampleError(sample.reason)
    check_video(stage.first.video(sample))
    return "kept" if is_packed(stage, sample, read_stage1_meta(stage, sample)) else "make"


def state_of_both(stage: Stage2, sample: VideoSample | BadRow) -> str:
    """Return ``kept`` for a sample of which both stages are up to date, else ``make``.

    Raises:
        CvReaderError: It cannot be made.
    """
    if isinstance(sample, BadRow):
        raise SampleError(sample.reason)
    check_video(stage.first.video(sample))
    is_done = is_selected(stage.first, sample) and is_packed(
        stage, sample, read_stage1_meta(stage, sample)
    )
    return "kept" if is_done else "make"


def try_packing(stage: Stage2, folder: Path, sample: VideoSample) -> str:
    """Make a sample's folder elsewhere."""
    return pack_sample(replace(stage, out_image_root=folder, store=None, overwrite=True), sample)


def try_both(stage: Stage2, folder: Path, sample: VideoSample) -> str:
    """Make both stages of a sample elsewhere."""
    first = replace(stage.first, out_root=folder / "1", store=None, overwrite=True)
    elsewhere = replace(stage, out_image_root=folder / "2", store=None, overwrite=True)
    return make_both(replace(elsewhere, first=first), sample)
