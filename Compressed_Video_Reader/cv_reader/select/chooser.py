"""What choosing cells needs of the frames of a video, collected in one pass, and the choice.

Axis letters: T slots, g cells along a side, K rows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.media.frames import CodecFrame, VideoIndex
from cv_reader.select.config import PIXEL_SIGNALS, AssetConfig
from cv_reader.select.energy import SUMMED, CellScorer, needs_signals
from cv_reader.select.geometry import Letterbox, letterbox
from cv_reader.select.mosaics import Square, square_frame
from cv_reader.select.selection import repeated_slots, select_cells, select_whole_frames

if TYPE_CHECKING:
    from cv_reader.select.rate_distortion.chains import MotionChains
    from cv_reader.select.rate_distortion.clip import SmallClip
    from cv_reader.select.rate_distortion.places import FollowedClip

# Every worker imports this module, and few of them choose by rate-distortion: what that needs is
# imported where it is used.


def video_box(index: VideoIndex, config: AssetConfig) -> Letterbox:
    """Return the place of a video's picture in the padded square."""
    return letterbox(
        index.height_px,
        index.width_px,
        square_px=config.square_size,
        patch_px=config.patch_size,
        samples=(index.num_rows, index.num_columns),
    )


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What is kept of a video.

    Attributes:
        rows: int32 (K, 3), (t, h, w): forced cells in raster order, then from the best down.
        scores: float32 (T, g, g), what the choice went by: energies, or changes in grey levels.
        facts: what ``meta.json`` records of the choice.
    """

    rows: NDArray[np.int32]
    scores: NDArray[np.float32]
    facts: dict[str, Any]


class Chooser:
    """Collects the frames of a video, one per distinct slot, and chooses cells of them.

    Args:
        box: place of the picture in the square.
        config: all settings.
        frame_ids: int32 (T,).
    """

    def __init__(self, box: Letterbox, config: AssetConfig, frame_ids: NDArray[np.int32]) -> None:
        self._box, self._config = box, config
        self._frame_ids = frame_ids
        self._repeated = repeated_slots(frame_ids)
        self.slots: list[int] = np.flatnonzero(~self._repeated).tolist()
        """Slots whose frames are to be added, ascending."""
        shape = (config.sequence_length, config.grid, config.grid)
        self._scores = np.zeros(shape, np.float32)
        is_scored = config.select == "topk"
        self._has_peer = is_scored and config.signal in PIXEL_SIGNALS
        self._scorer = CellScorer(box, config) if is_scored and not self._has_peer else None
        is_compared = self._has_peer or config.select == "rate_distortion"
        self._clip = self._new_clip() if is_compared else None
        self._chains = self._new_chains()
        self._followed: FollowedClip | None = None

    def _new_clip(self) -> "SmallClip":
        from cv_reader.select.rate_distortion.clip import empty_clip

        return empty_clip(self._box, len(self.slots))

    def _new_chains(self) -> "MotionChains | None":
        """Return what follows vectors from slot to slot, where the choice needs it."""
        if self._clip is None or not self._clip.luma.size or not self._config.follows_vectors:
            return None
        from cv_reader.select.rate_distortion.chains import MotionChains

        ids: list[int] = self._frame_ids[self.slots].tolist()
        return MotionChains(self._box, self._clip.rows, self._clip.columns, ids)

    @property
    def needs_signals(self) -> bool:
        """Return whether frames must come with motion and residual."""
        has_signals = self._scorer is not None and needs_signals(self._config.signal)
        return has_signals or self._config.follows_vectors

    def wanted_frames(self) -> list[int]:
        """Return the frames to decode: those of the slots, for some signals all between too."""
        ids: list[int] = self._frame_ids[self.slots].tolist()
        sums_up = self._scorer is not None and self._config.signal in SUMMED
        every = sums_up or self._config.follows_vectors
        return list(range(ids[0], ids[-1] + 1)) if every else ids

    def at_slots(self, frames: Iterable[CodecFrame]) -> Iterator[tuple[int, CodecFrame]]:
        """Yield slots with their frames; frames between slots are taken note of."""
        slot_of = {int(self._frame_ids[slot]): slot for slot in self.slots}
        for frame in frames:
            if self._chains is not None:
                self._chains.add(frame)
            if frame.index in slot_of:
                yield slot_of[frame.index], frame
            elif self._scorer is not None:
                self._scorer.pass_by(frame)

    @property
    def needs_frames(self) -> bool:
        """Return whether the choice looks at frames at all."""
        return self._config.select != "uniform"

    @property
    def needs_squares(self) -> bool:
        """Return whether frames must come with their squares."""
        return self._clip is not None

    def add(self, slot: int, frame: CodecFrame, square: Square | None = None) -> None:
        """Take what the choice needs from the frame of a slot; slots must ascend.

        Args:
            slot: one of ``slots``.
            frame: its frame.
            square: the same in the padded square, where it exists already.
        """
        if self._scorer is not None:
            self._scores[slot] = self._scorer.score(frame)
        if self._clip is not None:
            from cv_reader.select.rate_distortion.clip import put_square

            square = square_frame(frame, self._box) if square is None else square
            put_square(self._clip, self.slots.index(slot), square)

    def mosaics_needed(self, prices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how many mosaics the clip needs at each price: float64 (prices,).

        Only where cells are chosen by ``rate_distortion``.
        """
        from cv_reader.select.rate_distortion.choice import mosaics_needed

        weights = np.diff([*self.slots, self._config.sequence_length])
        return mosaics_needed(self._compared_clip(), weights, self._config, prices)

    def _compared_clip(self) -> "SmallClip":
        """Return the pictures, turned to places where vectors are followed."""
        assert self._clip is not None
        if self._chains is not None:
            from cv_reader.select.rate_distortion.clip import changes
            from cv_reader.select.rate_distortion.places import follow_motion

            self._scores[self.slots] = changes(self._clip)
            links = self._chains.finish()
            # Long clips and their chains take much memory, and are not needed twice.
            block = self._config.block_cells
            self._followed = follow_motion(self._clip, links, block, in_place=True)
            self._clip, self._chains = self._followed, None
        return self._clip

    def choose(self) -> Chosen:
        """Choose the cells that are kept.

        Raises:
            AssetError: if nothing may be kept.
        """
        config, valid = self._config, self._box.valid_cells()
        if config.select == "uniform":
            return self._chosen(select_whole_frames(config), self._scores, config.num_images)
        if self._has_peer and self._clip is not None:
            from cv_reader.select.peers import pixel_scores

            self._scores[self.slots] = pixel_scores(self._clip, config.signal)
        if self._clip is None or self._has_peer:
            rows = select_cells(self._scores, valid, self._repeated, config)
            return self._chosen(rows, self._scores, config.num_images)
        from cv_reader.select.rate_distortion.choice import choose_units
        from cv_reader.select.rate_distortion.clip import changes

        weights = np.diff([*self.slots, config.sequence_length])
        choice = choose_units(self._compared_clip(), weights, config)
        if self._followed is None:
            self._scores[self.slots] = changes(self._clip)
        side = config.grid // config.block_cells
        shape = (config.sequence_length, side, side)
        gains, kept = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
        found, followed, block = (choice.gains, choice.kept), self._followed, config.block_cells
        if followed is not None:
            found = tuple(followed.turned_back(one, block) for one in found)
        gains[self.slots], kept[self.slots] = found
        self._move_repeats(kept)
        count = int(kept.sum()) * block**2
        facts: dict[str, Any] = {"token_price": choice.price, "num_chosen": count}
        if followed is not None:
            facts["vectors"] = followed.facts()
        rows = select_cells(
            gains, valid, self._repeated, config, chosen=kept, num_images=choice.num_images
        )
        return self._chosen(rows, self._scores, choice.num_images, facts)

    def _move_repeats(self, kept: NDArray[np.bool_]) -> None:
        """Keep slots that must be whole, and repeat a frame, at their own time: (T, u, u)."""
        config = self._config
        for slot in config.full_slots:
            first = int(np.flatnonzero(~self._repeated[: slot + 1])[-1])
            kept[slot] = kept[first]
            if first not in config.full_slots and not (config.keep_uniform_first and first == 0):
                kept[first] = False

    def _chosen(
        self,
        rows: NDArray[np.int32],
        scores: NDArray[np.float32],
        num_images: int,
        facts: dict[str, Any] | None = None,
    ) -> Chosen:
        valid = self._box.valid_cells()
        outside = int((~valid[rows[:, 1], rows[:, 2]]).sum())
        shared = {"num_images": num_images, "K": len(rows), "padding_patch_filtered": outside}
        return Chosen(rows=rows, scores=scores, facts=shared | (facts or {}))
