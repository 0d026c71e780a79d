"""``python -m llava.eval.study --out DIR``: run the learning study, or what is left of it."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cv_reader.assets import ALGORITHM_VERSION
from llava.eval.study.answers import answer_all, answer_seed
from llava.eval.study.arms import ARMS, BUDGETS
from llava.eval.study.config import StudyConfig, study_config
from llava.eval.study.learning import choose_steps, model_folder, train_seed
from llava.eval.study.material import make_test_data, make_training_data, measure_preparation
from llava.eval.study.page import write_page
from llava.eval.study.results import figures
from llava.eval.study.scenes import KINDS
from run_kit.arguments import command_parser
from run_kit.exits import OK, USAGE, say
from run_kit.files import replace_file

SETTINGS_FILE = "settings.json"
FREE_SETTINGS = ("out", "seeds", "device", "num_workers")
"""Settings that may change when a study is started again: what is made stays valid."""
QUICK = {"num_training_clips": 400, "num_test_clips": 40, "num_steps": 300, "seeds": (0,)}


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "llava.eval.study",
        "Train one model per seed on made clips as every arm shows them, and compare "
        "the arms at equal visual tokens. Started again, it continues where it ended.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for clips, models, answers and the page"
    )
    parser.add_argument(
        "--quick", action="store_true", help="run a small study, to see that it works"
    )
    parser.add_argument(
        "--config",
        type=Path,
        help="JSON file of settings of StudyConfig; options given here replace its values",
    )
    parser.add_argument(
        "--figures", action="store_true", help="print the figures of a finished study, and end"
    )
    parser.add_argument(
        "--semi_real",
        action="store_true",
        default=None,
        help="show rendered people who act in place of made scenes (needs the extra semi_real)",
    )
    parser.add_argument("--arms", nargs="+", help=f"among {', '.join(ARMS)}")
    parser.add_argument(
        "--budgets",
        nargs="+",
        type=int,
        help=f"budgets to compare, in mosaics (default: {' '.join(map(str, BUDGETS))})",
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="seeds; one model is trained for each (default: 0 1 2)"
    )
    parser.add_argument(
        "--kinds", nargs="+", help=f"kinds of question to ask, among {', '.join(KINDS)}"
    )
    parser.add_argument("--num_training_clips", type=int, help="number of clips to train on")
    parser.add_argument("--num_test_clips", type=int, help="number of clips to ask about")
    parser.add_argument("--num_steps", type=int, help="number of optimiser steps of every model")
    parser.add_argument(
        "--hours", type=float, help="time for the training of all models, in place of --num_steps"
    )
    parser.add_argument("--batch_size", type=int, help="samples per optimiser step")
    parser.add_argument("--device", help="device of training and answers (default: cpu)")
    parser.add_argument(
        "--num_workers", type=int, help="number of processes that make clips and assets"
    )
    return parser


def _config(options: dict[str, Any]) -> StudyConfig:
    settings = QUICK if options.pop("quick") else {}
    path = options.pop("config")
    given = {name: value for name, value in options.items() if value is not None}
    out = given.pop("out").resolve()
    return study_config(out, settings | (_read_json(path) if path else {}) | given)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be an object of settings, got {content!r:.60}")
    return content


def run(config: StudyConfig) -> Path:
    """Run the study; returns its page."""
    config.out.mkdir(parents=True, exist_ok=True)
    _keep_settings(config)
    clock = Clock(config.out / "seconds.json")
    say("[1] training clips")
    with clock.step("training clips and what is shown of them"):
        make_training_data(config)
    say("[2] test clips")
    with clock.step("test clips and what is shown of them"):
        data = make_test_data(config)
    with clock.step("steps that fit into the time"):
        config = replace(config, num_steps=choose_steps(config), hours=0.0)
    say(f"[3] {len(config.seeds)} models, {config.num_steps} steps each")
    with clock.step("training, all models at once"):
        _in_parallel(train_seed, config)
    say("[4] answers")
    with clock.step("answers of all models"):
        _in_parallel(answer_seed, config)
    outcomes = [
        row for seed in config.seeds for row in answer_all(config, data, model_folder(config, seed))
    ]
    return write_page(config, outcomes, data, clock.seconds, measure_preparation(config))


def _keep_settings(config: StudyConfig) -> None:
    """Note what the study in this folder is made with; refuse to continue one made otherwise.

    Raises:
        ValueError: if the folder was begun with other settings, naming them.
    """
    path = config.out / SETTINGS_FILE
    wanted = config.to_json() | {"algorithm_version": ALGORITHM_VERSION}
    if not path.exists():
        if (config.out / "training").exists():
            raise ValueError(
                f"{config.out} holds a study without {path.name}; choose another --out"
            )
        with replace_file(path) as partial:
            partial.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        return
    found = _read_json(path)
    changed = [
        f"{name} {found.get(name)!r}, now {value!r}"
        for name, value in wanted.items()
        if name not in FREE_SETTINGS and found.get(name) != value
    ]
    if changed:
        raise ValueError(
            f"{config.out} holds a study with other settings: {'; '.join(changed)}. "
            "Choose another --out, or give the same settings"
        )


def _in_parallel(work: Callable[[StudyConfig, int], None], config: StudyConfig) -> None:
    """Do the work of every seed, in as many processes as there are workers."""
    with ProcessPoolExecutor(config.num_workers, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(work, config, seed) for seed in config.seeds]:
            done.result()


class Clock:
    """Time of each step, summed over all starts of a study.

    Attributes:
        seconds: wall time and processor time of all processes, keyed by step.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        text = path.read_text(encoding="utf-8") if path.exists() else "{}"
        self.seconds: dict[str, tuple[float, float]] = json.loads(text)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a step; the time counts even where the step fails."""
        started, cpu_started = time.monotonic(), _cpu_seconds()
        try:
            yield
        finally:
            passed, used = self.seconds.get(name, (0.0, 0.0))
            passed += time.monotonic() - started
            self.seconds[name] = (passed, used + _cpu_seconds() - cpu_started)
            with replace_file(self._path) as partial:
                partial.write_text(json.dumps(self.seconds, indent=1), encoding="utf-8")


def _cpu_seconds() -> float:
    """Return the processor time of this process and of all its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        options = vars(_parser().parse_args(argv))
        if options.pop("figures"):
            sys.stdout.write(f"{figures(options['out'])}\n")
            return OK
        page = run(_config(options))
    except ValueError as error:
        say(f"error: {error}")
        return USAGE
    sys.stdout.write(f"{page}\n")
    return OK


if __name__ == "__main__":
    sys.exit(main())
