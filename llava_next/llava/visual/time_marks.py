"""Time in the prompt: ``<12.3 seconds>`` before each run of visual tokens of equal t.

A checkpoint that is trained with them says so (``time_marks`` in ``llava_processor.json``); then
every video that it is shown has them, in training, evaluation, chat and server. Images have none.

The time of a frame is its number divided by the video's average frame rate, counted from the first
frame: the one rule that codec assets, which keep frame numbers and that rate, and raw videos share.
Where frames are not evenly spaced in time it is an approximation.

A run is as long as t stays the same within one visual: where it continues in the next mosaic, it
has no second mark.

Axis letters: T slots of an asset, V visual tokens of a segment.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from cv_reader.assets import FRAME_IDS, META, load_array, read_meta
from llava.constants import Expansion

TimeMark = tuple[int, str]
"""How many visual tokens of a segment are before a mark, and its text."""

NO_TIMES = (
    "time marks need the time of each frame, and images that are given as frames have none; give "
    "the video itself or a codec asset, or use a checkpoint that is trained without time marks"
)


def slot_seconds(folder: Path) -> dict[int, float]:
    """Return the time of each slot of a codec asset in seconds, from its own files.

    Args:
        folder: of the asset, which holds its positions.

    Raises:
        ValueError: if it carries no time stamps.
    """
    try:
        rate, frame_ids = read_meta(folder / META).get("frame_rate"), load_array(folder / FRAME_IDS)
        if frame_ids.ndim != 1 or frame_ids.dtype.kind not in "iu":
            raise ValueError(f"{FRAME_IDS} must be integers (T,), got {frame_ids.dtype}")
        return dict(enumerate(frame_seconds(frame_ids.tolist(), rate)))
    except ValueError as error:
        raise ValueError(
            f"{folder} carries no time stamps ({error}); time marks need {FRAME_IDS} and the "
            f"frame_rate of {META} next to the positions: make the asset with cv_reader, or use a "
            "checkpoint that is trained without time marks"
        ) from error


def frame_seconds(frame_ids: Sequence[int], frame_rate: object) -> list[float]:
    """Return the times of frames: frame number / average frame rate, in seconds.

    Raises:
        ValueError: if the rate is no number above 0.
    """
    is_number = isinstance(frame_rate, int | float) and not isinstance(frame_rate, bool)
    rate = float(frame_rate) if is_number else math.nan  # pyright: ignore[reportArgumentType]
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"frame_rate must be a number above 0, got {frame_rate!r}")
    return [number / rate for number in frame_ids]


def time_marks(token_slots: Sequence[int], seconds: Mapping[int, float]) -> tuple[TimeMark, ...]:
    """Return a mark for each run of visual tokens of equal t.

    Args:
        token_slots: t of each of the V visual tokens of a segment.
        seconds: the time of each slot.

    Raises:
        ValueError: if the tokens are not sorted by t, or a slot has no time.
    """
    marks: list[TimeMark] = []
    previous = -1
    for number, slot in enumerate(token_slots):
        if slot == previous:
            continue
        if slot < previous:
            raise ValueError(
                f"time marks need visual tokens sorted by t, but t {slot} follows {previous} at "
                f"visual token {number}; make the asset again, or use a checkpoint that is trained "
                "without time marks"
            )
        if slot not in seconds:
            raise ValueError(f"time marks need the time of slot {slot}, got {len(seconds)} slots")
        marks.append((number, f"<{seconds[slot]:.1f} seconds>"))
        previous = slot
    return tuple(marks)


def expansions(
    placeholder_tokens: Sequence[int], marks: Sequence[TimeMark] = ()
) -> list[Expansion]:
    """Return what each placeholder of a segment becomes.

    Args:
        placeholder_tokens: visual tokens of each placeholder, in order.
        marks: of ``time_marks``, in order.
    """
    if not marks:
        return list(placeholder_tokens)
    found: list[Expansion] = []
    rest, start = list(marks), 0
    for count in placeholder_tokens:
        end, runs = start + count, list[int | str]()
        while rest and rest[0][0] < end:
            place, text = rest.pop(0)
            runs += [place - start, text] if place > start else [text]
            start = place
        found.append((*runs, end - start))
        start = end
    return found
