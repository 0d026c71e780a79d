"""``python -m llava.eval.study --out DIR``: run the learning study, or what is left of it."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from llava.eval.study.answers import Outcome, answer_all
from llava.eval.study.arms import ARMS, BUDGETS
from llava.eval.study.config import StudyConfig
from llava.eval.study.learning import TrainingError, choose_steps, train
from llava.eval.study.material import make_test_data, make_training_data
from llava.eval.study.page import write_page
from run_kit.exits import OK, USAGE, say
from run_kit.files import replace_file

QUICK = {"num_training_clips": 400, "num_test_clips": 60, "num_steps": 150, "seeds": (0,)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m llava.eval.study",
        description="Train one model per seed on made clips as every arm shows them, and compare "
        "the arms at equal visual tokens. Started again, it continues where it ended.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for clips, models, answers and the page"
    )
    parser.add_argument(
        "--quick", action="store_true", help="run a small study, to see that it works"
    )
    parser.add_argument("--arms", nargs="+", default=list(ARMS), help=f"among {', '.join(ARMS)}")
    parser.add_argument(
        "--budgets",
        nargs="+",
        type=int,
        default=list(BUDGETS),
        help="budgets to compare, in mosaics (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="seeds; one model is trained for each (default: 0 1 2)"
    )
    parser.add_argument("--num_training_clips", type=int, help="number of clips to train on")
    parser.add_argument("--num_test_clips", type=int, help="number of clips to ask about")
    parser.add_argument("--num_steps", type=int, help="number of optimiser steps of every model")
    parser.add_argument(
        "--hours", type=float, help="time for the training of all models, in place of --num_steps"
    )
    parser.add_argument("--batch_size", type=int, help="samples per optimiser step")
    parser.add_argument(
        "--num_workers", type=int, help="number of processes that make clips and assets"
    )
    return parser


def _config(argv: Sequence[str] | None) -> StudyConfig:
    options = vars(_parser().parse_args(argv))
    settings = QUICK if options.pop("quick") else {}
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("arms", "budgets", "seeds"):
        if name in given:
            given[name] = tuple(given[name])
    given["out"] = given["out"].resolve()
    return StudyConfig(**{**settings, **given})


def run(config: StudyConfig) -> Path:
    """Run the study; returns its page.

    Raises:
        TrainingError: if a training run fails.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    clock = Clock(config.out / "seconds.json")
    say("[1] test clips and what the arms show of them")
    with clock.step("test clips and assets"):
        data = make_test_data(config)
    say("[2] training clips")
    with clock.step("training clips and assets"):
        training = make_training_data(config)
        config = replace(config, num_steps=choose_steps(config, training), hours=0.0)
    outcomes: list[Outcome] = []
    for number, seed in enumerate(config.seeds):
        say(f"[{3 + number}] model of seed {seed}")
        with clock.step(f"training, seed {seed}"):
            model = train(config, training, seed)
        with clock.step(f"answers, seed {seed}"):
            outcomes += answer_all(config, data, model)
    return write_page(config, outcomes, data, clock.seconds)


class Clock:
    """Time of each step, summed over all starts of a study.

    Attributes:
        seconds: seconds of each step, keyed by its name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        text = path.read_text(encoding="utf-8") if path.exists() else "{}"
        self.seconds: dict[str, float] = json.loads(text)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a step; the time counts even where the step fails."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
            with replace_file(self._path) as partial:
                partial.write_text(json.dumps(self.seconds, indent=1), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        page = run(_config(argv))
    except (TrainingError, ValueError) as error:
        say(f"error: {error}")
        return USAGE
    sys.stdout.write(f"{page}\n")
    return OK


if __name__ == "__main__":
    sys.exit(main())
