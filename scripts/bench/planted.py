"""Clips for benchmarks of selection whose content is known.

``scene`` makes twelve kinds of clips; ``planted_clip`` makes small ones with one brief event each.

Axis legend: frames are uint8 (H, W, 3) RGB.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cv_reader.select.rate_distortion.clip import CELL_WEIGHT, CHROMA_WEIGHT, SmallClip
from run_kit.clips import encode_clip

Frame = NDArray[np.uint8]

HEIGHT_PX, WIDTH_PX, NUM_FRAMES, FRAME_RATE = 180, 320, 160, 25
CRF = 23
EVENT_SIDE_PX, EVENT_SLOTS, EVENT_PX = 96, 64, 10


def write_clip(path: Path, frames: Iterable[Frame], key_interval: int, crf: float = CRF) -> Path:
    """Encode frames with x264 on one thread: equal frames give equal files. crf 0 loses nothing."""
    options = {
        "preset": "veryfast",
        "crf": str(crf),
        "g": str(key_interval),
        "threads": "1",
        "x264-params": "log-level=none",
    }
    encode_clip(path, frames, frame_rate=FRAME_RATE, options=options)
    return path


def _texture(height_px: int, width_px: int, seed: int) -> NDArray[np.float32]:
    """Smooth random texture with detail at 6 and 24 pixels."""
    generator = np.random.default_rng(seed)
    image = np.full((height_px, width_px, 3), 128, np.float32)
    for cell_px, amplitude in ((6, 35), (24, 60)):
        rows, columns = height_px // cell_px + 1, width_px // cell_px + 1
        coarse = generator.uniform(-amplitude, amplitude, (rows, columns, 3)).astype(np.float32)
        fine = coarse.repeat(cell_px, 0).repeat(cell_px, 1)
        for axis in (0, 1):
            fine = sum(np.roll(fine, step, axis) for step in range(cell_px // 2)) / (cell_px // 2)
        image += fine[:height_px, :width_px]
    return image


def _window(world: NDArray[np.float32], row: float, column: float) -> NDArray[np.float32]:
    top, left = round(row), round(column)
    return world[top : top + HEIGHT_PX, left : left + WIDTH_PX].copy()


def _disc(picture: NDArray[np.float32], number: int) -> None:
    """Return a bright disc on its way across the picture."""
    rows, columns = np.ogrid[:HEIGHT_PX, :WIDTH_PX]
    column = 20 + (WIDTH_PX - 40) * number / NUM_FRAMES
    row = HEIGHT_PX / 2 + 50 * np.sin(number / 15)
    picture[(rows - row) ** 2 + (columns - column) ** 2 < 14**2] = (240, 220, 40)


def _still(number: int, world: NDArray[np.float32]) -> NDArray[np.float32]:
    picture = _window(world, 40, 60)
    _disc(picture, number)
    return picture


def _sway(number: int, world: NDArray[np.float32]) -> NDArray[np.float32]:
    picture = _window(world, 40 + 4 * np.sin(number / 9), 60 + 6 * np.sin(number / 13))
    picture[: HEIGHT_PX // 2] = (90, 140, 210)
    _disc(picture, number)
    return picture


def _pan(number: int, world: NDArray[np.float32]) -> NDArray[np.float32]:
    return _window(world, 40, 0.9 * number)


def _zoom(number: int, world: NDArray[np.float32]) -> NDArray[np.float32]:
    scale = 1 - 0.35 * number / NUM_FRAMES
    rows = (90 + (np.arange(HEIGHT_PX) - 90) * scale + 30).astype(int)
    columns = (160 + (np.arange(WIDTH_PX) - 160) * scale + 40).astype(int)
    return world[np.ix_(rows, columns)].copy()


def _cuts(number: int, world: NDArray[np.float32]) -> NDArray[np.float32]:
    scene = number * 6 // NUM_FRAMES
    return _window(np.roll(world[:, ::-1] if scene % 2 else world, 37 * scene, (0, 1)), 30, 30)


def _flicker(number: int, world: NDArray[np.float32]) -> NDArray[np.float32]:
    return _still(number, world) * (1 + 0.12 * np.sin(2.1 * number))


def _grain(number: int, world: NDArray[np.float32]) -> NDArray[np.float32]:
    noise = np.random.default_rng(number).normal(0, 7, (HEIGHT_PX, WIDTH_PX, 1))
    return _still(number, world) + noise.astype(np.float32)


def _fade(number: int, world: NDArray[np.float32]) -> NDArray[np.float32]:
    return _still(number, world) * abs(np.cos(np.pi * number / NUM_FRAMES))


def _slides(number: int, world: NDArray[np.float32]) -> NDArray[np.float32]:
    slide = number * 4 // NUM_FRAMES
    picture = np.full((HEIGHT_PX, WIDTH_PX, 3), 245, np.float32)
    letters = np.random.default_rng(slide).random((9, 40)) < 0.6
    ink = letters.repeat(6, 0).repeat(6, 1)
    picture[30 : 30 + 54, 40 : 40 + 240][ink] = 30
    row, column = 100 + int(40 * np.sin(number / 20)), 40 + int(1.4 * number)
    picture[row : row + 10, column : column + 6] = (200, 30, 30)
    return picture


def _sky(number: int, world: NDArray[np.float32]) -> NDArray[np.float32]:
    picture = np.empty((HEIGHT_PX, WIDTH_PX, 3), np.float32)
    picture[:] = np.array([90, 140, 210], np.float32) + np.linspace(0, 25, HEIGHT_PX)[:, None, None]
    row, column = 60 + int(20 * np.sin(number / 11)), 20 + int(1.7 * number)
    picture[row : row + 8, column : column + 14] = 30
    return picture


SCENES: dict[str, tuple[Callable[[int, NDArray[np.float32]], NDArray[np.float32]], int]] = {
    "static camera": (_still, 250),
    "sway": (_sway, 250),
    "pan": (_pan, 250),
    "zoom": (_zoom, 250),
    "cuts": (_cuts, 250),
    "flicker": (_flicker, 250),
    "grain": (_grain, 250),
    "fade": (_fade, 250),
    "slides with a cursor": (_slides, 250),
    "flat sky": (_sky, 250),
    "key frames every 12": (_still, 12),
    "sway, key frames every 12": (_sway, 12),
}
"""Name -> what a frame shows, and the key interval."""


def made_scene(folder: Path, name: str, crf: float = CRF, key_interval: int = 0) -> Path:
    """Return one of the twelve clips, encoded once and kept in the folder.

    Args:
        folder: holds the clips.
        name: one of ``SCENES``.
        crf: quality; 0 = without loss.
        key_interval: other key frames than the scene's own; 0 = those.
    """
    content, own_interval = SCENES[name]
    suffix = {CRF: "", 0: "_lossless"}.get(crf, f"_crf_{crf}")
    suffix += f"_keys_{key_interval}" if key_interval else ""
    path = folder / f"{name.replace(' ', '_').replace(',', '')}{suffix}.mp4"
    if path.exists():
        return path
    key_interval = key_interval or own_interval
    return write_clip(path, _frames(content), key_interval, crf)


def _frames(content: Callable[[int, NDArray[np.float32]], NDArray[np.float32]]) -> Iterator[Frame]:
    world = _texture(HEIGHT_PX + 120, WIDTH_PX + 180, 1)
    for number in range(NUM_FRAMES):
        yield np.clip(content(number, world), 0, 255).astype(np.uint8)


def coding_noise(source: SmallClip, coded: SmallClip) -> float:
    """Mean squared difference that coding makes to a clip's reduced pictures."""
    luma, chroma = (
        float(np.square(there.astype(np.float64) - here).sum())
        for there, here in ((source.luma, coded.luma), (source.chroma, coded.chroma))
    )
    cells = source.num_slots * source.height * source.width
    return (luma + CHROMA_WEIGHT * chroma) / (CELL_WEIGHT * cells)


