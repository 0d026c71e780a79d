"""Clips of people who act: labelled motion capture, rendered (needs the extra ``semi_real``).

The package ``pybullet`` ships 15 recorded actions, a jointed body and a renderer. Every clip varies
body, colours, textures, light, camera and background; training and test clips share neither body
sizes nor directions of the camera, which alternate every 30 degrees. The question is which action
it is. In the data set below they share no pace either: test clips are slower or faster than any
training clip.

    python -m llava.eval.study.semi_real OUT [--train 3000] [--val 1000]

writes them as a data set of videos with labels: ``OUT/train`` and ``OUT/val`` with the clips,
``OUT/train_new.csv`` and ``OUT/val_new.csv`` with lines ``path,label``, and ``OUT/classes.txt``.
Clips that are there already are kept.

Exit codes: 0 done; 1 a clip failed; 2 usage, or no pybullet.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llava.eval.study.clips import write_clip
from llava.eval.study.drawing import NUM_FRAMES, USUAL_SIZES, Sizes, enlarge, landscape
from llava.eval.study.scenes import ACTIONS, Question
from run_kit.arguments import command_parser
from run_kit.exits import FAILED_SAMPLES, OK, USAGE, ExitOnError, say
from run_kit.files import write_text

FIRST_TRAINING_SEED = 1_000_000
_FRAME_SECONDS = 1 / 25
_JOINTS = (
    (1, 4),
    (2, 4),
    (3, 4),
    (4, 1),
    (5, 4),
    (6, 4),
    (7, 1),
    (9, 4),
    (10, 1),
    (11, 4),
    (12, 4),
)
"""Joint and number of values, in the order of a recorded frame; the left elbow comes last."""
_LEAST_SHARE = 0.04
"""Share of a cell that shows the person, from which on it counts as evidence."""


@dataclass(frozen=True)
class Person:
    """A rendered clip.

    Attributes:
        pictures: uint8 (NUM_FRAMES, height, width, 3).
    """

    pictures: NDArray[np.uint8]

    def picture(self, frame: int) -> NDArray[np.uint8]:
        """Return one picture: uint8 (height, width, 3)."""
        return self.pictures[frame]


def compose_person(
    seed: int, sizes: Sizes = USUAL_SIZES, *, has_other_paces: bool = False
) -> tuple[Person, list[Question], str]:
    """Render one clip; the same arguments and results as ``scenes.compose``.

    Args:
        seed: seed of everything; from ``FIRST_TRAINING_SEED`` on that of a training clip.
        sizes: of pictures and cells.
        has_other_paces: play test clips at 0.56 to 0.7 or 1.3 to 1.63 of the recorded speed, and
            not at 0.8 to 1.25 as training clips.

    Raises:
        ValueError: if pybullet is not installed.
    """
    rng = np.random.default_rng((20261129, seed))
    is_training = seed >= FIRST_TRAINING_SEED
    action = list(ACTIONS)[int(rng.integers(len(ACTIONS)))]
    stage = _stage()
    is_other = has_other_paces and not is_training
    pose = Motion(_read_motion(ACTIONS[action]), rng, has_other_pace=is_other)
    stage.dress(rng, is_training)
    way = ("still", "sway", "pan")[int(rng.integers(3))]
    camera = _camera(rng, way, is_training)
    backdrop = enlarge(landscape(rng, flat=rng.random() < 0.5), sizes.scale)
    noise = float(rng.choice([0.0, 2.0, 4.0]))
    pictures, masks = [], []
    for frame in range(NUM_FRAMES):
        stage.pose(pose.at(frame))
        picture, is_person, is_sky = stage.render(camera(frame), pose.centre(frame), sizes.view_px)
        picture[is_sky] = backdrop[: sizes.view_px, : sizes.view_px][is_sky]
        grain = noise * rng.standard_normal(picture.shape, np.float32)
        pictures.append(np.clip(np.rint(picture + grain), 0, 255).astype(np.uint8))
        masks.append(is_person)
    side, cell = sizes.grid, sizes.cell_px
    share = np.stack(masks).reshape(NUM_FRAMES, side, cell, side, cell).mean(axis=(2, 4))
    cells = [(int(t), int(h), int(w)) for t, h, w in np.argwhere(share > _LEAST_SHARE)]
    thirds = [
        frozenset(cell for cell in cells if cell[0] * 3 // NUM_FRAMES == part) for part in range(3)
    ]
    return Person(np.stack(pictures)), [Question("action", action, tuple(thirds))], way


def _camera(
    rng: np.random.Generator, way: str, is_training: bool
) -> Callable[[int], tuple[float, float, float]]:
    """Return yaw and pitch in degrees and distance in metres by frame; test views are others."""
    sector = 60 * int(rng.integers(6)) + (0 if is_training else 30)
    yaw = sector + rng.uniform(3, 27)
    pitch = rng.uniform(-28, -6) if is_training else rng.uniform(-34, -12)
    distance = rng.uniform(2.3, 3.4)
    phase, size = rng.uniform(0, 6.28, 2), rng.uniform(1, 4)
    turn = rng.uniform(-20, 20) if way == "pan" else 0.0

    def at(frame: int) -> tuple[float, float, float]:
        sway = size * np.sin(frame / np.array([7.0, 9.0]) + phase) if way == "sway" else (0, 0)
        share = frame / (NUM_FRAMES - 1) - 0.5
        return float(yaw + turn * share + sway[0]), float(pitch + 0.5 * sway[1]), float(distance)

    return at


@lru_cache(maxsize=32)
def _read_motion(action: str) -> NDArray[np.float64]:
    """Return a recording: float64 (frames, 44); first the frame's seconds, then the values."""
    import pybullet_data  # pyright: ignore[reportMissingImports]

    path = Path(pybullet_data.getDataPath()) / "data" / "motions" / f"humanoid3d_{action}.txt"
    return np.array(json.loads(path.read_text(encoding="utf-8"))["Frames"])


