"""Sample clips for the page, drawn and encoded when the server starts; none is in the package."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from run_kit.clips import encode_clip

_HEIGHT_PX, _WIDTH_PX = 180, 320
_FRAME_RATE = 25
_SECONDS = 6
_ENCODING = {"preset": "veryfast", "crf": "24", "g": "100", "threads": "1"}

_Picture = NDArray[np.uint8]


class SampleClip(NamedTuple):
    """A sample clip: its name, what it shows, and what draws it."""

    name: str
    title: str
    draw: Callable[[], Iterator[_Picture]]


def _ground(seed: int, width_px: int, colour: tuple[int, int, int]) -> _Picture:
    """Return a textured ground of one colour: uint8 (H, width_px, 3)."""
    coarse = np.random.default_rng(seed).uniform(0.7, 1.0, (_HEIGHT_PX // 6, width_px // 6 + 1))
    fine = np.repeat(np.repeat(coarse, 6, axis=0), 6, axis=1)[:, :width_px]
    return (fine[..., None] * np.array(colour)).astype(np.uint8)


def _disc(
    picture: _Picture, row: float, column: float, radius: float, colour: tuple[int, int, int]
) -> None:
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    picture[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = colour


def _draw_ball() -> Iterator[_Picture]:
    ground, count = _ground(1, _WIDTH_PX, (120, 170, 110)), _SECONDS * _FRAME_RATE
    for number in range(count):
        picture = ground.copy()
        bounce = abs(np.sin(number / 12))
        _disc(picture, 150 - 90 * bounce, 20 + 280 * number / count, 16, (210, 40, 40))
        yield picture


def _draw_cuts() -> Iterator[_Picture]:
    colours = ((70, 110, 190), (200, 150, 70), (110, 70, 140))
    for scene, colour in enumerate(colours):
        ground = _ground(2 + scene, _WIDTH_PX, colour)
        for number in range(_SECONDS * _FRAME_RATE // len(colours)):
            picture = ground.copy()
            for shape in range(scene + 1):
                left = 20 + 3 * number + 60 * shape
                picture[40 + 40 * shape : 66 + 40 * shape, left : left + 26] = (245, 240, 210)
            yield picture


def _draw_pan() -> Iterator[_Picture]:
    ground, count = _ground(5, 2 * _WIDTH_PX, (150, 150, 160)), _SECONDS * _FRAME_RATE
    for place, colour in ((90, (30, 90, 200)), (300, (220, 120, 20)), (520, (20, 140, 60))):
        _disc(ground, 95, place, 34, colour)
    for number in range(count):
        left = _WIDTH_PX * number // count
        yield ground[:, left : left + _WIDTH_PX].copy()


SAMPLES = (
    SampleClip("ball", "a ball that bounces", _draw_ball),
    SampleClip("cuts", "three scenes with cuts", _draw_cuts),
    SampleClip("pan", "a camera that pans", _draw_pan),
)


def make_samples(folder: Path) -> dict[str, Path]:
    """Encode all sample clips, 6 s of 320 x 180 pixels each.

    Args:
        folder: an existing folder to write to.

    Returns:
        The file of each name.
    """
    files = {sample.name: folder / f"{sample.name}.mp4" for sample in SAMPLES}
    for sample in SAMPLES:
        encode_clip(files[sample.name], sample.draw(), frame_rate=_FRAME_RATE, options=_ENCODING)
    return files
