"""Train one model per seed on clips as all arms show them.

The model, its preprocessing, prompts, loss and checkpoint are the project's. The loop is the
study's own: it keeps all patches in memory as bytes and gives a step samples of one budget, because
a model this small would otherwise spend most of its time on reading files and on padding.

Axis letters: B samples, T text tokens, P patches.
"""

import json
import math
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llava.constants import IGNORE_INDEX, IMAGE_PLACEHOLDER
from llava.conversation import DEFAULT_SYSTEM, Turn, encode, expand_placeholders, render
from llava.eval.study.config import StudyConfig
from llava.eval.study.material import TrainingSet, read_training_data
from llava.eval.study.scenes import KINDS
from llava.model.loading import load_pretrained
from llava.model.processing import LlavaProcessor
from llava.model.tiny import write_tiny_checkpoint
from llava.visual.batch import pack_segments
from run_kit.exits import say
from run_kit.files import replace_file

_PILOT_STEPS = 40
_LOG_STEPS = 20
_SAVE_STEPS = 250
_MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Progress:
    """One line of a training log.

    Attributes:
        step: optimiser steps so far.
        loss: mean loss of a supervised token since the line before.
        seconds: time since the training started.
        cpu_seconds: processor time of it.
        visual_tokens: visual tokens read so far.
    """

    step: int
    loss: float
    seconds: float
    cpu_seconds: float
    visual_tokens: int


def train_model(config: StudyConfig, data: TrainingSet, seed: int) -> Path:
    """Train the model of a seed, resuming where a run was cut off; returns its folder.

    Args:
        config: configuration of the study.
        data: what the training clips show.
        seed: seed of the weights and of the order of the samples.
    """
    folder = model_folder(config, seed)
    if (folder / "model.safetensors").exists():
        return folder
    start = config.out / f"start_{seed}"
    if not (start / "llava_processor.json").exists():
        write_tiny_checkpoint(start, seed=seed, texts=_texts(), **config.model_sizes)
    torch.set_num_threads(1)
    model, processor = load_pretrained(start, device=config.device)
    if config.bfloat16:
        _multiply_in_bfloat16(model)
    run = _Run(config, data, model, processor, seed)
    say(f"  training the model of seed {seed}: {config.num_steps} steps")
    run.finish()
    processor.save_pretrained(folder)
    model.save_pretrained(folder)  # pyright: ignore[reportAttributeAccessIssue]
    run.state_file.unlink(missing_ok=True)
    return folder


def train_seed(config: StudyConfig, seed: int) -> None:
    """Train the model of one seed, in a process of its own."""
    train_model(config, read_training_data(config), seed)


def model_folder(config: StudyConfig, seed: int) -> Path:
    """Return where the model of a seed is."""
    return config.out / f"model_{seed}"


def choose_steps(config: StudyConfig) -> int:
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
        train_model(pilot, read_training_data(config), seed=0)
        seconds = read_progress(pilot, 0)[-1].seconds / _PILOT_STEPS
        at_once = min(config.num_workers, len(config.seeds))
        steps = int(config.hours * 3600 * at_once / len(config.seeds) / seconds)
        with replace_file(found) as partial:
            partial.write_text(json.dumps({"num_steps": steps, "seconds_per_step": seconds}))
    return int(json.loads(found.read_text(encoding="utf-8"))["num_steps"])


