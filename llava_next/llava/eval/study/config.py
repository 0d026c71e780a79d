"""The settings of a study: what is made, trained and compared."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from llava.eval.study.arms import ARMS, BUDGETS
from llava.eval.study.drawing import USUAL_SIZES, Sizes
from llava.eval.study.scenes import KINDS

ENCODER: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "rope_theta": 100.0,
}
"""Sizes on a CPU. The rotary base suits 64 time slots and 4 x 4 cells: with 10,000 most of the few
frequencies of so narrow a head would turn by next to nothing."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """All settings of a study.

    Attributes:
        out: folder of everything.
        num_training_clips: clips that models are trained on.
        num_test_clips: clips that they are asked about.
        shows_per_clip: how often a training clip is shown, each time by another arm and budget;
            as the oracle shows it at the least budget always, in addition.
        arms: which are compared.
        budgets: mosaics of a clip.
        seeds: one model each; all arms share a model, so that they are asked the same learner.
        num_steps: optimiser steps of a model.
        batch_size: clips of a step.
        learning_rate: its highest value.
        num_warmup_steps: steps in which the learning rate rises.
        lesson_share: share of the steps, the first ones, that see oracle's choice at the least
            budget: there every answer is to be seen, so the questions are understood early.
        sizes: of pictures and cells; a cell is one visual token.
        encoder: sizes of the encoder, see ``llava.model.tiny``.
        decoder_width: hidden size of the language model.
        stamps_positions: write (t, h, w) into the patches as well, see ``stamp_positions``.
        bfloat16: multiply matrices in bfloat16 in training; a third faster on recent CPUs.
        device: where models are trained and asked.
        hours: time for all training together, from which ``num_steps`` follows; 0 = as given.
        num_workers: processes that make clips and assets, and models trained at once.
        kinds: which kinds of question are asked, by key of ``scenes.KINDS``; none = all. The clips
            stay as they are.
        semi_real: rendered people who act instead of made scenes; see ``semi_real``.
    """

    out: Path
    num_training_clips: int = 3000
    num_test_clips: int = 128
    shows_per_clip: int = 2
    arms: tuple[str, ...] = tuple(ARMS)
    budgets: tuple[int, ...] = BUDGETS
    seeds: tuple[int, ...] = (0, 1, 2)
    num_steps: int = 4000
    batch_size: int = 32
    learning_rate: float = 2e-3
    num_warmup_steps: int = 100
    lesson_share: float = 0.5
    sizes: Sizes = USUAL_SIZES
    encoder: dict[str, Any] = field(default_factory=lambda: dict(ENCODER))
    decoder_width: int = 128
    stamps_positions: bool = True
    bfloat16: bool = True
    device: str = "cpu"
    hours: float = 0.0
    num_workers: int = 2
    kinds: tuple[str, ...] = ()
    semi_real: bool = False

    def __post_init__(self) -> None:
        unknown = sorted(set(self.arms) - set(ARMS))
        if unknown:
            raise ValueError(f"arms must be among {', '.join(ARMS)}, got {', '.join(unknown)}")
        unknown = sorted(set(self.kinds) - set(KINDS))
        if unknown:
            raise ValueError(f"kinds must be among {', '.join(KINDS)}, got {', '.join(unknown)}")
        for name in ("num_training_clips", "num_test_clips", "num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.seeds:
            raise ValueError("seeds must name at least one seed, got none")

    @property
    def middle_budget(self) -> int:
        """The budget at which ablations are compared."""
        return sorted(self.budgets)[len(self.budgets) // 2]

    @property
    def training_seeds(self) -> range:
        """Seeds of the training clips."""
        return range(1_000_000, 1_000_000 + self.num_training_clips)

    @property
    def test_seeds(self) -> range:
        """Seeds of the test clips, apart from those of training."""
        return range(self.num_test_clips)

    @property
    def model_sizes(self) -> dict[str, Any]:
        """Arguments of ``write_tiny_checkpoint``."""
        return {
            "encoder": self.encoder,
            "hidden_size": self.decoder_width,
            "patches_per_side": self.sizes.grid,
            "output_layer": -1,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the settings that decide the result, ready for JSON."""
        content = asdict(self) | {"out": None}
        return json.loads(json.dumps(content))


def study_config(out: Path, content: Mapping[str, Any]) -> StudyConfig:
    """Return the configuration of a study from settings by name.

    Args:
        out: folder of everything.
        content: values as JSON has them; lists become tuples, ``sizes`` an object of its own.

    Raises:
        ValueError: if a name is unknown or a value cannot be.
    """
    known = {item.name for item in fields(StudyConfig)} - {"out"}
    if unknown := sorted(set(content) - known):
        raise ValueError(
            f"unknown settings {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    try:
        if "sizes" in values:
            values["sizes"] = Sizes(**values["sizes"])
        return StudyConfig(out=out, **values)
    except TypeError as error:
        raise ValueError(f"settings of a wrong type: {error}") from error
