"""The settings of a study: what is made, trained and compared."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llava.eval.study.arms import ARMS, BUDGETS


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """All settings of a study.

    Attributes:
        out: folder of everything.
        num_training_clips: clips that models are trained on.
        num_test_clips: clips that they are asked about.
        shows_per_clip: how often a training clip is shown, each time by another arm and budget.
        arms: which are compared.
        budgets: mosaics of a clip.
        seeds: one model each; all arms share a model, so that they are asked the same learner.
        num_steps: optimiser steps of a model.
        batch_size: clips of a step.
        learning_rate: its highest value.
        hours: time for all training together, from which ``num_steps`` follows; 0 = as given.
        num_workers: processes that make clips and assets.
    """

    out: Path
    num_training_clips: int = 4000
    num_test_clips: int = 400
    shows_per_clip: int = 3
    arms: tuple[str, ...] = tuple(ARMS)
    budgets: tuple[int, ...] = BUDGETS
    seeds: tuple[int, ...] = (0, 1, 2)
    num_steps: int = 1500
    batch_size: int = 64
    learning_rate: float = 1e-3
    hours: float = 0.0
    num_workers: int = 2

    def __post_init__(self) -> None:
        unknown = sorted(set(self.arms) - set(ARMS))
        if unknown:
            raise ValueError(f"arms must be among {', '.join(ARMS)}, got {', '.join(unknown)}")
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

    def to_json(self) -> dict[str, Any]:
        """Return the settings that decide the result, ready for JSON."""
        content = asdict(self) | {"out": None}
        return json.loads(json.dumps(content))
