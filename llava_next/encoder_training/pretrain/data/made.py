"""Draw images and clips of many concepts, to try pretraining without a download.

    python -m encoder_training.pretrain.data.made OUT [--images 4800] [--clips 1600] [--size_px 48]

writes ``OUT/images/*.jpg``, ``OUT/clips/*.mp4`` and ``OUT/truth.jsonl``: the concepts of each file,
which only judges see. An image shows a coloured shape on a patterned grey ground; its concept is
(shape, texture, hue), where the texture is the ground's. A clip shows such a shape in motion; its
concept is (appearance, motion), and motions come in pairs that are each other's reversal, so that
no set of frames tells them apart. Place, size and rotation of the thing, brightness, blotches,
phase, width and slant of the ground, light and noise vary freely.

Exit codes: 0 done; 2 usage or an existing folder; 130 interrupted.
"""

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_training.pretrain.data.samples import Kind
from encoder_training.pretrain.data.set_info import SetInfo
from encoder_training.pretrain.data.tar_shards import LABELS, SetWriter, npy_bytes
from run_kit.arguments import command_parser
from run_kit.clips import encode_clip
from run_kit.exits import OK, USAGE, ExitOnError
from run_kit.files import write_json_lines

SHAPES = ("disc", "square", "triangle", "ring", "cross", "bar", "crescent", "frame", "ell", "star")
TEXTURES = ("plain", "upright stripes", "level stripes", "slanting stripes", "checks", "dots")
HUES = ("red", "green", "blue", "yellow")
MOTIONS = (
    "left", "right", "up", "down", "up and left", "down and right", "down and left", "up and right",
)  # fmt: skip
"""Motions come in pairs: each odd one is the one before it, played backwards."""

_STEPS = (
    (-1, 0),
    (1, 0),
    (0, -1),
    (0, 1),
    (-0.75, -0.75),
    (0.75, 0.75),
    (-0.75, 0.75),
    (0.75, -0.75),
)
"""Direction of each motion, columns and rows."""

_COLOURS = np.array([(225, 50, 40), (50, 190, 70), (60, 90, 230), (230, 210, 50)], np.float64)
TRUTH = "truth.jsonl"

Pixels = NDArray[np.uint8]
Field = NDArray[np.float64]


class Look(NamedTuple):
    """What a thing looks like: numbers into ``SHAPES``, ``TEXTURES`` and ``HUES``."""

    shape: int
    texture: int
    hue: int


LOOKS = tuple(
    Look(shape, texture, hue)
    for shape in range(len(SHAPES))
    for texture in range(len(TEXTURES))
    for hue in range(len(HUES))
)
"""The 240 concepts of images."""

CLIP_LOOKS = tuple(
    Look(shape, texture, (shape + texture) % len(HUES))
    for shape in (0, 2, 4, 5, 7)
    for texture in range(1, len(TEXTURES), 2)
)
"""The 15 appearances of clips; with 8 motions they make 120 concepts."""


class Pose(NamedTuple):
    """Place of a thing in a picture: centre and radius in parts of the picture, angle in turns."""

    x: float
    y: float
    radius: float
    turn: float


def _box(x: Field, y: Field) -> Field:
    return np.maximum(np.abs(x), np.abs(y))


_DISTANCES: dict[str, Callable[[Field, Field], Field]] = {
    "disc": lambda x, y: np.hypot(x, y) - 0.9,
    "square": lambda x, y: _box(x, y) - 0.75,
    "triangle": lambda x, y: np.maximum(np.abs(x) * 0.87 + y * 0.5, -y) - 0.45,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.7) - 0.22,
    "cross": lambda x, y: np.minimum(
        np.maximum(np.abs(x) - 0.9, np.abs(y) - 0.28),
        np.maximum(np.abs(y) - 0.9, np.abs(x) - 0.28),
    ),
    "bar": lambda x, y: np.maximum(np.abs(x) - 0.95, np.abs(y) - 0.32),
    "crescent": lambda x, y: np.maximum(np.hypot(x, y) - 0.9, 0.7 - np.hypot(x - 0.45, y)),
    "frame": lambda x, y: np.abs(_box(x, y) - 0.65) - 0.17,
    "ell": lambda x, y: np.minimum(
        np.maximum(np.abs(x + 0.5) - 0.3, np.abs(y) - 0.85),
        np.maximum(np.abs(x) - 0.8, np.abs(y - 0.55) - 0.3),
    ),
    "star": lambda x, y: np.hypot(x, y) - 0.62 - 0.3 * np.cos(5 * np.arctan2(x, -y)),
}
"""Fields that are negative inside the shape of radius 1, about in its units."""

