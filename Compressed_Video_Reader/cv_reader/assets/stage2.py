"""Stage 2: the cells that stage 1 chose, packed into a sample's folder, and its JSONL line.

The functions that workers run. Both stages, or one decode pass for the two, leave the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cv_reader.assets.contract import META, POSITIONS, is_sound, read_asset, read_meta
from cv_reader.assets.freshness import same_source, standing_meta
from cv_reader.assets.make import (
    build_meta,
    collect_squares,
    select_and_pack,
    write_asset,
)
from cv_reader.assets.names import image_stem, sample_folder_name
from cv_reader.assets.samples import BadSample, Sample, rewrite_conversations
from cv_reader.assets.stage1 import META_SUFFIX, Stage1, is_selected, load_chosen, write_selection
from cv_reader.errors import AssetError, SampleError, SettingsError, StaleAssetError
from cv_reader.select.config import AssetConfig
from cv_reader.select.mosaics import arrange_rows


@dataclass(frozen=True, kw_only=True)
class Stage2:
    """Everything a worker needs to know beside the sample.

    ``first`` says where stage 1's files lie. Of its settings those count that name the files; the
    others are read from them.
    """

    first: Stage1
    order: str
    jpg_quality: int
    out_image_root: Path
    first_full: bool
    overwrite: bool
    skip_missing: bool
    shard_folder: str = ""

    @property
    def num_images(self) -> int:
        """G."""
        return self.first.config.num_images

    def packing(self, config: AssetConfig) -> AssetConfig:
        """Stage 1's settings with this stage's order and quality."""
        return replace(config, order=self.order, jpg_quality=self.jpg_quality)

    def folder(self, sample: Sample) -> Path:
        """The sample's asset."""
        name = sample_folder_name(sample.sample_id, sample.video)
        return self.out_image_root / self.shard_folder / name


def chosen_config(stage: Stage2, sample: Sample, chosen: dict[str, Any]) -> AssetConfig:
    """Stage 1's settings with this stage's order and quality.

    Raises:
        StaleAssetError: if stage 1 belongs to another sample or another version.
        SettingsError: if the first frame must be whole and is not.
    """
    path = stage.first.file(sample, META_SUFFIX)
    config = AssetConfig.from_dict(chosen["cfg"], path)
    if chosen["fingerprint"] != config.fingerprint:
        raise StaleAssetError(
            f"{path}: fingerprint {chosen['fingerprint']} where its settings and this version give "
            f"{config.fingerprint}; run stage 1 again with --overwrite"
        )
    if chosen["key"] != sample.key:
        raise StaleAssetError(
            f"{path}: made for {chosen['key']!r} where {sample.key!r} is asked for; "
            "run stage 1 again on this data set with --overwrite"
        )
    if stage.first_full and not config.keep_first_full_frame:
        raise SettingsError(
            f"{path}: --first_full needs a first frame that is kept whole; "
            "run stage 1 with --keep_first_full_frame, or drop --first_full"
        )
    return stage.packing(config)


def read_chosen(stage: Stage2, sample: Sample) -> dict[str, Any]:
    """Stage 1's metadata of a sample.

    Raises:
        AssetError: if stage 1 made nothing, or its video has changed since.
    """
    meta_path = stage.first.file(sample, META_SUFFIX)
    if not meta_path.exists():
        raise AssetError(
            f"{meta_path}: stage 1 made nothing for this sample and these sizes; "
            "run stage 1 with the same data set, T, square, patch and number of images"
        )
    chosen = read_meta(meta_path)
    path = stage.first.video(sample)
    if path.exists() and not same_source(chosen["source"], path):
        raise StaleAssetError(f"{path}: changed since stage 1 read it; run stage 1 again")
    return chosen


def is_packed(stage: Stage2, sample: Sample, chosen: dict[str, Any]) -> bool:
    """Whether a sample's folder holds what stage 1 chose."""
    if stage.overwrite:
        return False
    config = chosen_config(stage, sample, chosen)
    folder = stage.folder(sample)
    standing = standing_meta(folder / META, config)
    return (
        standing is not None
        and standing["selection_hash"] == chosen["selection_hash"]
        and is_sound(folder)
    )


