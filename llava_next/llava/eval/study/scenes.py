"""Compose the clips of the learning study and the questions about them.

Every clip mixes several independent things, each with a question whose answer and chance level are
known. Brief, local and bright events favour codec input by construction; sway, shake, pans, flat
skies, cuts, noise, low contrast and slow changes are therefore part of the set, and so are controls
that any frame answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from llava.eval.study.drawing import (
    COLOURS,
    LETTERS,
    MARGIN_PX,
    NUM_FRAMES,
    SYMBOLS,
    USUAL_SIZES,
    VIEW_PX,
    Patch,
    Scene,
    Shot,
    Sizes,
    glyph,
    landscape,
)

BLOCK_PX = 24
"""Brief things start inside one block of the view: at the usual sizes a cell."""
SIDES = ("left", "right", "up", "down")
_STEPS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
WHITE, BLACK = (245, 245, 245), (15, 15, 15)
MAGENTA, CYAN, ORANGE, PINK = (230, 50, 220), (60, 220, 220), (240, 140, 40), (255, 165, 195)
VIOLET = (130, 60, 250)

Cell = tuple[int, int, int]
Evidence = Callable[[], frozenset[Cell]]
"""Returns the cells that show an answer, once all of a clip is drawn: a thing may hide another."""


@dataclass(frozen=True)
class Question:
    """One question about a clip.

    Args:
        kind: key of ``KINDS``.
        answer: one of ``KINDS[kind].choices``.
        evidence: groups of cells (frame, row, column). Kept tokens can show the answer only if they
            hold at least one cell of every group.
    """

    kind: str
    answer: str
    evidence: tuple[frozenset[Cell], ...]


@dataclass(frozen=True)
class Kind:
    """A kind of question.

    Args:
        text: what the model is asked.
        choices: the possible answers, equally frequent: chance is 1 / len(choices).
        control: codec input should not help; the answers of all others depend on time, so that no
            single frame shows them.
        tuned: whether selections were tuned with it in view; the others judge without bias.
    """

    text: str
    choices: tuple[str, ...]
    control: bool = False
    tuned: bool = True


ACTIONS: dict[str, str] = {
    **{name: name for name in ("backflip", "cartwheel", "crawl", "jump", "kick", "punch")},
    **{name: name for name in ("roll", "run", "spin", "spinkick", "walk")},
    **{"danceA": "dance_a", "danceB": "dance_b"},
    **{"facedown": "getup_facedown", "faceup": "getup_faceup"},
}
"""What the people of semi-real clips do: the answer, one word, and the recording; see
``semi_real``."""

KINDS: dict[str, Kind] = {
    "event": Kind("Flash colour?", tuple(COLOURS)),
    "mover": Kind("Ball direction?", SIDES),
    "order": Kind("First shape?", ("disc", "square")),
    "count": Kind("How many blinks?", ("1", "2", "3", "4")),
    "symbol": Kind("Brief symbol?", SYMBOLS),
    "after_cut": Kind("Later box colour?", tuple(COLOURS)),
    "slow": Kind("Brighter side?", SIDES),
    "change": Kind("Later ring colour?", tuple(COLOURS), tuned=False),
    "vanish": Kind("Vanished dot?", SIDES, tuned=False),
    "action": Kind("Which action?", tuple(ACTIONS), tuned=False),
    "static": Kind("Box colour?", tuple(COLOURS), control=True),
    "camera": Kind("Camera direction?", SIDES, control=True),
    "sign": Kind("Sign letter?", LETTERS, control=True),
}
"""All kinds of question, by name."""


@dataclass
class Composition:
    """A clip being composed."""

    scene: Scene
    rng: np.random.Generator
    steady: bool
    asked: list[tuple[str, str, tuple[Evidence, ...]]] = field(default_factory=list)

    def shot_at(self, frame: int) -> Shot:
        return next(shot for shot in self.scene.shots if shot.first <= frame <= shot.last)

    def inside_block(self, frame: int, size_px: int) -> tuple[float, float]:
        """Return a random world position at which a thing is within one block at a frame."""
        cell = self.rng.integers(0, VIEW_PX // BLOCK_PX, 2) * BLOCK_PX
        return self.to_world(frame, *(cell + self.rng.uniform(1, BLOCK_PX - size_px - 1, 2)))

    def to_world(self, frame: int, top_px: float, left_px: float) -> tuple[float, float]:
        """Return the world position of a position in the view at a frame."""
        camera = self.scene.camera_px[frame]
        return float(camera[0] + top_px), float(camera[1] + left_px)

    def add(self, patch: Patch) -> Evidence:
        """Put a patch into the shot of its first frame; return the cells that show it."""
        self.shot_at(patch.frames[0]).patches.append(patch)
        return self.region(patch)

    def region(self, patch: Patch) -> Evidence:
        """Return the cells in which a patch is not hidden by what is painted after this call."""
        shot = self.shot_at(patch.frames[0])
        return partial(self._seen, shot, len(shot.patches), patch)

    def _seen(self, shot: Shot, num_below: int, patch: Patch) -> frozenset[Cell]:
        return frozenset(self.scene.cells(patch, shot.patches[num_below:]))

    def ask(self, kind: str, answer: str, *evidence: Evidence) -> None:
        self.asked.append((kind, answer, evidence))

    def questions(self) -> list[Question]:
        """Return the questions whose answers can be seen, in random order."""
        found = [
            Question(kind, answer, tuple(group() for group in evidence))
            for kind, answer, evidence in self.asked
        ]
        order = self.rng.permutation(len(found))
        return [found[int(index)] for index in order if all(found[int(index)].evidence)]

    def moments(self, count: int, length_frames: int, gap_frames: int = 4) -> list[int]:
        """Return ``count`` random start frames in order, apart by a gap, in the longest shot."""
        shot = max(self.scene.shots, key=lambda shot: shot.last - shot.first)
        low, high = max(shot.first, 2) + 1, shot.last - length_frames
        step = length_frames + gap_frames
        free = high - low - step * (count - 1)
        starts = np.sort(self.rng.integers(0, free + 1, count))
        return [int(low + start + step * number) for number, start in enumerate(starts)]


def _between(evidence: Evidence, first: int, end: int) -> Evidence:
    """Return the cells of some frames, ``end`` excluded."""
    return lambda: frozenset(cell for cell in evidence() if first <= cell[0] < end)


def _choose(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return str(choices[int(rng.integers(len(choices)))])


def _disc(radius_px: int) -> np.ndarray:
    offset = np.arange(2 * radius_px) - radius_px + 0.5
    return np.hypot(offset[:, None], offset) <= radius_px


def _brief(
    clip: Composition,
    mask: np.ndarray,
    colour: tuple[int, int, int],
    start: int,
    *,
    framed: bool = False,
) -> Evidence:
    """Show a mask for three frames in one block of the view; return the cells that show it."""
    top, left = clip.inside_block(start, max(mask.shape))
    frames = range(start, start + 3)
    return clip.add(Patch(mask, colour, frames, (top,), (left,), framed=framed))


def _event(clip: Composition) -> None:
    answer = _choose(clip.rng, list(COLOURS))
    mask = np.ones((15, 15), bool)
    start = clip.moments(1, 3)[0]
    clip.ask("event", answer, _brief(clip, mask, COLOURS[answer], start, framed=True))


def _symbol(clip: Composition) -> None:
    answer = _choose(clip.rng, SYMBOLS)
    start = clip.moments(1, 3)[0]
    clip.ask("symbol", answer, _brief(clip, glyph(answer, 4), MAGENTA, start))


def _order(clip: Composition) -> None:
    answer = _choose(clip.rng, ("disc", "square"))
    masks = {"disc": _disc(7), "square": np.ones((14, 14), bool)}
    colours = {"disc": CYAN, "square": PINK}
    names = [answer, *(name for name in masks if name != answer)]
    cells = [
        _brief(clip, masks[name], colours[name], start)
        for name, start in zip(names, clip.moments(2, 3, gap_frames=6), strict=True)
    ]
    clip.ask("order", answer, *cells)


def _count(clip: Composition) -> None:
    answer = _choose(clip.rng, KINDS["count"].choices)
    starts = clip.moments(int(answer), 3, gap_frames=5)
    # Far from the edges at the middle blink: a pan must not carry the lamp out of the view.
    place = BLOCK_PX * clip.rng.integers(1, 3, 2) + clip.rng.uniform(2, 10, 2)
    top, left = clip.to_world(starts[len(starts) // 2], *place)
    cells = [
        clip.add(Patch(_disc(6), VIOLET, range(start, start + 3), (top,), (left,)))
        for start in starts
    ]
    clip.ask("count", answer, *cells)


def _mover(clip: Composition) -> None:
    """Add a small ball that crosses the picture; cells far apart in time tell its direction."""
    answer = _choose(clip.rng, SIDES)
    shot = max(clip.scene.shots, key=lambda shot: shot.last - shot.first)
    frames = range(shot.first, shot.last + 1)
    travel = clip.rng.uniform(0.8, 1.0) * (VIEW_PX - 20)
    way = np.array(_STEPS[answer]) * travel
    middle = np.where(np.array(_STEPS[answer]) != 0, VIEW_PX / 2, clip.rng.uniform(14, 82, 2)) - 7
    share = np.linspace(-0.5, 0.5, len(frames))
    # The ball moves in the view, not in the world: a camera that follows must not undo its way.
    path = middle + share[:, None] * way + clip.scene.camera_px[list(frames)]
    ball = clip.add(Patch(_disc(7), WHITE, frames, tuple(path[:, 0]), tuple(path[:, 1])))
    third = len(frames) // 3
    early = _between(ball, frames[0], frames[third])
    clip.ask("mover", answer, early, _between(ball, frames[-third], NUM_FRAMES))


def _change(clip: Composition) -> None:
    """Add a ring that takes another colour, and keeps it to the end of the shot."""
    first, answer = (str(name) for name in clip.rng.permutation(list(COLOURS))[:2])
    shot = max(clip.scene.shots, key=lambda shot: shot.last - shot.first)
    middle = int(clip.rng.integers(shot.first + 8, shot.last - 8))
    top, left = clip.inside_block(middle, 16)
    mask = _disc(8)
    mask[5:11, 5:11] = False
    cells = [
        clip.add(Patch(mask, COLOURS[name], frames, (top,), (left,)))
        for name, frames in (
            (first, range(shot.first, middle)),
            (answer, range(middle, shot.last + 1)),
        )
    ]
    clip.ask("change", answer, *cells)


def _slow(clip: Composition) -> None:
    """Add a region that brightens slightly over most of the clip."""
    answer = _choose(clip.rng, SIDES)
    low, middle, high, size = 6, 34, 62, 28
    places = {
        "left": (middle, low),
        "right": (middle, high),
        "up": (low, middle),
        "down": (high, middle),
    }
    frames = range(8, NUM_FRAMES)
    strength = tuple(np.linspace(0, 0.25, len(frames)))
    top, left = clip.to_world(0, *places[answer])
    mask = np.ones((size, size), bool)
    region = Patch(mask, WHITE, range(16), (top,), (left,))
    early = clip.region(region)
    late = clip.add(Patch(mask, WHITE, frames, (top,), (left,), strength))
    clip.ask("slow", answer, early, _between(late, 44, NUM_FRAMES))


def _vanish(clip: Composition) -> None:
    """Four dots are there from the first frame; one of them goes."""
    answer = _choose(clip.rng, SIDES)
    end = int(clip.rng.integers(16, NUM_FRAMES - 8))
    places = {"left": (43, 8), "right": (43, 78), "up": (8, 43), "down": (78, 43)}
    mask = _disc(5)
    for side, place in places.items():
        top, left = clip.to_world(0, *place)
        last = end if side == answer else NUM_FRAMES
        clip.add(Patch(mask, ORANGE, range(last), (top,), (left,)))
    top, left = clip.to_world(0, *places[answer])
    gone = clip.region(Patch(mask, ORANGE, range(end, NUM_FRAMES), (top,), (left,)))
    clip.ask("vanish", answer, gone)


def _static(clip: Composition) -> None:
    answer = _choose(clip.rng, list(COLOURS))
    shot = clip.scene.shots[0]
    top, left = clip.inside_block(0, 16)
    frames = range(shot.first, shot.last + 1)
    mask = np.ones((16, 16), bool)
    clip.ask("static", answer, clip.add(Patch(mask, COLOURS[answer], frames, (top,), (left,))))


def _after_cut(clip: Composition) -> None:
    answer = _choose(clip.rng, list(COLOURS))
    shot = clip.scene.shots[1]
    top, left = clip.inside_block((shot.first + shot.last) // 2, 16)
    frames = range(shot.first, shot.last + 1)
    mask = np.ones((16, 16), bool)
    clip.ask("after_cut", answer, clip.add(Patch(mask, COLOURS[answer], frames, (top,), (left,))))


def _sign(clip: Composition) -> None:
    answer = _choose(clip.rng, LETTERS)
    shot = clip.scene.shots[0]
    frames = range(shot.first, shot.last + 1)
    top, left = clip.inside_block(0, 22)
    board = Patch(np.ones((22, 22), bool), WHITE, frames, (top,), (left,))
    clip.add(board)
    clip.ask(
        "sign", answer, clip.add(Patch(glyph(answer, 4), BLACK, frames, (top + 1,), (left + 1,)))
    )


_TIMED: dict[str, Callable[[Composition], None]] = {
    "event": _event,
    "order": _order,
    "count": _count,
    "symbol": _symbol,
    "change": _change,
}
_FIXED: dict[str, Callable[[Composition], None]] = {"slow": _slow, "vanish": _vanish}


def _camera(rng: np.random.Generator, way: str) -> np.ndarray:
    """Return the path of the camera: float64 (NUM_FRAMES, 2), (y, x) in world pixels."""
    time = np.arange(NUM_FRAMES)
    path = np.full((NUM_FRAMES, 2), float(MARGIN_PX))
    if way in ("sway", *SIDES):
        phase, size = rng.uniform(0, 2 * np.pi, 4), rng.uniform(1, 5 if way == "sway" else 1.5)
        path[:, 0] += 0.6 * size * np.sin(time / 9 + phase[0])
        path[:, 1] += size * np.sin(time / 7 + phase[1]) + 0.3 * size * np.sin(
            time / 2.3 + phase[2]
        )
    if way == "shake":
        path += rng.normal(0, 1.5, (NUM_FRAMES, 2))
    if way in SIDES:
        path += np.linspace(-0.5, 0.5, NUM_FRAMES)[:, None] * 40 * np.array(_STEPS[way])
    return np.clip(path, 2, 2 * MARGIN_PX - 2)


def compose(seed: int, sizes: Sizes = USUAL_SIZES) -> tuple[Scene, list[Question], str]:
    """Compose one clip.

    Args:
        seed: fixes everything about the clip but its sizes.
        sizes: how large it is painted.

    Returns:
        The scene to draw, its questions in random order, and a word for the camera: "still",
        "sway", "shake" or "pan".
    """
    rng = np.random.default_rng((20261128, seed))
    way = _choose(rng, ("still", "sway", "sway", "sway", "shake", *SIDES))
    has_cut = rng.random() < 0.3
    cut = int(rng.integers(20, 44)) if has_cut else NUM_FRAMES
    ends = [cut, NUM_FRAMES] if has_cut else [NUM_FRAMES]
    firsts = [0, cut] if has_cut else [0]
    shots = [
        Shot(first, end - 1, landscape(rng, flat=rng.random() < 0.5))
        for first, end in zip(firsts, ends, strict=True)
    ]
    noise = float(rng.choice([0.0, 2.0, 5.0]))
    scene = Scene(shots, _camera(rng, way), noise, seed, sizes)
    steady = way in ("still", "sway") and not has_cut
    clip = Composition(scene, rng, steady)
    if rng.random() < 0.6:
        _sign(clip)
    _static(clip)
    if has_cut:
        _after_cut(clip)
    if steady:
        _FIXED[_choose(rng, list(_FIXED))](clip)
    if rng.random() < 0.7:
        _mover(clip)
    for name in rng.permutation(list(_TIMED))[: 1 if has_cut else 3]:
        _TIMED[str(name)](clip)
    if way in SIDES and not has_cut:
        parts = [range(0, 24), range(40, NUM_FRAMES)]
        clip.ask("camera", way, *(partial(_whole_frames, part, sizes) for part in parts))
    camera = "pan" if way in SIDES else way
    return scene, clip.questions(), camera


def _whole_frames(frames: Sequence[int], sizes: Sizes) -> frozenset[Cell]:
    side = range(sizes.grid)
    return frozenset((frame, row, column) for frame in frames for row in side for column in side)
