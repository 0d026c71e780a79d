"""Reading what is kept of a video, and its pictures, from any kind of output.

Selections are read from assets, from stage 1's files (those of the reference implementation too)
and from bare arrays.

Axis letters: T slots, K rows.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.assets.contract import META, load_array, read_asset
from cv_reader.assets.names import FRAME_IDS_SUFFIX, META_SUFFIX, ROWS_SUFFIX
from cv_reader.errors import AssetError, SettingsError
from cv_reader.media.frames import VideoIndex
from cv_reader.reader import ReadOptions
from cv_reader.select.chooser import video_box
from cv_reader.select.config import AssetConfig
from cv_reader.select.geometry import Letterbox
from cv_reader.select.mosaics import square_frame
from cv_reader.select.rate_distortion.chains import Links, MotionChains
from cv_reader.select.rate_distortion.clip import SmallClip, empty_clip, put_square
from cv_reader.select.rate_distortion.places import FollowedClip, follow_motion
from cv_reader.select.selection import sample_frame_ids


@dataclass(frozen=True, kw_only=True)
class ShownSelection:
    """A selection on disk.

    Attributes:
        name: name of its folder, or what its files begin with.
        video: path of the video, as the metadata names it.
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
    """Return the metadata files of all selections in a folder, as stage 1 writes them."""
    return sorted(folder.glob(f"*{META_SUFFIX}"))


def read_chosen(meta_path: Path) -> ShownSelection:
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
    return ShownSelection(name=name, video=video, rows=rows, frame_ids=frame_ids, config=config)


def read_kept_asset(folder: Path) -> ShownSelection:
    """Read what an asset keeps.

    Raises:
        AssetError: if it breaks the contract.
    """
    asset = read_asset(folder)
    return ShownSelection(
        name=folder.name,
        video=str(asset.meta["video"]),
        rows=asset.positions,
        frame_ids=asset.frame_ids,
        config=AssetConfig.from_dict(asset.meta["cfg"], folder / META),
    )


def read_bare_rows(
    path: Path, video: Path, index: VideoIndex, frame_ids: Path | None, config: AssetConfig
) -> ShownSelection:
    """Read rows (t, h, w) of any maker.

    Args:
        path: ``.npy`` of int (K, 3).
        video: what they were kept of.
        index: index of that video.
        frame_ids: ``.npy`` of int (T,); None = T evenly spread frames, by the configured length.
        config: sizes.

    Raises:
        AssetError: if the arrays do not fit each other, the sizes or the video.
    """
    rows = load_array(path)
    if frame_ids is None:
        ids = sample_frame_ids(index.num_frames, config.sequence_length)
    else:
        ids = load_array(frame_ids)
    limits = np.array([len(ids), config.grid, config.grid])
    is_whole = rows.ndim == 2 and rows.shape[1] == 3 and rows.dtype.kind in "iu" and len(rows) > 0
    if not is_whole or (rows < 0).any() or (rows >= limits).any():
        raise AssetError(
            f"{path}: must be whole numbers (K, 3) with t, h, w below {limits.tolist()}, got "
            f"{rows.dtype} {rows.shape}; pass --square_size, --patch_size and --frame_ids as made"
        )
    if (
        ids.ndim != 1
        or ids.dtype.kind not in "iu"
        or ids.min() < 0
        or ids.max() >= index.num_frames
    ):
        raise AssetError(f"{frame_ids}: must be frame numbers (T,) below {index.num_frames}")
    return ShownSelection(
        name=path.stem,
        video=str(video),
        rows=rows.astype(np.int32),
        frame_ids=ids.astype(np.int32),
        config=config,
    )


def read_any(item: Path) -> ShownSelection:
    """Read an asset folder or a selection's ``.meta.json``.

    Raises:
        SettingsError: if it is neither.
        AssetError: if it breaks the contract.
    """
    if (item / META).is_file():
        return read_kept_asset(item)
    if item.name.endswith(META_SUFFIX) and item.is_file():
        return read_chosen(item)
    raise SettingsError(
        f"{item}: neither an asset folder nor a selection's {META_SUFFIX}; for rows (.npy) and for "
        "choices that are yet to be made, name the video with --video"
    )


def video_path(root: Path | None, video: str) -> Path:
    """Return the path of a video: below the root by its path or by its name alone."""
    whole = Path(video) if root is None else root / video
    return whole if root is None or whole.exists() else root / Path(video).name


def read_pictures(
    path: Path, frame_ids: NDArray[np.int32], config: AssetConfig, options: ReadOptions
) -> tuple[SmallClip, Letterbox, NDArray[np.float64]]:
    """Read the reduced picture of every slot, in one pass for pixels alone.

    Args:
        path: the video.
        frame_ids: int32 (T,), never decreasing.
        config: sizes.
        options: how to read.

    Returns:
        The pictures, their place in the square, and when each slot is shown in seconds.

    Raises:
        VideoError: if the video cannot be read.
        AssetError: if it has fewer frames than were kept of it.
    """
    with options.open(path) as video:
        index = video.index
        if frame_ids.max() >= index.num_frames:
            raise AssetError(
                f"{path}: frame {frame_ids.max()} was kept but the last one is "
                f"{index.num_frames - 1}; this is another video"
            )
        box = video_box(index, config)
        clip = empty_clip(box, len(frame_ids))
        for frame in video.frames(np.unique(frame_ids).tolist(), signals=False):
            square = square_frame(frame, box)
            for slot in np.flatnonzero(frame_ids == frame.index).tolist():
                put_square(clip, slot, square)
        return clip, box, index.pts_seconds[frame_ids]


def read_followed(
    path: Path,
    frame_ids: NDArray[np.int32],
    clip: SmallClip,
    config: AssetConfig,
    options: ReadOptions,
) -> FollowedClip:
    """Return a clip turned to places that follow the scene, in one pass over all pictures between.

    Args:
        path: the video.
        frame_ids: int32 (T,), never decreasing.
        clip: the picture of every slot, of ``read_pictures``.
        config: sizes.
        options: how to read.

    Raises:
        VideoError: if the video cannot be read, or its vectors are not exact.
    """
    distinct, slots = np.unique(frame_ids, return_index=True)
    with options.open(path) as video:
        video.check_exact("motion", "--rebuild vectors")
        box = video_box(video.index, config)
        chains = MotionChains(box, clip.rows, clip.columns, distinct.tolist())
        for frame in video.frames(range(int(distinct[0]), int(distinct[-1]) + 1)):
            chains.add(frame)
    found = chains.finish()
    # A slot that repeats the frame before it does not move.
    steps = np.zeros((len(frame_ids), *found.steps.shape[1:]), np.int16)
    is_known = np.ones(steps.shape[:3], np.bool_)
    steps[slots], is_known[slots] = found.steps, found.is_known
    return follow_motion(clip, Links(steps, is_known, found.num_pictures), 1)
