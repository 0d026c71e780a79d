"""What the proof of the probe compares: sizes, inputs and folders."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder_training.pretrain.proof.steps import PATCH_PX, SIZE_PX, VIDEO_FRAMES


@dataclass(frozen=True, kw_only=True)
class ProofSizes:
    """Sizes of the proof.

    Attributes:
        train, val: clips to train on and to score.
        epochs: of the probes.
        images, clips: made to pretrain on.
        stage1_steps, stage2_steps: of pretraining.
    """

    train: int = 2560
    val: int = 960
    epochs: int = 12
    images: int = 6000
    clips: int = 1440
    stage1_steps: int = 1000
    stage2_steps: int = 800


QUICK = ProofSizes(
    train=640, val=320, epochs=12, images=1200, clips=360, stage1_steps=400, stage2_steps=250
)
FRAMES, PUBLISHED, RATE_DISTORTION = "frames", "codec, published", "codec, rate-distortion"
RANDOM = "random patches"


@dataclass(frozen=True, kw_only=True)
class InputSizes:
    """What the inputs have in common.

    Attributes:
        frames: whole frames, whose tokens all other inputs have, too.
        frame_tokens: tokens of a frame, a square number.
        slots: frames that patches are chosen from; their times are spread over the encoder's own
            slots.
    """

    frames: int = 8
    frame_tokens: int = (SIZE_PX // PATCH_PX) ** 2
    slots: int = VIDEO_FRAMES

    @property
    def tokens(self) -> int:
        """Return the tokens of every input."""
        return self.frames * self.frame_tokens

    @property
    def grid(self) -> int:
        """Return the tokens along a side of a frame."""
        return math.isqrt(self.frame_tokens)

    def arms(self) -> dict[str, dict[str, Any]]:
        """Return the settings of each input, by its name."""
        codec = {"input": f"codec:{self.tokens}", "num_frames": self.slots}
        return {
            FRAMES: {"input": f"frames:{self.frames}"},
            PUBLISHED: codec,
            RATE_DISTORTION: {**codec, "selection": ["select=rate_distortion"]},
            RANDOM: {"input": f"random:{self.tokens}", "num_frames": self.slots},
        }


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What is compared.

    Attributes:
        out: folder to write.
        sizes: of the made actions, the probes and pretraining.
        inputs: what the inputs have in common.
        seeds: one encoder and probes of each.
        encoder: probe this one instead of pretraining one.
        pretraining: folder of the proof of pretraining; below ``out`` where there is none.
        data: folder of labelled videos; None: the made actions.
    """

    out: Path
    sizes: ProofSizes
    inputs: InputSizes
    seeds: Sequence[int]
    encoder: Path | None = None
    pretraining: Path | None = None
    data: Path | None = None

    @property
    def clips(self) -> Path:
        """Return the folder of the videos and their lists."""
        return self.data or self.out / "clips"

    @property
    def pretraining_folder(self) -> Path:
        """Return the folder of the proof of pretraining."""
        return self.pretraining or self.out / "pretraining"
