"""The library's Trainer, with a learning rate per part, token counts and projector files."""

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Trainer

from llava.model.weights import PROJECTOR_FILE
from llava.train.arguments import LlavaTrainingArguments
from llava.train.checkpoint import mark_complete
from llava.train.parts import LANGUAGE_MODEL, PARTS, PROJECTOR, VISION_TOWER, part_of
from llava.train.record import TrainLog


def parameter_groups(
    model: nn.Module, args: LlavaTrainingArguments, decayed: set[str]
) -> list[dict[str, Any]]:
    """Optimiser groups: one per part, split into parameters with and without weight decay.

    Args:
        model: a LLaVA language model.
        args: gives learning rates and weight decay.
        decayed: names of the parameters that decay.

    Returns:
        Groups with keys ``params``, ``lr``, ``weight_decay`` and ``part``; none is empty.
    """
    rates = {
        LANGUAGE_MODEL: args.learning_rate,
        PROJECTOR: _first_given(args.mm_projector_lr, args.learning_rate),
        VISION_TOWER: _first_given(args.mm_vision_tower_lr, args.learning_rate),
    }
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {
        (part, decays): [] for part in PARTS for decays in (True, False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[part_of(name), name in decayed].append(parameter)
    return [
        {
            "params": parameters,
            "lr": rates[part],
            "weight_decay": args.weight_decay if decays else 0.0,
            "part": part,
        }
        for (part, decays), parameters in groups.items()
        if parameters
    ]


def _first_given(value: float | None, default: float) -> float:
    return default if value is None else value


class LlavaTrainer(Trainer):
    """Trains a LLaVA language model on batches of ``llava.data.collator``.

    Args:
        tuned_parts: what is trained; unless that is everything, the projector is saved apart too.
        **kwargs: of ``transformers.Trainer``.
    """

    args: LlavaTrainingArguments  # pyright: ignore[reportIncompatibleVariableOverride]
    model: Any  # the library's declaration allows None, which never holds here
    accelerator: Any

    def __init__(self, *, tuned_parts: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._saves_projector = set(tuned_parts) != set(PARTS) and PROJECTOR in tuned_parts
        # Text and visual tokens since the last log line, on the device: no synchronisation.
        self._tokens = torch.zeros(2, dtype=torch.int64, device=self.args.device)
        self._log_time: float | None = None
        self._train_log: TrainLog | None = None

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimiser with a learning rate per part."""
        if self.optimizer is None:
            tuned: Any = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, tuned)
            decayed = set(self.get_decay_parameter_names(tuned))
            groups = parameter_groups(tuned, self.args, decayed)
            self.optimizer = optimizer_class(groups, **options)
        return self.optimizer

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One forward and backward pass; counts its tokens."""
        if self._log_time is None:
            self._log_time = time.perf_counter()
        visual = inputs["visual"]
        self._tokens[0] += inputs["attention_mask"].sum().to(self._tokens.device)
        self._tokens[1] += 0 if visual is None else visual.patches.shape[0]
        return super().training_step(model, inputs, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add token rates of all ranks to a step's log, and write its line."""
        if "loss" in logs:  # a step; the summary at the end has other keys
            row = self._step_row(logs)
            logs |= {name: row[name] for name in ("tokens_per_second", "visual_tokens_per_second")}
            if self.is_world_process_zero():
                if self._train_log is None:
                    self._train_log = TrainLog(self.args.run_folder, first_step=row["step"])
                self._train_log.append(row)
        super().log(logs, start_time)

    def _step_row(self, logs: dict[str, float]) -> dict[str, Any]:
        now = time.perf_counter()
        assert self._log_time is not None  # a step is logged after it was trained
        seconds, self._log_time = now - self._log_time, now
        tokens, visual_tokens = self.accelerator.reduce(self._tokens.clone(), "sum").tolist()
        self._tokens.zero_()
        return {
            "step": self.state.global_step,
            "epoch": self.state.epoch,
            "loss": logs["loss"],
            "lr": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            "tokens": tokens,
            "visual_tokens": visual_tokens,
            "seconds": round(seconds, 4),
            "tokens_per_second": round(tokens / seconds, 1),
            "visual_tokens_per_second": round(visual_tokens / seconds, 1),
        }

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        # Training runs without a cache; whoever loads the files will generate.
        self.model.config.use_cache = True
        super()._save(output_dir, state_dict)
        self.model.config.use_cache = self.args.use_cache
        if self._saves_projector and self.args.should_save:
            weights = self.model.state_dict() if state_dict is None else state_dict
            projector = {
                name: tensor.detach().cpu().contiguous()
                for name, tensor in weights.items()
                if part_of(name) == PROJECTOR
            }
            folder = self.args.run_folder if output_dir is None else Path(output_dir)
            save_file(projector, folder / PROJECTOR_FILE)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        step = self.state.global_step
        if self.args.should_save:
            mark_complete(self.args.run_folder / f"checkpoint-{step}", step)
