"""Stage 1: what it chooses of a sample, and the three files that say so.

Axis letters: K rows, T slots.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.assets.contract import load_array
from cv_reader.assets.files import write_array, write_json
from cv_reader.assets.freshness import same_source, selection_hash, standing_meta
from cv_reader.assets.make import Selection, build_meta, select_from_video
from cv_reader.assets.names import stage1_prefix
from cv_reader.assets.samples import BadSample, Sample, resolve_video
from cv_reader.errors import AssetError, SampleError
from cv_reader.reader import ReadOptions
from cv_reader.select.config import AssetConfig

FRAME_IDS_SUFFIX = ".frame_ids.npy"
META_SUFFIX = ".meta.json"
ROWS_SUFFIX = ".visidx_thw.npy"


@dataclass(frozen=True, kw_only=True)
class Stage1:
    """Everything a worker needs to know beside the sample."""

    config: AssetConfig
    options: ReadOptions
    data_file: Path
    video_root: Path | None
    out_root: Path
    overwrite: bool

    def file(self, sample: Sample, suffix: str) -> Path:
        """One of the three files of a sample."""
        name = stage1_prefix(sample.sample_id, sample.video, sample.key, self.config)
        return self.out_root / (name + suffix)

    def video(self, sample: Sample) -> Path:
        """Where the sample's video lies."""
        return resolve_video(sample.video, data_file=self.data_file, video_root=self.video_root)


def standing_selection(stage: Stage1, sample: Sample) -> dict[str, Any] | None:
    """Metadata of a sample's selection that was made as asked for, or None.

    Raises:
        AssetError: if it was made otherwise.
    """
    return standing_meta(
        stage.file(sample, META_SUFFIX),
        stage.config,
        backend=stage.options.backend,
        require_exact=stage.options.require_exact,
    )


def is_selected(stage: Stage1, sample: Sample) -> bool:
    """Whether a sample's files are up to date."""
    path = stage.video(sample)
    if stage.overwrite or not path.exists():
        return False
    meta = standing_selection(stage, sample)
    return (
        meta is not None
        and same_source(meta["source"], path)
        and load_chosen(stage, sample, meta) is not None
    )


def load_chosen(
    stage: Stage1, sample: Sample, meta: dict[str, Any]
) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
    """Rows int32 (K, 3) and frame ids int32 (T,) of a selection; None where they are damaged."""
    try:
        rows = load_array(stage.file(sample, ROWS_SUFFIX))
        frame_ids = load_array(stage.file(sample, FRAME_IDS_SUFFIX))
    except AssetError:
        return None
    is_sound = (
        rows.dtype == frame_ids.dtype == np.int32
        and rows.shape == (meta["K"], 3)
        and selection_hash(rows, frame_ids) == meta["selection_hash"]
    )
    return (rows, frame_ids) if is_sound else None


def make_selection(stage: Stage1, sample: Sample | BadSample) -> str:
    """Make one sample's files; returns ``made``, or ``kept`` where they are up to date."""
    if isinstance(sample, BadSample):
        raise SampleError(sample.reason)
    if is_selected(stage, sample):
        return "kept"
    selection = select_from_video(stage.video(sample), stage.config, stage.options)
    write_selection(stage, sample, selection)
    return "made"


def write_selection(stage: Stage1, sample: Sample, selection: Selection) -> None:
    """Write the three files of a sample; the metadata last, so that it stands for all."""
    meta_path = stage.file(sample, META_SUFFIX)
    meta_path.unlink(missing_ok=True)
    write_array(stage.file(sample, ROWS_SUFFIX), selection.rows)
    write_array(stage.file(sample, FRAME_IDS_SUFFIX), selection.frame_ids)
    config = stage.config
    meta = build_meta(config, selection.facts, key=sample.key, video=sample.video)
    meta |= {
        "sample_id": sample.sample_id,
        "sample_key": sample.key,
        "frame_ids": None,
        "preprocess": f"square{config.square_size}",
        "keep_frames_equiv": config.num_images,
        "padding_policy": config.padding_policy,
        "keep_uniform_first": config.keep_uniform_first,
        "keep_first_full_frame": config.keep_first_full_frame,
    }
    write_json(meta_path, meta)
