"""Draw clips of actions that only motion tells apart, to try the probe without a download.

    python -m encoder_training.probe.proof.actions OUT [--train 2800] [--val 980] [--size_px 48]

writes ``OUT/<class>/*.mp4``, ``OUT/train_new.csv``, ``OUT/val_new.csv`` and ``OUT/classes.txt``, a
custom data set of the probe. A clip shows a coloured thing on a patterned ground; what it does is
its class, all else varies freely. Fourteen classes come in seven pairs: each frame of one occurs in
the other, in another order, for another time or another number of times. Two more are appearance
controls: nothing moves but the noise, and the shape is the class.

Exit codes: 0 done; 2 usage or an existing folder.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder_training.pretrain.data.made import (
    ENCODER_OPTIONS,
    HUES,
    SHAPES,
    TEXTURES,
    Look,
    MadeScene,
    Pose,
)
from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel
from run_kit.arguments import command_parser
from run_kit.clips import encode_clip
from run_kit.exits import OK, USAGE, ExitOnError
from run_kit.files import write_text

Pixels = NDArray[np.uint8]

ACTIONS = (
    "left", "right", "up", "down", "slow", "fast", "grow", "shrink", "appear", "vanish",
    "one_swing", "two_swings", "left_then_right", "right_then_left",
)  # fmt: skip
"""In pairs that no single frame tells apart; slow and fast go down to the right."""
CONTROLS = ("still_bar", "still_ring")
CLASSES = ACTIONS + CONTROLS

_SHAPES = (0, 1, 4, 5, 9)
"""Shapes that act; the controls have others of their own."""


def draw_action(
    action: str, random: np.random.Generator, size_px: int, num_frames: int
) -> Iterator[Pixels]:
    """Yield the frames of a clip, uint8 (H, W, 3)."""
    shape = int(random.choice(_SHAPES))
    if action in CONTROLS:
        shape = SHAPES.index(action.removeprefix("still_"))
    look = Look(shape, int(random.integers(len(TEXTURES))), int(random.integers(len(HUES))))
    scene = MadeScene(look, random, size_px)
    radius, turn = random.uniform(0.2, 0.28), random.uniform(-0.04, 0.04)
    x, y = random.uniform(0.38, 0.62, 2)
    start, length = random.uniform(0.12, 0.26), random.uniform(0.56, 0.66)
    first, span = random.uniform(0.05, 0.25), random.uniform(0.55, 0.7)
    pose = Pose(x, y, radius, turn)
    for number in range(num_frames):
        time = number / (num_frames - 1)
        # The action takes a part of the clip; before and after it nothing moves.
        done = float(np.clip((time - first) / span, 0, 1))
        yield scene.draw(_POSES[action](pose, done, start, length))


def _moved(pose: Pose, done: float, start: float, length: float) -> Pose:
    return pose._replace(x=1 - (start + length * done))


def _raised(pose: Pose, done: float, start: float, length: float) -> Pose:
    return pose._replace(y=1 - (start + length * done))


def _sloped(pose: Pose, done: float, start: float, length: float) -> Pose:
    return pose._replace(x=start + length * done, y=start + length * done)


def _sloped_fast(pose: Pose, done: float, start: float, length: float) -> Pose:
    """Go the same way in a fifth of the time."""
    return _sloped(pose, float(np.clip((done - 0.4) * 5, 0, 1)), start, length)


def _grown(pose: Pose, done: float, start: float, length: float) -> Pose:
    return pose._replace(radius=0.1 + 0.3 * done)


def _shown(pose: Pose, done: float, start: float, length: float) -> Pose:
    return pose._replace(radius=pose.radius if done > 0.5 else 1e-3)


def _swung(pose: Pose, done: float, count: int) -> Pose:
    return pose._replace(y=0.5 + 0.3 * float(np.sin(2 * np.pi * count * done)))


def _sidestep(pose: Pose, done: float, sign: float) -> Pose:
    """Go to one side and back, then to the other and back."""
    return pose._replace(x=0.5 + sign * 0.3 * float(np.sin(2 * np.pi * done)))


Move = Callable[[Pose, float, float, float], Pose]


def _reversed(move: Move) -> Move:
    return lambda pose, done, start, length: move(pose, 1 - done, start, length)


_POSES: dict[str, Move] = {
    "left": _moved,
    "right": _reversed(_moved),
    "up": _raised,
    "down": _reversed(_raised),
    "slow": _sloped,
    "fast": _sloped_fast,
    "grow": _grown,
    "shrink": _reversed(_grown),
    "appear": _shown,
    "vanish": _reversed(_shown),
    "one_swing": lambda pose, done, start, length: _swung(pose, done, 1),
    "two_swings": lambda pose, done, start, length: _swung(pose, done, 2),
    "left_then_right": lambda pose, done, start, length: _sidestep(pose, done, -1),
    "right_then_left": lambda pose, done, start, length: _sidestep(pose, done, 1),
    **{name: lambda pose, done, start, length: pose for name in CONTROLS},
}


def write_actions(
    out: Path,
    *,
    train: int,
    val: int,
    size_px: int = 48,
    num_frames: int = 64,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
) -> None:
    """Write clips and lists of a custom data set; classes come in turn.

    Raises:
        ValueError: if the folder is there and not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} must be a new or an empty folder")
    for role, count in (("train", train), ("val", val)):
        lines: list[str] = []
        for number in range(count):
            label = number % len(classes)
            random = np.random.default_rng([seed, len(role), number])
            name = f"{classes[label]}/{role}_{number:05d}.mp4"
            frames = draw_action(classes[label], random, size_px, num_frames)
            encode_clip(out / name, frames, options=ENCODER_OPTIONS)
            lines.append(f"{name},{label}\n")
        write_text(out / f"{role}_new.csv", "".join(lines))
    write_text(out / "classes.txt", "".join(f"{name}\n" for name in classes))


def write_tiny_encoder(out: Path, *, size_px: int, patch_size: int) -> None:
    """Write an encoder of two blocks with random weights, for trials."""
    config = OneVisionEncoderConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        patch_size=patch_size, image_size=size_px, use_head=False,
    )  # fmt: skip
    OneVisionEncoderModel(config).save_pretrained(out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser("encoder_training.probe.proof.actions", __doc__)
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--train", type=int, default=2800, help="number of clips to train on")
    parser.add_argument("--val", type=int, default=980, help="number of clips to score")
    parser.add_argument(
        "--size_px", type=int, default=48, help="side of a picture, in pixels; even"
    )
    parser.add_argument("--num_frames", type=int, default=64, help="number of frames of a clip")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random")
    parser.add_argument(
        "--encoder", type=Path, help="folder for a tiny random encoder, to try with"
    )
    values = vars(parser.parse_args(argv))
    with ExitOnError(USAGE):
        encoder: Path | None = values.pop("encoder")
        write_actions(**values)
        if encoder is not None:
            write_tiny_encoder(encoder, size_px=values["size_px"], patch_size=8)
    return OK


if __name__ == "__main__":
    sys.exit(main())
