"""A selection as other tools write it: rows, frame ids and metadata in three files."""

import json
from pathlib import Path

import numpy as np

_META = {
    "video": "videos/clip.mp4",
    "T": 8,
    "square_size": 64,
    "patch": 8,
    "keep_frames_equiv": 2,
    "padding_policy": "zero",
    "keep_first_full_frame": True,
    "keep_uniform_first": False,
}


def write_selection(
    folder: Path, rows: np.ndarray, frame_ids: np.ndarray, **changes: object
) -> Path:
    """Write the files of ``sample``; ``changes`` are of its metadata. Returns the metadata's path.

    Args:
        folder: made where it is missing.
        rows: (K, 3), (t, h, w).
        frame_ids: (T,).
        changes: entries of the metadata to add or replace.
    """
    folder.mkdir(exist_ok=True)
    np.save(folder / "sample.visidx_thw.npy", rows.astype(np.int32))
    np.save(folder / "sample.frame_ids.npy", frame_ids.astype(np.int32))
    path = folder / "sample.meta.json"
    path.write_text(json.dumps(_META | changes), encoding="utf-8")
    return path
