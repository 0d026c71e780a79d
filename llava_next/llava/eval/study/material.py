"""Make the clips and what the arms show of them, with several processes; resumes where it ended."""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from llava.constants import IMAGE_PLACEHOLDER
from llava.eval.study.arms import ARMS, Shown, show
from llava.eval.study.clips import Clip, write_clip
from llava.eval.study.config import StudyConfig
from llava.eval.study.scenes import KINDS
from run_kit.exits import say
from run_kit.files import replace_file
from run_kit.pages.text import duration_text

Pair = tuple[str, int]
"""An arm and a budget."""


def training_pairs(config: StudyConfig, seed: int) -> list[Pair]:
    """Return by which arms and budgets a training clip is shown."""
    rng = np.random.default_rng((9, seed))
    arms = [arm for arm in config.arms if not ARMS[arm].ablation]
    pairs = [(arm, budget) for arm in arms for budget in config.budgets]
    chosen = rng.choice(len(pairs), min(config.shows_per_clip, len(pairs)), replace=False)
    return [pairs[int(number)] for number in chosen]


def test_pairs(config: StudyConfig) -> list[Pair]:
    """Return all arms at all budgets, ablations at the middle one alone."""
    return [
        (arm, budget)
        for arm in config.arms
        for budget in ([config.middle_budget] if ARMS[arm].ablation else config.budgets)
    ]


def _make(seed: int, pairs: Sequence[Pair], folder: Path) -> tuple[Clip, dict[Pair, Shown]]:
    """Make a clip and what arms show of it; arms that cannot read it are left out."""
    clip = write_clip(folder / "clips", seed)
    able = [(arm, budget) for arm, budget in pairs if ARMS[arm].reads(clip)]
    return clip, {(arm, budget): show(clip, arm, budget, folder) for arm, budget in able}


def _make_training(seed: int, config: StudyConfig) -> list[dict[str, Any]]:
    clip, shown = _make(seed, training_pairs(config, seed), config.out / "training")
    return [_record(clip, what, number) for number, what in enumerate(shown.values())]


def _record(clip: Clip, shown: Shown, number: int) -> dict[str, Any]:
    """Return a training entry: all questions of a clip, in another order each time."""
    order = np.random.default_rng((10, clip.seed, number)).permutation(len(clip.questions))
    turns: list[dict[str, str]] = []
    for index in order:
        question = clip.questions[int(index)]
        turns.append({"from": "human", "value": KINDS[question.kind].text})
        turns.append({"from": "gpt", "value": question.answer})
    turns[0]["value"] = f"{IMAGE_PLACEHOLDER}\n" * len(shown.images) + turns[0]["value"]
    return {
        "id": shown.positions.parent.name,
        "image": [str(path) for path in shown.images],
        "positions_thw": str(shown.positions),
        "conversations": turns,
    }


def make_training_data(config: StudyConfig) -> Path:
    """Make the training clips and their assets; returns the training file."""
    target = config.out / "training" / "train.jsonl"
    (config.out / "training" / "clips").mkdir(parents=True, exist_ok=True)
    if not target.exists():
        work = partial(_make_training, config=config)
        records = _in_processes(work, config.training_seeds, config, "training clips")
        with replace_file(target) as unfinished, unfinished.open("w", encoding="utf-8") as stream:
            for rows in records:
                stream.writelines(json.dumps(row) + "\n" for row in rows)
    return target


def _make_test(seed: int, config: StudyConfig) -> tuple[Clip, dict[Pair, Shown]]:
    return _make(seed, test_pairs(config), config.out / "test")


def make_test_data(config: StudyConfig) -> list[tuple[Clip, dict[Pair, Shown]]]:
    """Make the test clips, and what every arm shows of them at every budget."""
    (config.out / "test" / "clips").mkdir(parents=True, exist_ok=True)
    work = partial(_make_test, config=config)
    return list(_in_processes(work, config.test_seeds, config, "test clips"))


def _in_processes(work: Any, seeds: Sequence[int], config: StudyConfig, what: str) -> Iterator[Any]:
    """Yield the result for each seed, in order; say every few seconds how far it is."""
    started = last = time.monotonic()
    # Threads of a forked parent would leave locks behind: start the processes afresh.
    context = get_context("spawn")
    with ProcessPoolExecutor(config.num_workers, mp_context=context) as pool:
        for number, result in enumerate(pool.map(work, seeds, chunksize=8), 1):
            yield result
            if time.monotonic() - last > 10 or number == len(seeds):
                last = time.monotonic()
                say(f"  {number} of {len(seeds)} {what}, {duration_text(last - started)}")