_WAVES: dict[str, Callable[[Field, Field, float, float], Field]] = {
    "plain": lambda x, y, first, second: np.full_like(x, -1.0),
    "upright stripes": lambda x, y, first, second: np.sin(x + first),
    "level stripes": lambda x, y, first, second: np.sin(y + first),
    "slanting stripes": lambda x, y, first, second: np.sin(0.8 * (x + y) + first),
    "checks": lambda x, y, first, second: np.sin(0.8 * x + first) * np.sin(0.8 * y + second) * 2,
    "dots": lambda x, y, first, second: np.cos(x + first) + np.cos(y + second) - 0.5,
}
"""Fields that are positive where a texture is darker; arguments in radians of its wave."""


class MadeScene:
    """A thing on its ground, drawn at any pose.

    Args:
        look: what the thing looks like.
        random: draws everything that is no part of the concept.
        size_px: side of the pictures.
    """

    def __init__(self, look: Look, random: np.random.Generator, size_px: int) -> None:
        self._random, self._size_px = random, size_px
        self._distance = _DISTANCES[SHAPES[look.shape]]
        axis = (np.arange(size_px) + 0.5) / size_px
        self._x, self._y = np.meshgrid(axis, axis)
        blotches = random.normal(0, 1, (random.integers(2, 6), random.integers(2, 6)))
        blotches = Image.fromarray(blotches.astype(np.float32)).resize(
            (size_px, size_px), Image.Resampling.BICUBIC
        )
        ground = random.uniform(90, 200) + 40 * np.asarray(blotches, np.float64)
        # A wave takes 7 to 9 of 48 pixels, and turns by up to a tenth of a radian.
        waves, slant = 2 * np.pi * 48 / random.uniform(7, 9), random.uniform(-0.1, 0.1)
        cosine, sine = waves * np.cos(slant), waves * np.sin(slant)
        wave = _WAVES[TEXTURES[look.texture]](
            cosine * self._x + sine * self._y,
            cosine * self._y - sine * self._x,
            random.uniform(0, 2 * np.pi),
            random.uniform(0, 2 * np.pi),
        )
        texture = 1 - 0.6 * np.clip(0.5 + 2 * wave, 0, 1)
        tint = random.normal(0, 6, 3)
        self._ground = (np.clip(ground, 20, 250)[..., None] + tint) * texture[..., None]
        self._colour = _COLOURS[look.hue] + random.normal(0, 12, 3)
        self._light = random.uniform(0.6, 1.25)

    def draw(self, pose: Pose) -> Pixels:
        """Return the picture, uint8 (H, W, 3)."""
        cosine, sine = np.cos(2 * np.pi * pose.turn), np.sin(2 * np.pi * pose.turn)
        dx, dy = (self._x - pose.x) / pose.radius, (self._y - pose.y) / pose.radius
        x, y = cosine * dx + sine * dy, cosine * dy - sine * dx
        softness = 1.0 / (pose.radius * self._size_px)
        inside = np.clip(0.5 - self._distance(x, y) / softness, 0, 1)[..., None]
        picture = self._ground * (1 - inside) + self._colour * inside
        picture = picture * self._light + self._random.normal(0, 4, picture.shape)
        return np.clip(picture, 0, 255).astype(np.uint8)


def draw_image(concept: int, random: np.random.Generator, size_px: int) -> Pixels:
    """Return a picture of concept ``LOOKS[concept]``, uint8 (H, W, 3)."""
    scene = MadeScene(LOOKS[concept], random, size_px)
    x, y = random.uniform(0.4, 0.6, 2)
    return scene.draw(Pose(x, y, random.uniform(0.32, 0.46), random.uniform(-0.04, 0.04)))


def draw_clip(
    look: int, motion: int, random: np.random.Generator, size_px: int, num_frames: int
) -> Iterator[Pixels]:
    """Yield the frames of a clip of ``CLIP_LOOKS[look]`` in ``MOTIONS[motion]``."""
    scene = MadeScene(CLIP_LOOKS[look], random, size_px)
    radius, turn = random.uniform(0.2, 0.28), random.uniform(-0.04, 0.04)
    x, y = random.uniform(0.4, 0.6, 2)
    reach = random.uniform(0.56, 0.76)
    step_x, step_y = _STEPS[motion]
    for along in np.linspace(-reach / 2, reach / 2, num_frames):
        yield scene.draw(Pose(x + along * step_x, y + along * step_y, radius, turn))


