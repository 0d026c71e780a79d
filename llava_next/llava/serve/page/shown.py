"""What the model is shown of a video, as the page draws it: kept cells and their times."""

from collections.abc import Sequence
from typing import Any

from llava.visual.batch import VisualSegment


def describe_kept(
    segment: VisualSegment, slots: Sequence[int], seconds: Sequence[float], grid: int
) -> dict[str, Any]:
    """Return which cells of which moments a video's segment holds, ready for JSON.

    Args:
        segment: the video as the model takes it.
        slots: the t of each moment, ascending.
        seconds: when each is shown, from the start of the video.
        grid: cells along a side of the padded square that holds the picture.

    Returns:
        ``visual_tokens``, ``grid`` and ``slots``: per frame its ``seconds`` and its ``cells``,
        numbers ``row * grid + column`` of the padded square, ascending. Frames without a cell are
        included; moments that repeat a frame, of a short video, are one.
    """
    times = [round(float(second), 4) for second in seconds]
    time_of = dict(zip(slots, times, strict=True))
    cells: dict[float, set[int]] = {second: set() for second in times}
    for t, h, w in segment.positions.tolist():
        cells[time_of[t]].add(h * grid + w)
    return {
        "visual_tokens": sum(segment.placeholder_tokens),
        "grid": grid,
        "slots": [{"seconds": second, "cells": sorted(kept)} for second, kept in cells.items()],
    }
