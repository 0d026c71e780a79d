"""Draw the pictures of the learning study's made clips.

A clip is a still world larger than the view, a camera that looks at a part of it, and things that
appear, move or change in the world. All coordinates are pixels of a view of ``VIEW_PX``, (y, x),
origin at the top left; ``Sizes`` says how large that view is painted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

VIEW_PX = 96
"""Height and width of the view in which scenes are composed."""
MARGIN_PX = 48
"""How far the world reaches beyond the view on each side: the farthest that a camera moves."""
WORLD_PX = VIEW_PX + 2 * MARGIN_PX
NUM_FRAMES = 64
_HIDING_STRENGTH = 0.5
"""Fainter patches do not hide what they are painted over."""

Picture = NDArray[np.float32]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 45, 40),
    "green": (40, 200, 60),
    "blue": (45, 70, 230),
    "yellow": (235, 220, 40),
}

_GLYPHS = {
    "A": ("01110", "10001", "11111", "10001", "10001"),
    "H": ("10001", "10001", "11111", "10001", "10001"),
    "T": ("11111", "00100", "00100", "00100", "00100"),
    "X": ("10001", "01010", "00100", "01010", "10001"),
    "cross": ("00100", "00100", "11111", "00100", "00100"),
    "ring": ("01110", "10001", "10001", "10001", "01110"),
    "bar": ("00000", "11111", "11111", "11111", "00000"),
    "wedge": ("10000", "11000", "11100", "11110", "11111"),
}
LETTERS = ("A", "H", "T", "X")
SYMBOLS = ("cross", "ring", "bar", "wedge")


def glyph(name: str, scale_px: int) -> NDArray[np.bool_]:
    """Return a 5 x 5 letter or symbol enlarged: bool (5 * scale_px, 5 * scale_px)."""
    rows = [[mark == "1" for mark in row] for row in _GLYPHS[name]]
    return np.kron(np.array(rows), np.ones((scale_px, scale_px), bool)).astype(bool)


def texture(rng: np.random.Generator, *, contrast: float, block_px: int) -> Picture:
    """Return a smooth coloured texture: float32 (WORLD_PX, WORLD_PX, 3).

    Args:
        rng: source of randomness.
        contrast: standard deviation of the blocks before smoothing, grey levels.
        block_px: size of a block.
    """
    count = WORLD_PX // block_px + 1
    base = rng.uniform(70, 170, 3)
    blocks = base + rng.normal(0, contrast, (count, count, 3))
    large = np.kron(blocks, np.ones((block_px, block_px, 1)))[:WORLD_PX, :WORLD_PX]
    shifts = [(y, x) for y in range(3) for x in range(3)]
    smooth = sum(np.roll(large, shift, axis=(0, 1)) for shift in shifts) / len(shifts)
    return np.asarray(smooth, np.float32)


def landscape(rng: np.random.Generator, *, flat: bool) -> Picture:
    """Return a still world: texture all over, or a flat sky above texture."""
    ground = texture(rng, contrast=rng.uniform(35, 70), block_px=int(rng.integers(5, 9)))
    if not flat:
        return ground
    sky = np.array(rng.uniform((80, 130, 190), (120, 170, 230)), np.float32)
    ramp = np.linspace(0, 25, WORLD_PX, dtype=np.float32)[:, None, None]
    horizon = WORLD_PX // 2 + int(rng.integers(-12, 20))
    ground[:horizon] = (sky + ramp)[:horizon]
    return ground


@dataclass(frozen=True)
class Sizes:
    """How large the pictures of a study are, and into what they are cut.

    Attributes:
        view_px: height and width of a picture.
        cell_px: side of a cell, which becomes one visual token; an even part of ``view_px``.
    """

    view_px: int = VIEW_PX
    cell_px: int = 24

    def __post_init__(self) -> None:
        if self.cell_px < 2 or self.view_px % (2 * self.cell_px):
            raise ValueError(
                f"view_px must be a multiple of twice cell_px (frames are also shown at half "
                f"resolution), got view_px {self.view_px} and cell_px {self.cell_px}"
            )

    @property
    def grid(self) -> int:
        """Cells on each side of a picture."""
        return self.view_px // self.cell_px

    @property
    def cells(self) -> int:
        """Cells of a picture."""
        return self.grid * self.grid

    @property
    def scale(self) -> float:
        """Painted pixels for a pixel of the composition."""
        return self.view_px / VIEW_PX


USUAL_SIZES = Sizes()


def enlarge(array: NDArray[Any], scale: float) -> NDArray[Any]:
    """Return a picture or mask with both sides multiplied; every pixel is copied."""
    if scale == 1:
        return array
    rows, columns = (
        np.minimum(np.arange(round(side * scale)) / scale, side - 1).astype(int)
        for side in array.shape[:2]
    )
    return array[rows][:, columns]


@dataclass(frozen=True)
class Patch:
    """A thing in the world: a mask of one colour, seen in some frames, perhaps moving.

    Args:
        mask: bool (height, width).
        colour: RGB, 0 to 255.
        frames: the frame numbers in which it is visible.
        top_px, left_px: world position in each of ``frames``, or one for all.
        strength: 0 to 1 in each of ``frames``, or one for all: how opaque it is.
        framed: give it a dark edge of 3 px, which sets it off from other things of its colour.
    """

    mask: NDArray[np.bool_]
    colour: tuple[int, int, int]
    frames: Sequence[int]
    top_px: Sequence[float]
    left_px: Sequence[float]
    strength: Sequence[float] = (1.0,)
    framed: bool = False

    def place(self, frame: int, scale: float) -> tuple[int, int, float] | None:
        """Return (top, left, strength) as painted in a frame, or None where it is not visible."""
        if frame not in self.frames:
            return None
        at = self.frames.index(frame)

        def value(values: Sequence[float]) -> float:
            return values[at] if len(values) > 1 else values[0]

        top, left = (round(value(side) * scale) for side in (self.top_px, self.left_px))
        return top, left, value(self.strength)

    def draw(self, world: Picture, frame: int, scale: float) -> None:
        """Paint it over the enlarged world, in place, if it is visible in this frame."""
        place = self.place(frame, scale)
        if place is None:
            return
        top, left, strength = place
        paint = np.array(self.colour, np.float32) * np.ones((*self.mask.shape, 1), np.float32)
        if self.framed:
            edge = np.ones(self.mask.shape, bool)
            edge[3:-3, 3:-3] = False
            paint[edge] = 10
        mask, paint = enlarge(self.mask, scale), enlarge(paint, scale)
        target = world[top : top + mask.shape[0], left : left + mask.shape[1]]
        mask, paint = (array[: target.shape[0], : target.shape[1]] for array in (mask, paint))
        target[mask] += np.float32(strength) * (paint[mask] - target[mask])


@dataclass(frozen=True)
class Shot:
    """A stretch of frames before one background: frames ``first`` to ``last``, both included."""

    first: int
    last: int
    world: Picture
    patches: list[Patch] = field(default_factory=list)


@dataclass(frozen=True)
class Scene:
    """All that is needed to draw a clip.

    Args:
        shots: one after the other; together they cover all frames.
        camera_px: float (NUM_FRAMES, 2), the world position of the view's top left corner.
        noise: standard deviation of the sensor's noise, grey levels.
        seed: seed of the noise.
        sizes: how large it is painted.
    """

    shots: list[Shot]
    camera_px: NDArray[np.float64]
    noise: float
    seed: int
    sizes: Sizes = USUAL_SIZES

    def picture(self, frame: int) -> NDArray[np.uint8]:
        """Return one picture: uint8 (view_px, view_px, 3)."""
        scale, side = self.sizes.scale, self.sizes.view_px
        shot = next(shot for shot in self.shots if shot.first <= frame <= shot.last)
        world = enlarge(shot.world, scale).copy()
        for patch in shot.patches:
            patch.draw(world, frame, scale)
        top, left = np.rint(self.camera_px[frame] * scale).astype(int)
        view = world[top : top + side, left : left + side]
        rng = np.random.default_rng((self.seed, frame))
        grain = np.float32(self.noise) * rng.standard_normal(view.shape, np.float32)
        noisy = view + grain if self.noise else view
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)

    def cells(self, patch: Patch, over: Sequence[Patch] = ()) -> set[tuple[int, int, int]]:
        """Return the cells (frame, row, column) in which a part of a patch is seen.

        A part is a quarter of the patch, or half of the cell where that is less.

        Args:
            patch: one of a shot's, or one that is not drawn and marks a region.
            over: patches that are painted later, and hide what is below them.
        """
        found: set[tuple[int, int, int]] = set()
        scale, side, cell = self.sizes.scale, self.sizes.view_px, self.sizes.cell_px
        mask, grid = enlarge(patch.mask, scale), self.sizes.grid
        least = min(mask.sum() / 4, cell * cell / 2)
        world_px = round(WORLD_PX * scale)
        covers = [(other, enlarge(other.mask, scale)) for other in over]
        for frame in patch.frames:
            place = patch.place(frame, scale)
            if place is None or not 0 <= frame < NUM_FRAMES:
                continue
            world = np.zeros((world_px, world_px), bool)
            _mark(world, mask, place[0], place[1], True)
            for other, cover in covers:
                at = other.place(frame, scale)
                if at is not None and at[2] > _HIDING_STRENGTH:
                    _mark(world, cover, at[0], at[1], False)
            top, left = np.rint(self.camera_px[frame] * scale).astype(int)
            view = world[top : top + side, left : left + side]
            seen = view.reshape(grid, cell, grid, cell).sum(axis=(1, 3))
            found |= {(frame, int(row), int(column)) for row, column in np.argwhere(seen >= least)}
        return found


def _mark(
    world: NDArray[np.bool_], mask: NDArray[np.bool_], top: int, left: int, value: bool
) -> None:
    """Set the places of a mask that are inside the world."""
    target = world[top : top + mask.shape[0], left : left + mask.shape[1]]
    target[mask[: target.shape[0], : target.shape[1]]] = value
