"""Places that stay with the scene while the camera moves, and the motion between slots.

``follow_motion`` turns the content of every slot by whole cells, as the vectors say that the camera
moved: cells that leave the picture at one side make room for those that come in at the other. Where
vectors lead nowhere, units move as the camera does.

Axis letters: T slots, h and w rows and columns of content cells, a and b those of units (2 h and
2 w), u units of a choice along a side of the square.
"""

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cv_reader.errors import AssetError
from cv_reader.select.config import EXACT_SLOTS
from cv_reader.select.rate_distortion.chains import STEPS, UNIT_STEPS, Links
from cv_reader.select.rate_distortion.clip import (
    CHROMA_PX,
    LUMA_PX,
    MAX_CLIP_BYTES,
    Samples,
    SmallClip,
)

LUMA_PHASES, CHROMA_PHASES = 4, 2
"""Places between two samples, along an axis, at which pictures are interpolated."""

BORDER = 3
"""Samples that are repeated around interpolated pictures."""

_MIN_KNOWN = 0.25
"""Share of units with vectors below which pixels tell how the camera moved."""

_CAMERA_STEP, _CAMERA_REACH = 4, 6
"""That search is over so many samples at a time, and so many times."""

_MAX_SHIFTED = 0.5
"""Difference of shifted pictures, relative to that of unshifted ones, up to which they show that a
camera moved; after a cut any shift is a little better than none."""

Steps = NDArray[np.int32]
Whole = NDArray[np.intp]


class FinePictures(NamedTuple):
    """Pictures of W slots at places between their samples, before turning.

    Attributes:
        luma: uint8 (W, 16, rows, columns), at every quarter of a sample.
        chroma: uint8 (2, W, 4, rows, columns), at every half of a sample.
    """

    luma: Samples
    chroma: Samples


