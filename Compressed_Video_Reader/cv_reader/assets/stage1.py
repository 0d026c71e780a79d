"""Stage 1: choose the cells of a sample, and keep them in three files.

Axis letters: K rows, T slots.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.assets.arrays import load_array
from cv_reader.assets.files import array_bytes, json_bytes, replace_files
from cv_reader.assets.freshness import same_source, selection_hash, usable_meta
from cv_reader.assets.make import RunSettings, Selection, select_from_video
from cv_reader.assets.metadata import build_meta
from cv_reader.assets.names import (
    FRAME_IDS_SUFFIX,
    META_SUFFIX,
    ROWS_SUFFIX,
    recorded_name,
    stage1_prefix,
)
from cv_reader.assets.samples import BadRow, VideoSample
from cv_reader.errors import AssetError, SampleError
from cv_reader.remote.cache import choose_cache
from cv_reader.remote.output import put_contents
from cv_reader.remote.videos import remote_status
from cv_reader.shards import is_file


@dataclass(frozen=True, kw_only=True)
class Stage1(RunSettings):
    """Settings of stage 1 that are the same for all samples."""

    def name(self, sample: VideoSample) -> str:
        """Return what the names of a sample's three files begin with."""
        return stage1_prefix(sample.sample_id, sample.video, sample.key, self.config)

    def file(self, sample: VideoSample, suffix: str) -> Path:
        """Return the path or address of one of a sample's three files."""
        return Path(self.store or self.out_root) / (self.name(sample) + suffix)

    def files(self, sample: VideoSample) -> list[str]:
        """Return the paths of a sample's three files."""
        suffixes = (ROWS_SUFFIX, FRAME_IDS_SUFFIX, META_SUFFIX)
        prefix = f"{self.out_root}/{self.name(sample)}"
        return [prefix + suffix for suffix in suffixes]


def usable_selection(stage: Stage1, sample: VideoSample) -> dict[str, Any] | None:
    """Return the metadata of a sample's selection; None where it is missing or damaged.

    Raises:
        StaleAssetError: if it was made with other settings.
    """
    return usable_meta(
        stage.file(sample, META_SUFFIX),
        stage.config,
        backend=stage.options.backend,
        require_exact=stage.options.require_exact,
    )


def is_selected(stage: Stage1, sample: VideoSample) -> bool:
    """Return whether a sample's files are up to date."""
    path = stage.video(sample)
    if stage.overwrite or remote_status(path) is None:
        return False
    meta = usable_selection(stage, sample)
    if meta is None:
        return False
    # Imported here: each worker imports this module, and most selections are not there yet.
    from cv_reader.assets.validation import is_sound_selection

    return (
        meta["key"] == recorded_name(sample.key)
        and same_source(meta["source"], path)
        and is_sound_selection(stage.file(sample, META_SUFFIX))
    )


def read_selected(
    stage: Stage1, sample: VideoSample, meta: dict[str, Any]
) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
    """Read a selection: rows int32 (K, 3) and frame ids int32 (T,); None if they are damaged."""
    try:
        rows = load_array(stage.file(sample, ROWS_SUFFIX))
        frame_ids = load_array(stage.file(sample, FRAME_IDS_SUFFIX))
    except AssetError:
        return None
    is_sound = (
        rows.dtype == frame_ids.dtype == np.int32
        and rows.shape == (meta.get("K"), 3)
        and selection_hash(rows, frame_ids) == meta.get("selection_hash")
    )
    return (rows, frame_ids) if is_sound else None


def make_selection(stage: Stage1, sample: VideoSample | BadRow) -> str:
    """Make one sample's files.

    Returns:
        ``made``, ``remade`` (damaged or outdated before), or ``kept`` (up to date).
    """
    if isinstance(sample, BadRow):
        raise SampleError(sample.reason)
    choose_cache(stage.remote.cache)
    if is_selected(stage, sample):
        return "kept"
    was_there = not stage.overwrite and is_file(stage.file(sample, META_SUFFIX))
    with stage.local_video(sample) as path:
        selection = select_from_video(path, stage.config, stage.options)
    write_selection(stage, sample, selection)
    return "remade" if was_there else "made"


def write_selection(stage: Stage1, sample: VideoSample, selection: Selection) -> None:
    """Write the three files of a sample; the metadata last, as it vouches for the others."""
    config = stage.config
    key = recorded_name(sample.key)
    meta = build_meta(config, selection.facts, key=key, video=sample.video)
    meta |= {
        "sample_id": recorded_name(sample.sample_id),
        "sample_key": key,
        "frame_ids": None,
        "preprocess": f"square{config.square_size}",
        "keep_frames_equiv": config.num_images,
        "padding_policy": config.padding_policy,
        "keep_uniform_first": config.keep_uniform_first,
        "keep_first_full_frame": config.keep_first_full_frame,
    }
    write = replace_files if stage.store is None else put_contents
    write(
        {
            stage.file(sample, ROWS_SUFFIX): array_bytes(selection.rows),
            stage.file(sample, FRAME_IDS_SUFFIX): array_bytes(selection.frame_ids),
            stage.file(sample, META_SUFFIX): json_bytes(meta),
        }
    )