@dataclass(frozen=True)
class Event:
    """Where a planted event is: slots, and rows and columns in pixels."""

    first_slot: int
    row_px: int
    column_px: int

    def cells(self, patch_px: int) -> tuple[slice, slice, slice]:
        """Slots, rows and columns of the cells that the event touches."""
        rows, columns = (
            slice(start // patch_px, (start + EVENT_PX - 1) // patch_px + 1)
            for start in (self.row_px, self.column_px)
        )
        return slice(self.first_slot, self.first_slot + 3), rows, columns


def planted_clip(folder: Path, seed: int) -> tuple[Path, Event]:
    """Return a clip of 96 x 96 pixels and 64 frames with an event of three frames.

    Flat sky above texture; a hand-held sway in 70 %, a cut in 25 %, a small mover; and a striped
    patch of 10 pixels that shows for 3 frames at a random time and place.
    """
    generator = np.random.default_rng(seed)
    side, room = EVENT_SIDE_PX, 12
    big = np.empty((side + 2 * room, side + 2 * room, 3), np.float32)
    big[:] = np.array([90, 140, 210], np.float32)
    big += np.linspace(0, 30, len(big))[:, None, None].astype(np.float32)
    horizon = len(big) // 2 + int(generator.integers(-10, 10))
    coarse = generator.integers(0, 255, (len(big) // 6 + 1, len(big) // 6 + 1, 3))
    ground = coarse.astype(np.float32).repeat(6, 0).repeat(6, 1)[: len(big), : len(big)]
    ground = sum(np.roll(ground, (i, j), (0, 1)) for i in range(3) for j in range(3)) / 9
    big[horizon:] = ground[horizon:]
    other = np.roll(big[:, ::-1], 17, 0)
    amplitude = generator.uniform(1, 5) if generator.random() < 0.7 else 0
    cut = int(generator.integers(20, 44)) if generator.random() < 0.25 else EVENT_SLOTS
    phases = generator.random(3) * 2 * np.pi
    start, speed = generator.uniform(14, 40, 2), generator.uniform(0.3, 0.7, 2)
    event = Event(
        int(generator.integers(4, 58)), *(int(v) for v in generator.integers(10, side - 20, 2))
    )
    colours = np.array([[230, 40, 40], [40, 220, 40], [50, 60, 230], [230, 220, 40]], np.float32)
    patch = np.broadcast_to(colours[generator.integers(4)], (EVENT_PX, EVENT_PX, 3)).copy()
    patch[::4] = 20
    rows, columns = np.ogrid[:side, :side]

    def frames() -> Iterator[Frame]:
        for slot in range(EVENT_SLOTS):
            right = room + amplitude * (
                np.sin(slot / 7 + phases[0]) + 0.3 * np.sin(slot / 2.3 + phases[1])
            )
            down = room + 0.6 * amplitude * np.sin(slot / 9 + phases[2])
            top, left = round(down), round(right)
            world = other if slot >= cut else big
            picture = world[top : top + side, left : left + side].copy()
            place = start + speed * slot
            picture[(rows - place[0]) ** 2 + (columns - place[1]) ** 2 < 25] = 250
            if event.first_slot <= slot < event.first_slot + 3:
                picture[
                    event.row_px : event.row_px + EVENT_PX,
                    event.column_px : event.column_px + EVENT_PX,
                ] = patch
            noise = generator.normal(0, 2, picture.shape)
            yield np.clip(picture + noise, 0, 255).astype(np.uint8)

    path = folder / f"planted_{seed}.mp4"
    return write_clip(path, frames(), (12, 30, 250)[seed % 3]), event
