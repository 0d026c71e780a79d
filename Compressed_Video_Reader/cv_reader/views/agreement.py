"""How far a selection made elsewhere agrees with the one made here, and why it differs.

What is compared is what competes: content cells of the slots that are not kept whole anyway. The
reasons are measured, not told: what the bitstream says about the cells that only one side keeps,
and how the agreement changes when scores are made by the other side's rules.

Axis letters: T slots, g cells along a side, K rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cv_reader.errors import AssetError
from cv_reader.media.frames import CodecFrame
from cv_reader.reader import ReadOptions
from cv_reader.select.cheap import sampled_frames
from cv_reader.select.chooser import video_box
from cv_reader.select.config import AssetConfig
from cv_reader.select.energy import CellScorer
from cv_reader.select.geometry import Letterbox
from cv_reader.select.selection import repeated_slots, select_cells
from cv_reader.views.selections import ShownSelection

OURS = "the default signal: list 0 in whole pixels, true residual"
EXACT_MOTION = "exact motion of both lists, true residual"
RESIDUAL_ALONE = "true residual alone"
MOTION_ALONE = "exact motion alone"
RULE_ALONE = "list 0 in whole pixels alone"
VARIANTS = (OURS, EXACT_MOTION, RESIDUAL_ALONE, MOTION_ALONE, RULE_ALONE)

Cells = NDArray[np.bool_]
Scores = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two selections of one video, cell by cell.

    Attributes:
        name, video: of the other selection.
        frame_ids: int32 (T,).
        competing: bool (T, g, g), content cells of slots that are not kept whole.
        ours, theirs: bool (T, g, g), of these the ones that are kept.
        coded: bool (T, g, g), where the true luma residual is not 0 throughout.
        moving: bool (T, g, g), where a vector of either list is not 0.
        moving_by_rule: bool (T, g, g), where one of list 0 reaches a whole pixel.
        shared_by: variant of the scores -> share of the other selection that it keeps too.
        squares: uint8 (T, S, S, 3), what each slot shows.
        residuals: uint8 (T, S, S), absolute residual, 255 and above as 255.
        content: rows and columns of the square that hold the picture, in pixels.
        patch_px: side of a cell.
        backend: what read the video.
        pict_types: picture types of each slot's frame.
    """

    name: str
    video: str
    frame_ids: NDArray[np.int32]
    competing: Cells
    ours: Cells
    theirs: Cells
    coded: Cells
    moving: Cells
    moving_by_rule: Cells
    shared_by: Mapping[str, float]
    squares: NDArray[np.uint8]
    residuals: NDArray[np.uint8]
    content: tuple[slice, slice]
    patch_px: int
    backend: str
    pict_types: tuple[str, ...]

    @property
    def shared(self) -> float:
        """Share of the other selection that is kept here too."""
        return _share(self.ours, self.theirs)

    @property
    def jaccard(self) -> float:
        """Cells that both keep, of those that either keeps."""
        return _share(self.ours & self.theirs, self.ours | self.theirs)

    @property
    def chance(self) -> float:
        """Return what ``shared`` would be if as many cells were drawn at random."""
        return _share(self.ours, self.competing)

    def slot_jaccard(self) -> NDArray[np.float64]:
        """Return the Jaccard index of each slot, NaN where neither keeps any: float64 (T,)."""
        both = (self.ours & self.theirs).sum((1, 2))
        either = (self.ours | self.theirs).sum((1, 2))
        return np.where(either > 0, both / np.maximum(either, 1), np.nan)

    def shares(self) -> dict[str, tuple[float, float, float]]:
        """Return how often statements of the bitstream hold: statement -> three shares of cells.

        The shares are of the cells that both keep, kept here alone, and kept there alone.
        """
        statements = {
            "the true luma residual is exactly 0": ~self.coded,
            "nothing is coded and nothing moves": ~self.coded & ~self.moving,
            "something moves, by less than a pixel or in list 1 alone": (
                self.moving & ~self.moving_by_rule
            ),
        }
        groups = (self.ours & self.theirs, self.ours & ~self.theirs, self.theirs & ~self.ours)
        return {
            name: (_share(cells, groups[0]), _share(cells, groups[1]), _share(cells, groups[2]))
            for name, cells in statements.items()
        }