def jpeg(pixels: Pixels, quality: int = 92) -> bytes:
    """Return a picture as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


ENCODER_OPTIONS = {
    "preset": "veryfast",
    "crf": "20",
    "threads": "1",
    "x264-params": "log-level=none:asm=0",
}
"""One thread and no assembler: the same frames give the same file."""


def make_files(
    out: Path, *, images: int, clips: int, size_px: int = 48, clip_frames: int = 64, seed: int = 0
) -> None:
    """Write images, clips and their concepts; concepts come in turn."""
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} must be a new or an empty folder")
    rows: list[dict[str, object]] = []
    for number in range(images):
        concept = number % len(LOOKS)
        pixels = draw_image(concept, np.random.default_rng([seed, 0, number]), size_px)
        path = out / "images" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(pixels))
        rows.append(
            {"key": path.stem, "kind": "image", "concept": concept, **_named(LOOKS[concept])}
        )
    for number in range(clips):
        look, motion = divmod(number % (len(CLIP_LOOKS) * len(MOTIONS)), len(MOTIONS))
        random = np.random.default_rng([seed, 1, number])
        path = out / "clips" / f"{number:06d}.mp4"
        encode_clip(
            path, draw_clip(look, motion, random, size_px, clip_frames), options=ENCODER_OPTIONS
        )
        names = {**_named(CLIP_LOOKS[look]), "look": look, "motion": motion}
        concept = look * len(MOTIONS) + motion
        rows.append({"key": path.stem, "kind": "video", "concept": concept, **names})
    write_json_lines(out / TRUTH, rows)


def _named(look: Look) -> dict[str, str]:
    return {"shape": SHAPES[look.shape], "texture": TEXTURES[look.texture], "hue": HUES[look.hue]}


def write_made_set(
    folder: Path,
    kind: Kind,
    *,
    num_samples: int,
    num_centres: int = 240,
    labels_per_sample: int = 10,
    size_px: int = 48,
    clip_frames: int = 64,
    patch_size: int = 14,
    seed: int = 0,
    samples_per_shard: int = 1000,
) -> SetInfo:
    """Write a shard set whose labels come from the generator: for tests and benchmarks.

    The first label is the concept modulo ``num_centres``, the others the numbers after it. A proof
    of learning needs labels that a bank made from what is seen.
    """
    info = SetInfo(
        kind=kind,
        labels_per_sample=labels_per_sample,
        num_centres=num_centres,
        bank_fingerprint=f"made-{seed}",
        feature_size=1,
        clip_frames=clip_frames,
        grid=max(size_px // patch_size, 1),
    )
    with SetWriter(folder, info, samples_per_shard=samples_per_shard) as writer:
        for number in range(num_samples):
            random = np.random.default_rng([seed, 2, number])
            if kind == "video":
                concept = number % (len(CLIP_LOOKS) * len(MOTIONS))
                frames = draw_clip(*divmod(concept, len(MOTIONS)), random, size_px, clip_frames)
                path = folder / ".clip.mp4"
                encode_clip(path, frames, options=ENCODER_OPTIONS)
                members = {"mp4": path.read_bytes()}
                path.unlink()
            else:
                concept = number % len(LOOKS)
                members = {"jpg": jpeg(draw_image(concept, random, size_px))}
            labels = (concept + np.arange(labels_per_sample)) % num_centres
            writer.add(f"{number:06d}", members | {LABELS: npy_bytes(labels.astype(np.int32))})
    return writer.info


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser("encoder_training.pretrain.data.made", __doc__)
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--images", type=int, default=4800, help="number of images")
    parser.add_argument("--clips", type=int, default=1600, help="number of clips")
    parser.add_argument(
        "--size_px", type=int, default=48, help="side of a picture, in pixels; even"
    )
    parser.add_argument("--clip_frames", type=int, default=64, help="number of frames of a clip")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random")
    settings = vars(parser.parse_args(argv))
    with ExitOnError(USAGE):
        make_files(**settings)
    return OK


if __name__ == "__main__":
    sys.exit(main())