@dataclass(frozen=True, kw_only=True)
class FollowedClip(SmallClip):
    """A clip whose content is turned to places, with the motion between its slots.

    Attributes:
        turns: intp (T, 2), cells (down, right) by which content is turned.
        links: int16 (2, T, a, b, 2), displacement of every unit (down, right) in sixteenths of a
            sample, before turning: [0] to the slot before, [1] to the slot after.
        num_pictures: pictures whose vectors were followed.
        known_share: share of units, but those of slot 0, that vectors led to the slot before.
    """

    turns: Whole
    links: NDArray[np.int16]
    num_pictures: int
    known_share: float
    latest: dict[tuple[int, int], FinePictures] = field(
        default_factory=dict[tuple[int, int], FinePictures], repr=False, compare=False
    )

    def planes(self, slots: slice) -> FinePictures:
        """Return the interpolated pictures of some slots, of which the latest are remembered: those
        of all slots of a long clip would not fit into memory."""
        key = slots.start, slots.stop
        if key not in self.latest:
            self.latest.clear()
            luma, chroma = (
                np.stack([np.roll(one, (-side * y, -side * x), (-2, -1)) for one, (y, x) in there])
                for there, side in (
                    (list(zip(part, self.turns[slots].tolist(), strict=True)), side)
                    for part, side in ((self.luma[slots], LUMA_PX), (self.chroma[slots], CHROMA_PX))
                )
            )
            self.latest[key] = FinePictures(
                _between_samples(luma, LUMA_PHASES),
                _between_samples(chroma, CHROMA_PHASES).swapaxes(0, 1).copy(),
            )
        return self.latest[key]

    def forget(self) -> None:
        """Free the interpolated pictures."""
        self.latest.clear()

    def facts(self) -> dict[str, Any]:
        """Return what was followed, ready for JSON."""
        return {"num_pictures": self.num_pictures, "known_share": round(self.known_share, 4)}

    def turned_back(self, values: NDArray[Any], block: int = 1) -> NDArray[Any]:
        """Return values of places as values of cells.

        Args:
            values: (T, u, u).
            block: cells along a side of their units.

        Returns:
            The same at the units of the square that the places are at in each slot.
        """
        return _turned(values, self, -self.turns // block, block)

    def turned(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values of cells (T, u, u) as values of places."""
        return _turned(values, self, self.turns, 1)


def follow_motion(
    clip: SmallClip, links: Links, block: int, *, in_place: bool = False
) -> FollowedClip:
    """Turn a clip to places that stay with the scene.

    Args:
        clip: the pictures.
        links: vectors between its slots.
        block: cells along a side of what is chosen as one; content is turned by whole blocks, and
            not at all where it does not consist of whole ones.
        in_place: turn the pictures of ``clip`` itself, which takes less memory.

    Raises:
        AssetError: if the interpolated pictures would need more than a GiB.
    """
    slots = min(clip.num_slots, EXACT_SLOTS)
    size = clip.luma[:slots].size * LUMA_PHASES**2 + clip.chroma[:slots].size * CHROMA_PHASES**2
    if size > MAX_CLIP_BYTES:
        raise AssetError(
            f"{slots} slots of {clip.height} x {clip.width} cells need {size} bytes to follow "
            f"vectors, more than {MAX_CLIP_BYTES}; use fewer slots or larger patches"
        )
    # Both ways in one piece: those of long clips take much memory.
    both = np.zeros((2, *links.steps.shape), np.int16)
    steps, ahead = both[0], both[1]
    cameras = _complete(steps, clip, links)
    for slot in range(1, clip.num_slots):
        ahead[slot - 1] = _inverse(steps[slot], cameras[slot])
    is_whole = not any(
        (side.start % block) or (side.stop % block) for side in (clip.rows, clip.columns)
    )
    turn_steps = LUMA_PX * STEPS * block
    turns = (cameras.cumsum(axis=0) + turn_steps // 2) // turn_steps * block * is_whole
    whole: list[list[int]] = turns.tolist()
    own = {one.name: getattr(clip, one.name) for one in fields(SmallClip)}
    if not in_place:
        own["luma"], own["chroma"] = np.empty_like(clip.luma), np.empty_like(clip.chroma)
    for slot, (y, x) in enumerate(whole):
        own["luma"][slot] = np.roll(clip.luma[slot], (LUMA_PX * y, LUMA_PX * x), (0, 1))
        own["chroma"][slot] = np.roll(clip.chroma[slot], (CHROMA_PX * y, CHROMA_PX * x), (1, 2))
    return FollowedClip(
        **own,
        turns=turns.astype(np.intp),
        links=both,
        num_pictures=links.num_pictures,
        known_share=float(links.is_known[1:].mean()) if clip.num_slots > 1 else 1.0,
    )


def _between_samples(pictures: Samples, phases: int) -> Samples:
    """Return pictures (..., rows, columns) at places between samples, bilinear, rounded: uint8
    (..., phases^2, rows, columns) with the border repeated outside."""
    *first, rows, columns = pictures.shape
    size = rows + 2 * BORDER, columns + 2 * BORDER
    found = np.empty((*first, phases**2, *size), np.uint8)
    # One after the other: the sums of all of them would take much memory.
    for number in np.ndindex(*first):
        padded = np.pad(pictures[number], (BORDER, BORDER + 1), mode="edge").astype(np.uint16)
        for below in range(phases):
            down = padded[:-1] * (phases - below) + padded[1:] * below
            for beside in range(phases):
                both = down[:, :-1] * (phases - beside) + down[:, 1:] * beside
                phase = below * phases + beside
                found[(*number, phase)] = (both + phases**2 // 2) // phases**2
    return found


def _complete(steps: NDArray[np.int16], clip: SmallClip, links: Links) -> Steps:
    """Write links to ``steps``, int16 (T, a, b, 2), with those of the camera where vectors lead
    nowhere, and return the camera's steps to the slot before, int32 (T, 2)."""
    steps[:] = links.steps
    cameras = np.zeros((clip.num_slots, 2), np.int32)
    for slot in range(1, clip.num_slots):
        is_known = links.is_known[slot]
        if is_known.mean() < _MIN_KNOWN:
            cameras[slot] = _camera_steps(clip.luma[slot], clip.luma[slot - 1])
        else:
            cameras[slot] = np.floor(np.median(steps[slot][is_known], axis=0))
        steps[slot][~is_known] = cameras[slot]
    return cameras


def _camera_steps(luma: Samples, before: Samples) -> tuple[int, int]:
    """Return the shift (down, right) at which the picture before is most like a picture; none where
    that is not much more like it, as after a cut."""
    side = _CAMERA_STEP
    one, other = (
        picture.reshape(len(picture) // side, side, -1, side).sum(axis=(1, 3), dtype=np.int32)
        for picture in (luma, before)
    )
    spans = [range(-min(n // 2, _CAMERA_REACH), min(n // 2, _CAMERA_REACH) + 1) for n in one.shape]
    shifts = sorted(
        ((y, x) for y in spans[0] for x in spans[1]), key=lambda s: (abs(s[0]) + abs(s[1]), s)
    )
    costs: list[float] = []
    for shift in shifts:
        here = tuple(
            slice(max(0, -n), size - max(0, n)) for n, size in zip(shift, one.shape, strict=True)
        )
        there = tuple(
            slice(max(0, n), size - max(0, -n)) for n, size in zip(shift, one.shape, strict=True)
        )
        costs.append(float(np.abs(one[here] - other[there]).mean()))
    best = int(np.argmin(costs))
    if costs[best] > _MAX_SHIFTED * costs[0]:
        return 0, 0
    down, right = shifts[best]
    return down * side * STEPS, right * side * STEPS


def _inverse(steps: NDArray[np.int16], camera: Steps) -> NDArray[np.int16]:
    """Return displacements the other way, int16 (a, b, 2); where none leads to, the camera's."""
    height, width = steps.shape[:2]
    found = np.empty_like(steps)
    found[:] = -camera
    down, right = np.indices((height, width)) + (
        (steps.transpose(2, 0, 1).astype(np.int32) + UNIT_STEPS // 2) // UNIT_STEPS
    )
    inside = (down >= 0) & (down < height) & (right >= 0) & (right < width)
    found[down[inside], right[inside]] = -steps[inside]
    return found


def _turned(values: NDArray[Any], clip: SmallClip, turns: Whole, block: int) -> NDArray[Any]:
    """Return values (T, u, u) with those of the content turned by so many units in each slot."""
    found = values.copy()
    rows, columns = (
        slice(side.start // block, -(-side.stop // block)) for side in (clip.rows, clip.columns)
    )
    for slot, turn in enumerate(turns.tolist()):
        found[slot, rows, columns] = np.roll(values[slot, rows, columns], turn, (0, 1))
    return found