def compare(chosen: ShownSelection, path: Path, options: ReadOptions) -> Agreement:
    """Select from the video again, by the same settings, and compare.

    Raises:
        VideoError: if the video cannot be read.
        AssetError: if other frames were sampled than would be here.
    """
    config = chosen.config
    with replace(options, hdr=config.hdr).open(path) as video:
        index = video.index
        frame_ids, _ = sampled_frames(index, config)
        if not np.array_equal(frame_ids, chosen.frame_ids):
            raise AssetError(
                f"{chosen.name}: other frames were sampled than are here from {path} "
                f"({index.num_frames} frames); compare selections of the same file and settings"
            )
        box = video_box(index, config)
        slots: list[int] = np.flatnonzero(~repeated_slots(frame_ids)).tolist()
        facts = _Facts(box, config)
        for slot, frame in zip(slots, video.frames(frame_ids[slots].tolist()), strict=True):
            facts.add(slot, frame)
        backend = video.backend
    return facts.agreement(chosen, frame_ids, backend)


class _Facts:
    """Collects per slot what the comparison needs, in one pass."""

    def __init__(self, box: Letterbox, config: AssetConfig) -> None:
        self._box, self._config = box, config
        shape = (config.sequence_length, box.grid, box.grid)
        plain = replace(config, mv_compensate="none")
        self._scorer, self._ruled = CellScorer(box, config), CellScorer(box, config)
        self._plain, self._plain_ruled = CellScorer(box, plain), CellScorer(box, plain)
        self._motion, self._rule, self._residual = (np.zeros(shape, np.float32) for _ in range(3))
        self._moving, self._moving_by_rule = (np.zeros(shape, np.bool_) for _ in range(2))
        side = config.square_size
        self._squares = np.zeros((shape[0], side, side, 3), np.uint8)
        self._residuals = np.zeros((shape[0], side, side), np.uint8)
        self._pict_types = ["-"] * shape[0]

    def add(self, slot: int, frame: CodecFrame) -> None:
        self._motion[slot] = self._scorer.mv(frame)
        self._residual[slot] = self._scorer.residual(frame)
        self._rule[slot] = self._ruled.reference_mv(frame)
        self._moving[slot] = self._plain.mv(frame) > 0
        self._moving_by_rule[slot] = self._plain_ruled.reference_mv(frame) > 0
        box = self._box
        content = box.content
        self._squares[slot][content] = frame.rgb((box.width_px, box.height_px))
        self._residuals[slot][content] = _residual(frame, box)
        self._pict_types[slot] = frame.pict_type

    def agreement(
        self, chosen: ShownSelection, frame_ids: NDArray[np.int32], backend: str
    ) -> Agreement:
        config, valid = self._config, self._box.valid_cells()
        competing = np.broadcast_to(valid, self._motion.shape).copy()
        competing[repeated_slots(frame_ids)] = False
        competing[list(config.full_slots)] = False
        if config.keep_uniform_first:
            competing[0] = False
        theirs = _cells(chosen.rows, competing)
        kept = {
            name: _cells(select_cells(scores, valid, repeated_slots(frame_ids), config), competing)
            for name, scores in self._variants().items()
        }
        return Agreement(
            name=chosen.name,
            video=chosen.video,
            frame_ids=frame_ids,
            competing=competing,
            ours=kept[OURS],
            theirs=theirs,
            coded=self._residual > 0,
            moving=self._moving,
            moving_by_rule=self._moving_by_rule,
            shared_by={name: _share(cells, theirs) for name, cells in kept.items()},
            squares=self._squares,
            residuals=self._residuals,
            content=self._box.content,
            patch_px=config.patch_size,
            backend=backend,
            pict_types=tuple(self._pict_types),
        )

    def _variants(self) -> dict[str, Scores]:
        total = self._config.w_mv + self._config.w_res
        weight_mv = np.float32(self._config.w_mv / total)
        residual: Scores = self._residual * np.float32(self._config.w_res / total)
        motion, rule = self._motion * weight_mv, self._rule * weight_mv
        return {
            OURS: np.add(rule, residual),
            EXACT_MOTION: np.add(motion, residual),
            RESIDUAL_ALONE: self._residual,
            MOTION_ALONE: self._motion,
            RULE_ALONE: self._rule,
        }


def _residual(frame: CodecFrame, box: Letterbox) -> NDArray[np.uint8]:
    """Absolute residual at the size of the picture in the square, by the nearest pixel."""
    assert frame.residual_y is not None
    magnitude = np.minimum(np.abs(frame.residual_y), 255).astype(np.uint8)
    rows = np.arange(box.height_px) * box.num_rows // box.height_px
    columns = np.arange(box.width_px) * box.num_columns // box.width_px
    return magnitude[rows][:, columns]


def _cells(rows: NDArray[np.int32], competing: Cells) -> Cells:
    kept = np.zeros(competing.shape, np.bool_)
    kept[tuple(rows.T)] = True
    return kept & competing


def _share(part: Cells, whole: Cells) -> float:
    """Return the share of the whole that is in the part; NaN where there is nothing."""
    count = int(whole.sum())
    return float((part & whole).sum()) / count if count else float("nan")
