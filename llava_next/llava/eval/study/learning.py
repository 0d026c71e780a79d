"""Train one model per seed on clips as all arms show them, by the project's own trainer."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from llava.conversation import DEFAULT_SYSTEM
from llava.eval.study.arms import GRID
from llava.eval.study.config import StudyConfig
from llava.eval.study.scenes import KINDS
from llava.model.tiny import write_tiny_checkpoint
from run_kit.exits import say
from run_kit.files import replace_file

ROW_TOKENS = 2048
"""Length of a packed row."""


_PILOT_STEPS = 20


class TrainingError(RuntimeError):
    """A training run failed; the message names its log."""


def train(config: StudyConfig, data: Path, seed: int) -> Path:
    """Train the model of a seed, resuming where a run was cut off; returns its folder.

    Args:
        config: configuration of the study.
        data: the training file.
        seed: seed of the weights and the order of the samples.

    Raises:
        TrainingError: if a command fails.
    """
    model = config.out / f"model_{seed}"
    if (model / "config.json").exists():
        return model
    start = config.out / f"start_{seed}"
    if not (start / "llava_processor.json").exists():
        write_tiny_checkpoint(start, seed=seed, patches_per_side=GRID, texts=_texts())
    say(f"  training the model of seed {seed}: {config.num_steps} steps")
    arguments = {
        "use_cpu": True,
        "model_name_or_path": start,
        "version": "qwen_1_5",
        "data_path": data,
        "output_dir": model,
        "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
        "per_device_train_batch_size": config.batch_size,
        "max_steps": config.num_steps,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "weight_decay": 0.05,
        "logging_steps": 10,
        "save_steps": max(config.num_steps // 5, 1),
        "save_total_limit": 1,
        "dataloader_num_workers": 1,
        "seed": seed,
        "report_to": "none",
        "resume_from_checkpoint": "auto",
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    _run(["-m", "llava.train.train", *words], config.out / f"model_{seed}.log")
    return model


def choose_steps(config: StudyConfig, data: Path) -> int:
    """Return the steps of every model: as given, or as many as ``hours`` allow.

    A short run measures the seconds of a step; what it finds is kept, so that a study that is
    started again trains all its models equally long.
    """
    if not config.hours:
        return config.num_steps
    found = config.out / "steps.json"
    if not found.exists():
        pilot = replace(config, out=config.out / "pilot", num_steps=_PILOT_STEPS, hours=0.0)
        pilot.out.mkdir(exist_ok=True)
        state = train(pilot, data, seed=0) / "trainer_state.json"
        history = json.loads(state.read_text(encoding="utf-8"))["log_history"]
        seconds = history[-1]["train_runtime"] / _PILOT_STEPS
        steps = int(config.hours * 3600 / len(config.seeds) / seconds)
        with replace_file(found) as partial:
            partial.write_text(json.dumps({"num_steps": steps, "seconds_per_step": seconds}))
    return int(json.loads(found.read_text(encoding="utf-8"))["num_steps"])


def _texts() -> list[str]:
    """Return all words of the study, so that each becomes one token and texts stay short."""
    words = [DEFAULT_SYSTEM, "system\n", "user\n", "assistant\n", "\n"]
    for kind in KINDS.values():
        words += [kind.text, *kind.choices]
    return words


def _run(arguments: list[str], log: Path) -> None:
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
        raise TrainingError(
            f"{' '.join(arguments[:2])} ended with {done.returncode}; {log}:\n{tail}"
        )
