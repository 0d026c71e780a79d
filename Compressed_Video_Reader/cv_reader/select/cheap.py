"""Frames that cost little to reach: ``frames`` = ``cheap``.

A picture is decoded together with all pictures between its key picture and it that others refer
to. Every slot may move by at most ``CHEAP_REACH_STEPS`` of the step between slots, and frames stay
in order. Within these limits the frames are chosen for which the fewest pictures have to be
decoded, and of these the nearest ones. The choice depends on the packets alone, not on the backend.

Axis letters: T slots, N frames.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.errors import UnsupportedVideoError
from cv_reader.media.frames import FrameReach, VideoIndex
from cv_reader.select.config import CHEAP_REACH_STEPS, AssetConfig
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
    windows = _windows(asked)
    chosen = _fewest_pictures(windows, asked, reach)
    # What is decoded anyway costs nothing: of it, the nearest frame is taken.
    deepest: dict[int, int] = {}
    for number in chosen:
        start, depth = int(reach.start[number]), int(reach.references[number])
        deepest[start] = max(deepest.get(start, 0), depth)
    for slot, window in enumerate(windows):
        first = max(window.start, chosen[slot - 1] + 1 if slot else 0)
        last = min(window.stop, chosen[slot + 1] if slot + 1 < len(chosen) else window.stop)
        numbers = np.arange(first, last)
        decoded = np.array([deepest.get(start, 0) for start in reach.start[numbers].tolist()])
        is_free = reach.is_reference[numbers] & (reach.references[numbers] <= decoded)
        if is_free.any():
            free = numbers[is_free]
            chosen[slot] = int(free[np.abs(free - asked[slot]).argmin()])
    return np.array(chosen, np.int32)


def _windows(asked: NDArray[np.int32]) -> list[range]:
    """Return the frames that each slot may show."""
    steps = np.diff(asked) * CHEAP_REACH_STEPS
    first = np.append(asked[0], np.ceil(asked[1:] - steps)).astype(np.intp).tolist()
    last = np.append(np.floor(asked[:-1] + steps), asked[-1]).astype(np.intp).tolist()
    return [range(low, high + 1) for low, high in zip(first, last, strict=True)]


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
    for slot, wanted in enumerate(asked.tolist()):
        candidates = _candidates(windows, slot, wanted, reach)
        steps = [
            step
            for number in candidates
            if (step := _cheapest(number, abs(number - wanted), steps, reach)) is not None
        ]
    step, path = min(steps, key=lambda step: step.cost), list[int]()
    while step.before is not None:
        path.append(step.number)
        step = step.before
    return path[::-1]


def _candidates(windows: list[range], slot: int, wanted: int, reach: FrameReach) -> list[int]:
    """Return the frames that may be best for a slot, in order.

    These are of each group, and of each part of the window that it shares with the slot before,
    with none or with the slot after, the two that cost least, of equal ones the nearest: one of
    them may be taken by that other slot.
    """
    window = windows[slot]
    numbers = np.arange(window.start, window.stop)
    begin = windows[slot - 1].stop if slot else window.start
    end = windows[slot + 1].start if slot + 1 < len(windows) else window.stop
    part = (numbers >= begin).astype(np.intp) + (numbers >= max(begin, end))
    cost = reach.references[numbers] + ~reach.is_reference[numbers]
    order = np.lexsort((np.abs(numbers - wanted), cost, part, reach.start[numbers]))
    keys = np.stack([reach.start[numbers[order]], part[order]])
    is_new = np.append(True, (keys[:, 1:] != keys[:, :-1]).any(axis=0))
    is_taken = is_new | np.append(False, is_new[:-1])
    return np.sort(numbers[order][is_taken]).tolist()


def _cheapest(number: int, moved: int, ways: list[_Step], reach: FrameReach) -> _Step | None:
    """Return the best step to a frame from those of the slot before; None where all are later."""
    start, depth = int(reach.start[number]), int(reach.references[number])
    extra = int(not reach.is_reference[number])
    best: _Step | None = None
    for before in ways:
        if before.number >= number:
            continue
        decoded = before.decoded if before.start == start else 0
        cost = before.cost[0] + max(0, depth - decoded) + extra, before.cost[1] + moved
        if best is None or cost < best.cost:
            best = _Step(cost, start, max(depth, decoded), number, before)
    return best
