"""Reading selections as stage 1 writes them, whoever made them: the reference implementation too.

Axis letters: T slots, K rows.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.assets.contract import load_array
from cv_reader.assets.stage1 import FRAME_IDS_SUFFIX, META_SUFFIX, ROWS_SUFFIX
from cv_reader.errors import AssetError
from cv_reader.select.config import AssetConfig


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A selection on disk: the three files of one video.

    Attributes:
        name: what its files begin with.
        video: as its metadata names it.
        rows: int32 (K, 3), (t, h, w).
        frame_ids: int32 (T,).
        config: the settings it was made with; what it does not record has the default.
    """

    name: str
    video: str
    rows: NDArray[np.int32]
    frame_ids: NDArray[np.int32]
    config: AssetConfig


def find_chosen(folder: Path) -> list[Path]:
    """The metadata files of all selections in a folder, as stage 1 writes them."""
    return sorted(folder.glob(f"*{META_SUFFIX}"))


def read_chosen(meta_path: Path) -> Chosen:
    """Read a selection that stage 1, or the reference implementation, has written.

    Raises:
        AssetError: if a file is missing or does not fit the others.
    """
    name = meta_path.name.removesuffix(META_SUFFIX)
    try:
        meta: dict[str, Any] = json.loads(meta_path.read_text(encoding="utf-8"))
        config = AssetConfig(
            sequence_length=meta["T"],
            num_images=meta["keep_frames_equiv"],
            square_size=meta["square_size"],
            patch_size=meta["patch"],
            padding_policy=meta["padding_policy"],
            keep_first_full_frame=meta["keep_first_full_frame"],
            keep_uniform_first=meta["keep_uniform_first"],
        )
        video = str(meta["video"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssetError(f"{meta_path}: not the metadata of a selection ({error!r})") from error
    rows = load_array(meta_path.with_name(name + ROWS_SUFFIX))
    frame_ids = load_array(meta_path.with_name(name + FRAME_IDS_SUFFIX))
    shape = np.array([config.sequence_length, config.grid, config.grid])
    fits = rows.ndim == 2 and rows.shape[1:] == (3,) and (rows >= 0).all() and (rows < shape).all()
    if not fits or frame_ids.shape != (config.sequence_length,):
        raise AssetError(f"{meta_path}: rows and frame numbers do not fit its T and grid")
    return Chosen(name=name, video=video, rows=rows, frame_ids=frame_ids, config=config)