class Motion:
    """A recording, played at a random pace after a random pause; long ones from a random moment.

    Attributes:
        pace: seconds of the recording in a second of the clip.
    """

    def __init__(
        self, values: NDArray[np.float64], rng: np.random.Generator, *, has_other_pace: bool
    ) -> None:
        self._values = values
        self._seconds = np.concatenate([[0.0], np.cumsum(values[:-1, 0])])
        length = float(self._seconds[-1])
        pace = rng.uniform(0.8, 1.25)
        if has_other_pace:
            pace *= 0.7 if pace < 1 else 1.3
        self.pace = pace
        shown = NUM_FRAMES * _FRAME_SECONDS * pace
        first = (
            rng.uniform(0, length - shown) if length > shown else -rng.uniform(0, shown - length)
        )
        self._times = first + np.arange(NUM_FRAMES) * _FRAME_SECONDS * pace
        self._paths = np.stack([self.at(frame)[1:4] for frame in range(NUM_FRAMES)])

    def at(self, frame: int) -> NDArray[np.float64]:
        """Return the recorded values nearest to a frame's time; the ends are held."""
        found = int(np.searchsorted(self._seconds, self._times[frame]))
        return self._values[min(found, len(self._values) - 1)]

    def centre(self, frame: int) -> NDArray[np.float64]:
        """Return where the camera looks, (x, y, z) in metres: it follows half of the way."""
        x, _, z = 0.5 * self._paths[frame] + 0.5 * self._paths.mean(axis=0)
        return np.array([x, -z, 0.75])


