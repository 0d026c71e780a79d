"""One object moves: what is kept must be on it, far beyond chance, at every budget.

Chance is the object's share of all cells: what random cells and uniformly sampled whole frames
would give.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cv_reader.assets.make import select_from_video
from cv_reader.reader import ReadOptions
from cv_reader.select.config import AssetConfig
from support.media import panning, texture, write_video

SIDE, OBJECT, FRAMES = 128, 24, 65
BUDGETS = {2: 0.031, 4: 0.0625, 8: 0.125, 16: 0.25}
"""Mosaics of 64 slots -> share of all patches."""


def _object_at(number: int) -> tuple[int, int]:
    return 20 + number, int(52 + 40 * np.sin(number / 9))


def _frames(pan: int) -> Iterator[np.ndarray]:
    still = [texture(SIDE, SIDE)] * FRAMES
    thing = 255 - texture(OBJECT, OBJECT, 7)
    for number, ground in enumerate(panning(FRAMES, SIDE, SIDE, (0, 2)) if pan else still):
        frame = ground.copy()
        row, column = _object_at(number)
        frame[row : row + OBJECT, column : column + OBJECT] = thing
        yield frame


@pytest.fixture(scope="module", params=["libx264", "libx265"])
def clips(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """The same object over a still and over a panning background."""
    folder = tmp_path_factory.mktemp("planted")
    return {
        pan: write_video(folder / f"{pan}.mp4", _frames(pan), codec=request.param)
        for pan in (False, True)
    }


def _hits(path: Path, signal: str = "mv_residual", **settings: Any) -> tuple[float, float]:
    """Share of kept cells that touch the object, and the object's share of all cells."""
    config = AssetConfig(
        square_size=SIDE, patch_size=16, keep_first_full_frame=False, signal=signal, **settings
    )
    selection = select_from_video(path, config, ReadOptions())
    kept = np.zeros((64, 8, 8), bool)
    kept[tuple(selection.rows.T)] = True
    on = np.zeros_like(kept)
    for slot, number in enumerate(selection.frame_ids.tolist()):
        spans = (slice(start // 16, (start + OBJECT - 1) // 16 + 1) for start in _object_at(number))
        on[slot, next(spans), next(spans)] = True
    kept, on = kept[1:], on[1:]  # the first frame is new as a whole
    return (kept & on).sum() / kept.sum(), on.mean()


@pytest.mark.parametrize("pan", [False, True])
def test_kept_patches_are_on_what_moves(clips: dict[int, Path], pan: bool) -> None:
    for num_images, share in BUDGETS.items():
        hits, chance = _hits(clips[pan], num_images=num_images)
        assert 0.09 < chance < 0.12
        # At 25 % there are more than twice as many places as the object has cells.
        assert hits > (2.2 if share == 0.25 else 4) * chance, (num_images, hits)


def test_a_moving_camera_misleads_frame_differences_more(clips: dict[int, Path]) -> None:
    hits, _ = _hits(clips[True], num_images=8)
    differences, _ = _hits(clips[True], num_images=8, signal="framediff")
    assert hits > 1.25 * differences
