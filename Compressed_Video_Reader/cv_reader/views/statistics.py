"""What a folder of assets keeps, over time and space, added up over videos.

Axis letters: T slots, g cells along a side, V videos.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cv_reader.assets.contract import read_asset
from cv_reader.reader import ReadOptions
from cv_reader.select.config import AssetConfig
from cv_reader.views.rebuilt import score_all
from cv_reader.views.selections import read_pictures, video_path


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What one asset keeps; slots that are whole by setting are left out of the counts.

    Attributes:
        maker: backend that read the video.
        fingerprint: fingerprint of the settings.
        num_images: mosaics.
        per_slot: int32 (T,), patches kept in each slot.
        per_cell: int32 (g, g), slots in which each cell is kept.
        free_slots: bool (T,), slots that had to compete.
        num_padding: kept cells outside the picture, in slots that had to compete.
        num_rows: kept cells in these slots.
        nearest_db: PSNR of the video rebuilt from what is kept; NaN where it was not measured.
        nothing_new: share of kept cells that show nothing new; NaN where that was not measured,
            or where none could.
    """

    maker: str
    fingerprint: str
    num_images: int
    per_slot: NDArray[np.int32]
    per_cell: NDArray[np.int32]
    free_slots: NDArray[np.bool_]
    num_padding: int
    num_rows: int
    nearest_db: float = float("nan")
    nothing_new: float = float("nan")


@dataclass(kw_only=True)
class Totals:
    """Sums over the assets with the same T, g and whole slots.

    Attributes:
        num_videos: V.
        makers: backend -> videos.
        fingerprints: fingerprint -> videos.
        num_images: number of mosaics -> videos.
        per_slot: V arrays int32 (T,).
        per_cell: int64 (g, g).
        padding_shares: share of padding in what competed, per video.
        nearest_db, nothing_new: per video, of those that were measured.
        free_slots: bool (T,).
    """

    free_slots: NDArray[np.bool_]
    per_cell: NDArray[np.int64]
    num_videos: int = 0
    makers: Counter[str] = field(default_factory=Counter[str])
    fingerprints: Counter[str] = field(default_factory=Counter[str])
    num_images: Counter[int] = field(default_factory=Counter[int])
    per_slot: list[NDArray[np.int32]] = field(default_factory=list[NDArray[np.int32]])
    padding_shares: list[float] = field(default_factory=list[float])
    nearest_db: list[float] = field(default_factory=list[float])
    nothing_new: list[float] = field(default_factory=list[float])

    def add(self, kept: Kept) -> None:
        """Add one asset."""
        self.num_videos += 1
        self.makers[kept.maker] += 1
        self.fingerprints[kept.fingerprint] += 1
        self.num_images[kept.num_images] += 1
        self.per_slot.append(kept.per_slot)
        self.per_cell += kept.per_cell
        self.padding_shares.append(kept.num_padding / max(kept.num_rows, 1))
        for values, value in (
            (self.nearest_db, kept.nearest_db),
            (self.nothing_new, kept.nothing_new),
        ):
            if not np.isnan(value):
                values.append(value)

    def half_slots(self) -> NDArray[np.int64]:
        """Return in how many slots half of what competed was kept: int64, one number for each video
        of which anything competed."""
        counts = np.array(self.per_slot)[:, self.free_slots]
        counts = counts[counts.any(axis=1)]
        ordered = -np.sort(-counts, axis=1)
        reached = 2 * np.cumsum(ordered, axis=1) >= counts.sum(axis=1, keepdims=True)
        return reached.argmax(axis=1) + 1 if counts.size else np.zeros(0, np.int64)


def read_kept(folder: Path, video_root: Path | None = None) -> Kept:
    """Count what an asset keeps, and measure what it shows of its video.

    Args:
        folder: the asset's.
        video_root: where its video is; None = do not measure.

    Raises:
        AssetError: if it cannot be read.
        VideoError: if the video is wanted and cannot be read.
    """
    asset = read_asset(folder)
    config = AssetConfig.from_dict(asset.meta["cfg"], folder)
    slots, grid = config.sequence_length, config.grid
    kept = np.zeros((slots, grid, grid), bool)
    kept[tuple(asset.positions.T)] = True
    free = np.ones(slots, bool)
    free[list(config.full_slots)] = False
    competed = kept[free]
    ranges = asset.meta["valid_ranges"]
    content = np.zeros((grid, grid), bool)
    if ranges["S_valid"]:
        rows = slice(ranges["valid_h_start"], ranges["valid_h_end"])
        content[rows, ranges["valid_w_start"] : ranges["valid_w_end"]] = True
    nearest_db = nothing_new = float("nan")
    if video_root is not None and content.any():
        path = video_path(video_root, str(asset.meta["video"]))
        clip, _, seconds = read_pictures(path, asset.frame_ids, config, ReadOptions())
        (score,) = score_all(clip, [asset.positions], seconds, with_motion=False)
        nearest_db, nothing_new = score.rebuilt["nearest"].psnr_db, score.nothing_new
    return Kept(
        nearest_db=nearest_db,
        nothing_new=nothing_new,
        maker=str(asset.meta["backend"]),
        fingerprint=str(asset.meta["fingerprint"]),
        num_images=len(asset.images),
        per_slot=kept.sum(axis=(1, 2)).astype(np.int32),
        per_cell=competed.sum(axis=0).astype(np.int32),
        free_slots=free,
        num_padding=int(competed[:, ~content].sum()),
        num_rows=int(competed.sum()),
    )


def new_totals(kept: Kept) -> Totals:
    """Return totals of the shape of an asset, still empty."""
    return Totals(
        free_slots=kept.free_slots.copy(), per_cell=np.zeros(kept.per_cell.shape, np.int64)
    )
