"""The clips that the examples use: 64 frames, a moving disc, a coloured square for a moment."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "quickstart"))

from make_clips import EVENT_QUESTION, make_clips  # noqa: E402  (after its folder is known)

__all__ = ["EVENT_QUESTION", "made_clip", "make_clips"]


def made_clip(folder: Path) -> Path:
    """Write one clip (H.264, 256 x 256 pixels) unless it is there; returns its path.

    The square shows in frames 20 to 23, between two of eight evenly spaced frames (18 and 27).
    """
    return folder / make_clips(folder, num_clips=1, first_seed=32)[0]["video"]
