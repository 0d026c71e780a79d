"""Composed vectors against known motion: walks of a camera, intra blocks, real encodings."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cv_reader.reader import open_video
from cv_reader.select.geometry import letterbox
from cv_reader.select.rate_distortion.chains import CELL_UNITS, STEPS, MotionChains
from support.media import panning, write_video

HEIGHT, WIDTH, GRID = 96, 160, 10
BOX = letterbox(HEIGHT, WIDTH, square_px=WIDTH, patch_px=16)
ROWS, COLUMNS = slice(2, 8), slice(0, GRID)
SAMPLE_PX = 2  # a cell of 16 pixels has 8 samples

# Presentation order; references as an encoder with a pyramid of B pictures has them.
REFERENCES = {
    0: (),
    4: (0,),
    2: (0, 4),
    1: (0, 2),
    3: (2, 4),
    8: (4,),
    6: (4, 8),
    5: (4, 6),
    7: (6, 8),
    9: (8,),
    10: (4,),
}


def _picture(number: int, camera: Any, references: Any, *, is_intra: Any = None) -> Any:
    """What a decoder gives of a picture whose content moves as one.

    ``camera`` are positions (T, 2) in quarter pixels; content moves against it.
    """
    motion = np.zeros((2, HEIGHT // 4, WIDTH // 4, 2), np.int16)
    distance = np.zeros((2, HEIGHT // 4, WIDTH // 4), np.int16)
    for which, reference in enumerate(references):
        down, right = camera[number] - camera[reference]
        motion[which] = (right, down)
        distance[which] = reference - number
    if is_intra is not None:
        motion[:, is_intra], distance[:, is_intra] = 0, 0
    return SimpleNamespace(index=number, motion=motion, motion_ref=distance)


def _links(pictures: Any, slots: int) -> Any:
    chains = MotionChains(BOX, ROWS, COLUMNS, slots)
    for picture in pictures:
        chains.add(picture)
    return chains.finish()


def _in_steps(quarter_px: Any) -> Any:
    return np.asarray(quarter_px) * STEPS // (4 * SAMPLE_PX)


def test_chains_end_where_the_camera_was() -> None:
    camera = np.cumsum(np.random.default_rng(1).integers(-6, 7, (11, 2)) * 2, axis=0)
    slots = [0, 4, 8, 9]
    links = _links([_picture(n, camera, REFERENCES[n]) for n in range(11)], slots)
    assert links.num_pictures == 11
    assert not links.is_known[0].any()
    assert links.is_known[1:].all()
    for slot in (1, 2, 3):
        expected = _in_steps(camera[slots[slot]] - camera[slots[slot - 1]])
        assert (links.steps[slot] == expected).all(), slot


@pytest.mark.parametrize("slots", [[0, 3, 6, 10], [1, 2, 5, 7], [3, 4, 5, 6, 7, 8], [0, 10]])
def test_slots_need_not_be_references(slots: list[int]) -> None:
    """Vectors that pass a slot are cut there: with even motion that loses nothing."""
    camera = np.arange(11)[:, None] * np.array([6, -10])
    links = _links([_picture(n, camera, REFERENCES[n]) for n in range(11)], slots)
    assert links.is_known[1:].all()
    for slot in range(1, len(slots)):
        expected = _in_steps(camera[slots[slot]] - camera[slots[slot - 1]])
        assert np.abs(links.steps[slot] - expected).max() <= 1


def test_an_intra_block_ends_the_chains_that_lead_to_it() -> None:
    camera = np.zeros((4, 2), int)
    is_intra = np.zeros((HEIGHT // 4, WIDTH // 4), bool)
    is_intra[4:8, 12:20] = True  # rows 1 of the cells of 16 pixels, columns 3 and 4
    pictures = [
        _picture(n, camera, (n - 1,) if n else (), is_intra=is_intra if n == 2 else None)
        for n in range(4)
    ]
    known = _links(pictures, [0, 3]).is_known[1]
    # Rows of content begin at row 0 of the picture: 32 pixels of the square are above it.
    expected = np.ones_like(known)
    expected[CELL_UNITS : 2 * CELL_UNITS, 3 * CELL_UNITS : 5 * CELL_UNITS] = False
    assert (known == expected).all()


def test_the_other_list_is_followed_where_one_leads_nowhere() -> None:
    camera = np.arange(4)[:, None] * np.array([4, 8])
    pictures = [_picture(0, camera, ()), _picture(1, camera, (), is_intra=...)]
    pictures += [_picture(2, camera, (1, 0)), _picture(3, camera, (2,))]
    links = _links(pictures, [0, 3])
    assert links.is_known[1].all()
    assert (links.steps[1] == _in_steps(camera[3])).all()


def test_pictures_that_are_missing_end_chains() -> None:
    camera = np.arange(11)[:, None] * np.array([4, 8])
    pictures = [_picture(n, camera, REFERENCES[n]) for n in range(11) if n != 4]
    links = _links(pictures, [0, 1, 2, 9])
    assert links.is_known[1].all() and links.is_known[2].all()
    assert not links.is_known[3].any()


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bf": "0", "refs": "1"}),
        ("libx264", {"bf": "3", "b-pyramid": "normal", "refs": "4"}),
        ("libx265", {"x265-params": "bframes=3:ref=3"}),
    ],
)
@pytest.mark.parametrize("velocity", [(0, 3), (2, -1)])
def test_a_pan_is_followed_through_a_real_encoding(
    tmp_path: Path, codec: str, options: dict[str, str], velocity: tuple[int, int]
) -> None:
    frames = panning(22, HEIGHT, WIDTH, velocity)
    path = write_video(tmp_path / "pan.mp4", frames, codec=codec, options=options | {"crf": "12"})
    slots = [0, 6, 7, 13, 21]
    with open_video(path, "native") as video:
        links = _links(video.frames(), slots)
    for slot in range(1, len(slots)):
        pan_px = (slots[slot] - slots[slot - 1]) * np.array(velocity)
        # What was in the picture before, but for the blocks at its border.
        reach = 1 + -(-np.abs(pan_px).max() * CELL_UNITS // 16)
        inside = np.s_[reach:-reach, reach:-reach]
        found = links.steps[slot][inside][links.is_known[slot][inside]]
        assert len(found) > 0.7 * links.is_known[slot][inside].size
        off = np.abs(found - _in_steps(4 * pan_px)).max(axis=-1)
        assert (off <= STEPS / SAMPLE_PX).mean() > 0.95, slot  # one pixel
        assert np.median(off) <= STEPS / 4  # half a pixel
