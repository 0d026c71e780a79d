"""Frames that cost little to reach: ``frames`` = ``cheap``.

A picture is decoded together with all pictures between its key picture and it that others refer
to. Every slot may move to a frame that is nearer to its own place than to those of its neighbours:
by half a step at most, so that frames stay in order and the slot remains the true t of its frame.
Within these limits the frames are chosen for which the fewest pictures have to be decoded, and of
these the nearest ones. The choice depends on the packets alone, not on the backend.

Axis letters: T slots, N frames.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.errors import UnsupportedVideoError
from cv_reader.media.frames import FrameReach, VideoIndex
from cv_reader.select.config import AssetConfig
from cv_reader.select.selection import choose_frame_ids

_SMALL_PICTURES = 4096
"""So many pictures are decoded in seconds: a video is never refused for fewer."""

_MOST = 0.75
"""A video of which more must be decoded than this share of what evenly spread frames need is
refused."""


def sampled_frames(
    index: VideoIndex, config: AssetConfig
) -> tuple[NDArray[np.int32], dict[str, Any]]:
    """Return the frames behind the slots, int32 (T,), and what ``meta.json`` records of the choice.

    Raises:
        UnsupportedVideoError: frames that cost little are asked for, and there are none.
    """
    asked = choose_frame_ids(index.packet_bytes, config)
    if config.frames != "cheap":
        return asked, {}
    used = cheap_frame_ids(asked, index.reach)
    costs = [pictures_needed(ids, index.reach) for ids in (asked, used)]
    if costs[1] > max(_SMALL_PICTURES, _MOST * costs[0]):
        raise UnsupportedVideoError(
            index.path,
            f"frames='cheap' still needs {costs[1]} pictures, where evenly spread frames need "
            f"{costs[0]}: its key frames are too far apart for {config.sequence_length} slots; use "
            "frames='uniform', fewer slots, or re-encode it with more key frames",
        )
    return used, {
        "requested_frame_ids": asked.tolist(),
        "max_moved_frames": int(np.abs(used - asked).max()),
        "pictures_needed": {"requested": costs[0], "used": costs[1]},
    }


def pictures_needed(ids: NDArray[np.int32], reach: FrameReach) -> int:
    """Return how many pictures are decoded for some frames, int32 (n,), never decreasing."""
    ids = np.unique(ids)
    if not len(ids):
        return 0
    begins = np.append(0, np.flatnonzero(np.diff(reach.start[ids])) + 1)
    references = np.maximum.reduceat(reach.references[ids], begins)
    return int(references.sum() + (~reach.is_reference[ids]).sum())


def cheap_frame_ids(asked: NDArray[np.int32], reach: FrameReach) -> NDArray[np.int32]:
    """Move frames to near ones that cost little to reach.

    Args:
        asked: int32 (T,), never decreasing; where frames repeat, none is moved.
        reach: what it takes to decode each frame.

    Returns:
        int32 (T,), strictly increasing if ``asked`` is.
    """
    if len(asked) < 2 or (np.diff(asked) <= 0).any():
        return asked
    middles = (asked[:-1] + asked[1:]) // 2
    first = np.append(asked[0], middles + 1).tolist()
    last = np.append(middles, asked[-1]).tolist()
    windows = [range(low, high + 1) for low, high in zip(first, last, strict=True)]
    chosen = _fewest_pictures(windows, asked, reach)
    # What is decoded anyway costs nothing: of it, the nearest frame is taken.
    deepest: dict[int, int] = {}
    for number in chosen:
        start, depth = int(reach.start[number]), int(reach.references[number])
        deepest[start] = max(deepest.get(start, 0), depth)
    for slot, window in enumerate(windows):
        numbers = np.arange(window.start, window.stop)
        decoded = np.array([deepest.get(start, 0) for start in reach.start[numbers].tolist()])
        is_free = reach.is_reference[numbers] & (reach.references[numbers] <= decoded)
        if is_free.any():
            free = numbers[is_free]
            chosen[slot] = int(free[np.abs(free - asked[slot]).argmin()])
    return np.array(chosen, np.int32)


@dataclass(frozen=True, eq=False)
class _Step:
    """A frame for a slot, and the best way to it.

    Attributes:
        cost: pictures to decode, and frames moved, of all slots so far.
        start: key picture that it is decoded from.
        decoded: pictures that are decoded from there.
        number: the frame.
        before: the same of the slot before.
    """

    cost: tuple[int, int]
    start: int
    decoded: int
    number: int
    before: "_Step | None"


def _fewest_pictures(
    windows: list[range], asked: NDArray[np.int32], reach: FrameReach
) -> list[int]:
    """Return one frame per window, so that the fewest pictures are decoded: a shortest path."""
    steps = [_Step((0, 0), -1, 0, -1, None)]
    for window, wanted in zip(windows, asked.tolist(), strict=True):
        best = min(steps, key=lambda step: step.cost)
        same_start = {step.start: step for step in steps}
        steps = [
            _cheapest(number, abs(number - wanted), (best, same_start.get(start)), reach)
            for start, number in _nearest_of_groups(window, wanted, reach).items()
        ]
    step, path = min(steps, key=lambda step: step.cost), list[int]()
    while step.before is not None:
        path.append(step.number)
        step = step.before
    return path[::-1]


def _nearest_of_groups(window: range, wanted: int, reach: FrameReach) -> dict[int, int]:
    """Return for each group of a window the frame that costs least, of equal ones the nearest."""
    numbers = np.arange(window.start, window.stop)
    cost = reach.references[numbers] + ~reach.is_reference[numbers]
    order = np.lexsort((np.abs(numbers - wanted), cost, reach.start[numbers]))
    starts = reach.start[numbers[order]]
    leading = np.append(True, starts[1:] != starts[:-1])
    return dict(zip(starts[leading].tolist(), numbers[order][leading].tolist(), strict=True))


def _cheapest(
    number: int, moved: int, ways: tuple[_Step, _Step | None], reach: FrameReach
) -> _Step:
    """Return the best step to a frame: behind the best one so far, or the one of its own group."""
    start, depth = int(reach.start[number]), int(reach.references[number])
    extra = int(not reach.is_reference[number])
    found: list[_Step] = []
    for before in ways:
        if before is not None:
            decoded = before.decoded if before.start == start else 0
            pictures = before.cost[0] + max(0, depth - decoded) + extra
            cost = pictures, before.cost[1] + moved
            found.append(_Step(cost, start, max(depth, decoded), number, before))
    return min(found, key=lambda step: step.cost)