@contextmanager
def _silence() -> Iterator[None]:
    """Drop what C code prints to standard output and standard error meanwhile."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)


@lru_cache(maxsize=1)
def _stage() -> "_Stage":
    return _Stage()


class _Stage:
    """A body on a floor before a camera, in this process."""

    def __init__(self) -> None:
        try:
            with _silence():
                import pybullet  # pyright: ignore[reportMissingImports]
            import pybullet_data  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError(
                "semi-real clips need pybullet; pip install -e '.[semi_real]'"
            ) from error
        self._engine: Any = pybullet
        pybullet.connect(pybullet.DIRECT)
        self._data = Path(pybullet_data.getDataPath())
        self._floor = pybullet.loadURDF(str(self._data / "plane_implicit.urdf"))
        self._body: int | None = None
        self._light = (1.0, 1.0, 1.0)
        self._turn = pybullet.getQuaternionFromEuler([np.pi / 2, 0, 0])

    def dress(self, rng: np.random.Generator, is_training: bool) -> None:
        """Choose body, colours, floor and light."""
        engine = self._engine
        if self._body is not None:
            engine.removeBody(self._body)
        scale = rng.uniform(0.23, 0.26) if is_training else rng.uniform(0.26, 0.29)
        # The package's own body lacks axes of joints that need none: eight warnings a clip.
        with _silence():
            self._body = engine.loadURDF(
                str(self._data / "humanoid" / "humanoid.urdf"),
                globalScaling=scale,
                useFixedBase=True,
                flags=engine.URDF_MAINTAIN_LINK_ORDER,
            )
        # Trousers, shirt, skin: any colours, so that what is learnt is not a colour.
        tones = rng.uniform(0.1, 0.95, (3, 3))
        for link in range(-1, engine.getNumJoints(self._body)):
            part = 0 if link in (3, 4, 5, 9, 10, 11) else 1 if link in (-1, 0, 1, 6, 12) else 2
            engine.changeVisualShape(self._body, link, rgbaColor=[*tones[part], 1])
        self._texture_floor(rng)
        self._light = tuple(rng.uniform((-3, -3, 2), (3, 3, 5)))

    def _texture_floor(self, rng: np.random.Generator) -> None:
        blocks = rng.uniform(60, 200, 3) + rng.normal(0, rng.uniform(5, 40), (16, 16, 3))
        picture = Image.fromarray(np.clip(blocks, 0, 255).astype(np.uint8)).resize((64, 64))
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"floor_{rng.integers(1 << 40)}.png"
            picture.save(path)
            texture = self._engine.loadTexture(str(path))
        self._engine.changeVisualShape(
            self._floor, -1, textureUniqueId=texture, rgbaColor=[1, 1, 1, 1]
        )

    def pose(self, values: NDArray[np.float64]) -> None:
        """Put the body into a recorded pose; recordings have y upwards and w first."""
        engine = self._engine
        turned = [*values[5:8], values[4]]
        place, rotation = engine.multiplyTransforms([0, 0, 0], self._turn, values[1:4], turned)
        engine.resetBasePositionAndOrientation(self._body, place, rotation)
        at = 8
        for joint, count in (*_JOINTS, (13, 1)):
            part = values[at : at + count]
            at += count
            if count == 4:
                engine.resetJointStateMultiDof(self._body, joint, [*part[1:], part[0]])
            else:
                engine.resetJointState(self._body, joint, part[0])

    def render(
        self, view: tuple[float, float, float], centre: NDArray[np.float64], size_px: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the picture, float32 (size_px, size_px, 3), where the person is and where the sky.

        Args:
            view: yaw and pitch in degrees, distance in metres.
            centre: what the camera looks at, metres.
            size_px: height and width of the picture.
        """
        engine = self._engine
        yaw, pitch, distance = view
        looks = engine.computeViewMatrixFromYawPitchRoll(centre, distance, yaw, pitch, 0, 2)
        lens = engine.computeProjectionMatrixFOV(48, 1, 0.1, 30)
        _, _, colours, _, parts = engine.getCameraImage(
            size_px,
            size_px,
            looks,
            lens,
            lightDirection=self._light,
            shadow=1,
            renderer=engine.ER_TINY_RENDERER,
        )
        shape = (size_px, size_px)
        picture = np.asarray(colours, np.float32).reshape(*shape, 4)[:, :, :3].copy()
        bodies = np.asarray(parts).reshape(shape)
        return picture, bodies == self._body, bodies < 0


def _label(seed: int, folder: Path) -> int:
    """Write the clip of a seed, or keep it, and return the number of its action."""
    composer = partial(compose_person, has_other_paces=True)
    clip = write_clip(folder, seed, composer=composer)
    return list(ACTIONS).index(clip.questions[0].answer)


def write_data_set(out: Path, *, train: int, val: int, num_workers: int) -> None:
    """Write clips with the lists of a data set; a stopped run continues.

    Args:
        out: folder to write.
        train: clips to train on, seeds from ``FIRST_TRAINING_SEED``.
        val: clips to score, of other bodies, directions of the camera and paces, seeds from 0.
        num_workers: processes.
    """
    context = get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        for role, first, count in (("train", FIRST_TRAINING_SEED, train), ("val", 0, val)):
            folder = out / role
            folder.mkdir(parents=True, exist_ok=True)
            seeds = range(first, first + count)
            labels = list(pool.map(partial(_label, folder=folder), seeds, chunksize=8))
            lines = [
                f"{role}/clip_{seed:06d}.mp4,{label}\n"
                for seed, label in zip(seeds, labels, strict=True)
            ]
            write_text(out / f"{role}_new.csv", "".join(lines))
            say(f"{out / f'{role}_new.csv'}: {count} clips")
    write_text(out / "classes.txt", "".join(f"{name}\n" for name in ACTIONS))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser("llava.eval.study.semi_real", __doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--train", type=int, default=3000, help="number of clips to train on")
    parser.add_argument("--val", type=int, default=1000, help="number of clips to score")
    parser.add_argument("--num_workers", type=int, default=2, help="number of processes")
    options = parser.parse_args(argv)
    with ExitOnError(USAGE) as state:
        if find_spec("pybullet") is None:
            raise ValueError("semi-real clips need pybullet; pip install -e '.[semi_real]'")
        state.code = FAILED_SAMPLES
        write_data_set(
            options.out, train=options.train, val=options.val, num_workers=options.num_workers
        )
    return OK


if __name__ == "__main__":
    sys.exit(main())