def pack_sample(stage: Stage2, sample: Sample | BadSample) -> str:
    """Make one sample's folder; returns ``made``, ``kept`` (up to date) or ``skipped``."""
    if isinstance(sample, BadSample):
        raise SampleError(sample.reason)
    rewrite_conversations(sample, stage.num_images)
    meta_path = stage.first.file(sample, META_SUFFIX)
    if stage.skip_missing and not meta_path.exists():
        return "skipped"
    chosen = read_chosen(stage, sample)
    config = chosen_config(stage, sample, chosen)
    if is_packed(stage, sample, chosen):
        return "kept"
    arrays = load_chosen(stage.first, sample, chosen)
    if arrays is None:
        raise AssetError(f"{meta_path}: its arrays are damaged; run stage 1 again")
    rows, frame_ids = arrange_rows(arrays[0], config), arrays[1]
    video, options = stage.first.video(sample), stage.first.options
    mosaics = collect_squares(video, rows, frame_ids, config, options)
    _write_packed(stage, sample, chosen, rows, frame_ids, mosaics)
    return "made"


def _write_packed(
    stage: Stage2,
    sample: Sample,
    chosen: dict[str, Any],
    rows: NDArray[np.int32],
    frame_ids: NDArray[np.int32],
    mosaics: Sequence[Image.Image],
) -> None:
    config = chosen_config(stage, sample, chosen)
    folder = stage.folder(sample)
    # Rows with the same id and video share a folder: it must not name one of them.
    facts = {n: v for n, v in chosen.items() if n not in ("cfg", "order", "sample_key")}
    counts = {name: chosen[name] for name in ("num_images", "K")}
    meta = facts | build_meta(config, counts, key=folder.name, video=sample.video)
    write_asset(folder, meta | {"image_stem": image_stem(sample.video)}, rows, frame_ids, mosaics)


def make_both(stage: Stage2, sample: Sample | BadSample) -> str:
    """Both stages of one sample, in one decode pass where nothing stands yet."""
    if isinstance(sample, BadSample):
        raise SampleError(sample.reason)
    rewrite_conversations(sample, stage.num_images)
    first = stage.first
    if is_selected(first, sample):
        return pack_sample(stage, sample)
    path = first.video(sample)
    config = stage.packing(first.config)
    selection, rows, mosaics = select_and_pack(path, config, first.options)
    write_selection(first, sample, selection)
    _write_packed(stage, sample, read_chosen(stage, sample), rows, selection.frame_ids, mosaics)
    return "made"


def find_packed(stage: Stage2, sample: Sample | BadSample) -> str:
    """Check that one sample's folder is complete; returns ``kept`` or ``skipped``."""
    if isinstance(sample, BadSample):
        raise SampleError(sample.reason)
    rewrite_conversations(sample, stage.num_images)
    folder = stage.folder(sample)
    if stage.skip_missing and not folder.exists():
        return "skipped"
    asset = read_asset(folder)
    budget = asset.meta["cfg"]["num_images"]
    if budget != stage.num_images:
        raise AssetError(
            f"{folder}: made for {budget} images where --num_images is {stage.num_images}"
        )
    return "kept"


def training_record(stage: Stage2, sample: Sample, *, with_positions: bool) -> dict[str, Any]:
    """A line of the training JSONL."""
    folder, stem = stage.folder(sample), image_stem(sample.video)
    count = int(read_meta(folder / META)["num_images"])
    record: dict[str, Any] = {
        "id": sample.sample_id,
        "conversations": rewrite_conversations(sample, count),
        "image": [str(folder / f"{stem}_{index:03d}.jpg") for index in range(count)],
    }
    if with_positions:
        record["positions_thw"] = str(folder / POSITIONS)
    return record
