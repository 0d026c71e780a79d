"""How others choose patches, for comparison: by the pixels of the slot before, without a codec.

- ``rlt``: run-length tokenisation drops a patch that equals its predecessor; here patches compete
  by their mean squared difference to it, on one scale for the whole clip.
- ``evs``: efficient video sampling drops patches whose cosine to their predecessor is near 1; here
  patches compete by 1 - cosine.

Both look at 8 x 8 luma samples and 4 x 4 of each colour difference per patch. Uniform frames, bits
and frame differences are selectors and signals of their own.

Axis letters: T slots, g cells along a side.
"""

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.rate_distortion.clip import (
    CELL_WEIGHT,
    CHROMA_PX,
    CHROMA_WEIGHT,
    LUMA_PX,
    SmallClip,
)


def pixel_scores(clip: SmallClip, signal: str) -> NDArray[np.float32]:
    """Return how new each cell is relative to the slot before: float32 (T, g, g).

    All cells of slot 0 are as new as the newest of the clip; outside the picture is 0.

    Args:
        clip: a picture for every slot.
        signal: ``rlt`` or ``evs``.
    """
    scores = np.zeros((clip.num_slots, clip.grid, clip.grid), np.float32)
    inside = scores[:, clip.rows, clip.columns]
    if not inside.size:
        return scores
    for slot in range(1, clip.num_slots):
        products, here, before = (
            _inner(clip, *pair) for pair in ((slot, slot - 1), (slot, slot), (slot - 1, slot - 1))
        )
        if signal == "rlt":
            inside[slot] = np.maximum(here + before - 2 * products, 0) / CELL_WEIGHT
        else:
            inside[slot] = 1 - products / np.sqrt(np.maximum(here * before, 1))
    np.maximum(inside, 0, out=inside)
    inside[0] = inside.max() + 1
    return scores


def _inner(clip: SmallClip, one: int, other: int) -> NDArray[np.float64]:
    """Return the inner products of the cells of two slots: float64 (h, w)."""
    total = np.zeros((clip.height, clip.width))
    for planes, side, weight in (
        (clip.luma[:, None], LUMA_PX, 1),
        (clip.chroma, CHROMA_PX, CHROMA_WEIGHT),
    ):
        product = planes[one].astype(np.float64) * planes[other]
        cells = product.reshape(-1, clip.height, side, clip.width, side)
        total += weight * cells.sum(axis=(0, 2, 4))
    return total