def _multiply_in_bfloat16(model: nn.Module) -> None:
    """Let linear layers multiply in bfloat16; weights, sums and all else stay in float32.

    Automatic mixed precision would also run attention in bfloat16, whose backward pass is several
    times slower on a CPU.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            module.forward = partial(_linear_in_bfloat16, module)


def _linear_in_bfloat16(module: nn.Linear, input: Tensor) -> Tensor:
    bias = None if module.bias is None else module.bias.bfloat16()
    return nn.functional.linear(input.bfloat16(), module.weight.bfloat16(), bias).float()


class _Run:
    """One training run: its optimiser, its place in the plan of samples, its log."""

    def __init__(
        self,
        config: StudyConfig,
        data: TrainingSet,
        model: Any,
        processor: LlavaProcessor,
        seed: int,
    ) -> None:
        self._config, self._data, self._model, self._seed = config, data, model, seed
        self._processor = processor
        self._texts = [self._tokenize(index) for index in range(len(data))]
        decayed = [weight for weight in model.parameters() if weight.ndim > 1]
        others = [weight for weight in model.parameters() if weight.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": 0.05},
            {"params": others, "weight_decay": 0.0},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
        self._log: list[Progress] = []
        self.state_file = config.out / f"state_{seed}.pt"
        self._log_file = config.out / f"train_log_{seed}.json"

    def _tokenize(self, index: int) -> tuple[Tensor, Tensor]:
        """Return ids and labels of a sample, int64 (T,) each."""
        turns = self._data.conversations[index]
        counts = [self._config.sizes.cells] * self._data.num_images[index]
        pieces = expand_placeholders(
            render(turns, self._processor.template, sample=str(index)), counts, sample=str(index)
        )
        ids, supervised = encode(pieces, self._processor.tokenizer)
        input_ids = torch.tensor(ids)
        return input_ids, input_ids.masked_fill(~torch.tensor(supervised), IGNORE_INDEX)

    def finish(self) -> None:
        """Take all steps that are left."""
        first = self._load_state()
        before = self._log[-1] if self._log else Progress(0, 0.0, 0.0, 0.0, 0)
        started, cpu_started = time.monotonic(), time.process_time()
        losses: list[Tensor] = []
        tokens = before.visual_tokens
        self._model.train()
        for step in range(first, self._config.num_steps):
            samples = self._choose(step)
            losses.append(self._step(step, samples))
            num_images = sum(self._data.num_images[index] for index in samples)
            tokens += num_images * self._config.sizes.cells
            done = step + 1
            if done % _LOG_STEPS == 0 or done == self._config.num_steps:
                seconds = before.seconds + time.monotonic() - started
                cpu_seconds = before.cpu_seconds + time.process_time() - cpu_started
                loss = float(torch.stack(losses).mean())
                self._log.append(Progress(done, loss, seconds, cpu_seconds, tokens))
                losses = []
            if done % _SAVE_STEPS == 0 or done == self._config.num_steps:
                self._save_state(done)
                last = self._log[-1]
                say(f"  seed {self._seed}: step {done}, loss {last.loss:.3f}, {last.seconds:.0f} s")

    def _choose(self, step: int) -> NDArray[np.int64]:
        """Return the samples of a step: all of one budget, of the lesson in the first steps."""
        rng = np.random.default_rng((11, self._seed, step))
        config = self._config
        if step < config.lesson_share * config.num_steps:
            among = self._data.lesson
        else:
            budgets = sorted(config.budgets)
            # A small budget costs little: it gets more steps, so that tokens are spent evenly.
            weights = np.array([1 / budget**0.5 for budget in budgets])
            chosen = int(rng.choice(budgets, p=weights / weights.sum()))
            among = np.flatnonzero(np.array(self._data.num_images) == chosen)
        return rng.choice(among, config.batch_size, replace=len(among) < config.batch_size)

    def _step(self, step: int, samples: NDArray[np.int64]) -> Tensor:
        """Take one optimiser step, half of the samples mirrored; returns its loss."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate(step)
        mirrored = np.random.default_rng((12, self._seed, step)).random(len(samples)) < 0.5
        output = self._model(**self._batch(samples, mirrored))
        self._optimiser.zero_grad(set_to_none=True)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), _MAX_GRADIENT_NORM)
        self._optimiser.step()
        return output.loss.detach()

    def _rate(self, step: int) -> float:
        """Return the learning rate: linear warm-up, then a cosine to a twentieth."""
        config = self._config
        warm = min(config.num_warmup_steps, config.num_steps // 4)
        if step < warm:
            return config.learning_rate * (step + 1) / warm
        share = (step - warm) / max(config.num_steps - warm, 1)
        return config.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))

    def _batch(
        self,
        samples: NDArray[np.int64],
        mirrored: NDArray[np.bool_],
    ) -> dict[str, Any]:
        texts = [
            (self._mirror(ids), self._mirror(labels)) if flip else (ids, labels)
            for (ids, labels), flip in zip(
                [self._texts[int(index)] for index in samples], mirrored, strict=True
            )
        ]
        pad_id = self._processor.pad_token_id
        pad = torch.nn.utils.rnn.pad_sequence
        ids = pad([row for row, _ in texts], batch_first=True, padding_value=pad_id)
        labels = pad([row for _, row in texts], batch_first=True, padding_value=IGNORE_INDEX)
        mask = pad([torch.ones_like(row) for row, _ in texts], batch_first=True)
        segments = [
            self._data.segment(int(index), self._processor.visual, mirrored=bool(flip))
            for index, flip in zip(samples, mirrored, strict=True)
        ]
        visual = pack_segments([[segment] for segment in segments])
        assert visual is not None
        device = self._config.device
        return {
            "input_ids": ids.to(device),
            "labels": labels.to(device),
            "attention_mask": mask.to(device),
            "visual": visual.to(device),
        }

    def _mirror(self, ids: Tensor) -> Tensor:
        """Exchange the answers left and right, each of them one token."""
        words: Any = self._processor.tokenizer.convert_tokens_to_ids(["left", "right"])
        left, right = words
        mirrored = ids.clone()
        mirrored[ids == left], mirrored[ids == right] = right, left
        return mirrored

    def _save_state(self, done: int) -> None:
        state = {
            "step": done,
            "model": self._model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }
        with replace_file(self.state_file) as partial:
            torch.save(state, partial)
        with replace_file(self._log_file) as partial:
            rows = [vars(row) for row in self._log]
            partial.write_text(json.dumps(rows), encoding="utf-8")

    def _load_state(self) -> int:
        """Restore a run that was cut off; returns the steps that it has taken."""
        if not self.state_file.exists():
            return 0
        state = torch.load(self.state_file, weights_only=True, map_location=self._config.device)
        self._model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        rows = read_progress(self._config, self._seed)
        self._log = [row for row in rows if row.step <= state["step"]]
        return int(state["step"])


def read_progress(config: StudyConfig, seed: int) -> list[Progress]:
    """Return the log of a seed's training; empty before it has one."""
    path = config.out / f"train_log_{seed}.json"
    if not path.exists():
        return []
    return [Progress(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def prompt(kind: str, num_images: int) -> list[Turn]:
    """Return the conversation that asks one question about so many mosaics."""
    return [{"from": "human", "value": f"{IMAGE_PLACEHOLDER}\n" * num_images + KINDS[kind].text}]


def _texts() -> list[str]:
    """Return all words of the study, so that each becomes one token and texts stay short."""
    words = [DEFAULT_SYSTEM, "system\n", "user\n", "assistant\n", "\n"]
    for kind in KINDS.values():
        words += [kind.text, *kind.choices]
    return words
