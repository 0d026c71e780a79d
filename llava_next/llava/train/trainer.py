"""The library's Trainer with this project's batches, learning rates, figures and checkpoints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer

from llava.data.sampler import RankBatches
from llava.model.adapters import load_adapter_weights, save_adapters
from llava.model.weights import PROJECTOR_FILE
from llava.train.arguments import LlavaTrainingArguments
from llava.train.parts import LANGUAGE_MODEL, PARTS, PROJECTOR, VISION_TOWER, part_of
from llava.train.run.bad_samples import BadSampleLog
from llava.train.run.checkpoint import (
    UNFINISHED_FOLDER,
    CheckpointError,
    discard_unfinished,
    publish_checkpoint,
)
from llava.train.run.log import TrainLog
from llava.train.run.meter import StepMeter, TimedIterator

_SHOWN = (
    "tokens_per_second",
    "visual_tokens_per_second",
    "data_wait_seconds",
    "mfu",
    "peak_memory_bytes",
    "bad_samples",
)
"""Figures of a step that the console and TensorBoard get, beside loss, rate and norm."""


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
        adapters: configuration of the model's adapters, if any; then they alone are saved, with
            the other weights that were tuned.
        batches: which samples meet in each batch of this rank.
        meter: collects what is logged.
        bad_samples: where replaced samples are written down.
        **kwargs: of ``transformers.Trainer``.
    """

    args: LlavaTrainingArguments  # pyright: ignore[reportIncompatibleVariableOverride]
    model: Any  # the library's declaration allows None, which never holds here
    accelerator: Any

    def __init__(
        self,
        *,
        tuned_parts: tuple[str, ...],
        adapters: Any = None,
        batches: RankBatches,
        meter: StepMeter,
        bad_samples: BadSampleLog,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._saves_projector = set(tuned_parts) != set(PARTS) and PROJECTOR in tuned_parts
        self._adapters = adapters
        self._batches, self._meter, self._bad_samples = batches, meter, bad_samples
        self._bad_count = bad_samples.count()
        self._train_log: TrainLog | None = None
        self._writes_checkpoint = False
        self._group_parts: list[str] = []
        self._part_rates: dict[str, float] = {}

    def get_train_dataloader(self) -> DataLoader[Any]:
        """This rank's batches; the library would share out and seed them by its own rules."""
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self.train_dataset,  # pyright: ignore[reportArgumentType]
            batch_sampler=self._batches,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            persistent_workers=self.args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            # Its own, so that making an iterator takes nothing from the model's random numbers.
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        resumed = kwargs["resume_from_checkpoint"] is not None and epoch == kwargs["epochs_trained"]
        skipped = kwargs["steps_trained_in_current_epoch"] if resumed else 0
        self._batches.set_epoch(epoch, 0 if self.args.ignore_data_skip else skipped)
        self._meter.start()
        super()._run_epoch(epoch=epoch, **kwargs)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Batches of one optimiser step; the time until they are there is counted."""
        timed = TimedIterator(epoch_iterator)
        samples = super().get_batch_samples(timed, num_batches, device)
        self._meter.add_wait(timed.seconds)
        return samples

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimiser with a learning rate per part."""
        if self.optimizer is None:
            tuned: Any = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, tuned)
            decayed = set(self.get_decay_parameter_names(tuned))
            groups = parameter_groups(tuned, self.args, decayed)
            self.optimizer = optimizer_class(groups, **options)
            self._group_parts = [group["part"] for group in groups]
        return self.optimizer

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One forward and backward pass; counts its tokens and notes replaced samples."""
        info, visual = inputs["info"], inputs["visual"]
        optimizer: Any = self.optimizer
        rates = (group["lr"] for group in optimizer.param_groups)
        self._part_rates = dict(zip(self._group_parts, rates, strict=True))
        tokens = 0 if visual is None else visual.patches.shape[0] // visual.patches_per_token
        self._meter.add_batch(info, inputs["labels"], tokens)
        self._meter.add_bad_samples(self._bad_samples.add(info.bad_samples))
        return super().training_step(model, inputs, num_items_in_batch)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        visual = inputs["visual"]
        moved = super()._prepare_inputs(inputs)
        if visual is not None:
            moved["visual"] = visual.to(self.args.device, non_blocking=True)
        return moved

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The model's loss; its share of each data set is counted."""
        info = inputs.pop("info")
        result: Any = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss, outputs = result
        self._meter.add_losses(outputs["token_losses"], inputs["labels"], info.set_index)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures of all ranks to a step's log, and write its line.

        Raises:
            TooManyBadSamples: on all ranks at once, if the run has skipped too many samples.
        """
        if "loss" in logs:  # a step; the summary at the end has other keys
            row = self._step_row(logs)
            losses = {f"loss_{name}": loss for name, loss in row["loss_by_dataset"].items()}
            logs |= {name: row[name] for name in _SHOWN if row[name] is not None} | losses
            if self.is_world_process_zero():
                if self._train_log is None:
                    self._train_log = TrainLog(self.args.run_folder, first_step=row["step"])
                self._train_log.append(row)
        super().log(logs, start_time)
        self._bad_samples.check(self._bad_count)

    def _step_row(self, logs: dict[str, float]) -> dict[str, Any]:
        figures = self._meter.row(self.accelerator)
        if figures.pop("new_bad_samples"):
            count = self._bad_samples.count() if self.is_world_process_zero() else 0
            counted = torch.tensor(count, device=self.args.device)
            self._bad_count = int(self.accelerator.reduce(counted, "sum"))
        return {
            "step": self.state.global_step,
            "epoch": self.state.epoch,
            "loss": logs["loss"],
            "lr": logs["learning_rate"],
            "lr_by_part": self._part_rates,
            "grad_norm": logs.get("grad_norm"),
            "bad_samples": self._bad_count,
            **figures,
        }

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        folder = self.args.run_folder if output_dir is None else Path(output_dir)
        weights = self.model.state_dict() if state_dict is None else state_dict
        # Training runs without a cache; whoever loads the files will generate.
        self.model.config.use_cache = True
        if self._adapters is None:
            super()._save(output_dir, state_dict)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            tuned = {name for name, value in self.model.named_parameters() if value.requires_grad}
            save_adapters(folder, self._adapters, weights, tuned)
            self.model.config.save_pretrained(folder)
            processor: Any = self.processing_class
            processor.save_pretrained(folder)
        self.model.config.use_cache = self.args.use_cache
        if self._saves_projector and self.args.should_save:
            projector = {
                name: tensor.detach().cpu().contiguous()
                for name, tensor in weights.items()
                if part_of(name) == PROJECTOR
            }
            save_file(projector, folder / PROJECTOR_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._adapters is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_adapter_weights(self.model, Path(resume_from_checkpoint))

    def _get_output_dir(self, trial: Any) -> str:
        folder = self.args.run_folder
        return str(folder / UNFINISHED_FOLDER if self._writes_checkpoint else folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint aside, and give it its place when every rank is done.

        Raises:
            CheckpointError: if it cannot be written; the checkpoints before it stay.
        """
        folder, step = self.args.run_folder, self.state.global_step
        if self.args.should_save:
            discard_unfinished(folder)
        self.accelerator.wait_for_everyone()
        self._writes_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
        # torch reports a full disk as RuntimeError.
        except (OSError, RuntimeError, SafetensorError) as error:
            discard_unfinished(folder)
            raise CheckpointError(
                f"checkpoint-{step} cannot be written into {folder} ({error}); free some space, "
                "then go on with --resume_from_checkpoint auto"
            ) from error
        finally:
            self._writes_checkpoint = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            publish_checkpoint(folder, step, self.args.save_total_limit)
