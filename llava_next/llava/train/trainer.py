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
from transformers.integrations.integration_utils import TensorBoardCallback

from llava.data.sampler import RankBatches
from llava.data.streamed import StreamBatches
from llava.model.adapters import load_adapter_weights, save_adapters
from llava.model.weights import PROJECTOR_FILE
from llava.train.arguments import LlavaTrainingArguments
from llava.train.batches import EpochLoader, to_device
from llava.train.distributed import let_fsdp_run_on_cpu
from llava.train.parts import PARTS, PROJECTOR, parameter_groups, part_of
from llava.train.run.bad_samples import BadSampleLog
from llava.train.run.divergence import FiniteCheck
from llava.train.run.meter import MeterClock, StepMeter
from llava.train.run.mosaics import MosaicPictures
from llava.train.validation import Validation
from run_kit.checkpoints import (
    UNFINISHED_FOLDER,
    CheckpointError,
    discard_unfinished,
    publish_checkpoint,
)
from run_kit.files import without_nan
from run_kit.log import TrainLog, append_validation
from run_kit.speed import TimedIterator

_SHOWN = (
    "tokens_per_second",
    "visual_tokens_per_second",
    "data_wait_seconds",
    "mfu",
    "peak_memory_bytes",
    "bad_samples",
)
"""Figures of a step that the console and TensorBoard get, in addition to loss, rate and norm."""


class LlavaTrainer(Trainer):
    """Trains a LLaVA language model on batches of ``llava.data.collator``.

    Args:
        tuned_parts: the parts that are tuned; unless these are all parts, the projector is also
            saved to a file of its own.
        adapters: configuration of the model's adapters, if any; the run then saves the adapters
            and the other tuned modules, not the whole model.
        batches: plan of the samples in each batch of this rank.
        meter: collects the figures that are logged.
        bad_samples: record of the samples that were replaced.
        validation: computes the loss on held-out data, if any.
        **kwargs: arguments of ``transformers.Trainer``.
    """

    args: LlavaTrainingArguments  # pyright: ignore[reportIncompatibleVariableOverride]
    model: Any  # the library's declaration allows None, which never holds here
    accelerator: Any

    def __init__(
        self,
        *,
        tuned_parts: tuple[str, ...],
        adapters: Any = None,
        batches: RankBatches | StreamBatches,
        meter: StepMeter,
        bad_samples: BadSampleLog,
        validation: Validation | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # The model's own loss smooths labels; the library's would need all logits.
        self.label_smoother = None
        self.model.lm_head.label_smoothing = self.args.label_smoothing_factor
        self.add_callback(MeterClock(meter))
        self._pictures = self._make_pictures()
        self._finite_check = FiniteCheck(self.accelerator, gradients_may_overflow=self.args.fp16)
        self._validation = validation
        self._saves_projector = set(tuned_parts) != set(PARTS) and PROJECTOR in tuned_parts
        self._adapters = adapters
        self._batches, self._meter, self._bad_samples = batches, meter, bad_samples
        self._bad_count = bad_samples.count()
        self._train_log: TrainLog | None = None
        self._writes_checkpoint = False
        self._group_parts: list[str] = []
        self._part_rates: dict[str, float] = {}

    def _make_pictures(self) -> MosaicPictures | None:
        """Add the pictures of visuals to what TensorBoard gets, where that is asked for."""
        writers = [
            callback
            for callback in self.callback_handler.callbacks
            if isinstance(callback, TensorBoardCallback)
        ]
        if not self.args.picture_steps or not writers:
            return None
        side = self.model.config.mm_patches_per_side
        pictures = MosaicPictures(writers[0], self.args.picture_steps, side)
        self.add_callback(pictures)
        return pictures

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator.

        Raises:
            ValueError: if it does not shard although that was asked for.
        """
        if self.args.fsdp and self.args.use_cpu:
            let_fsdp_run_on_cpu()
        super().create_accelerator_and_postprocess()
        if self.args.fsdp and not self.is_fsdp_enabled:
            raise ValueError(
                "--fsdp is not available on these devices; use --deepspeed, or neither"
            )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of this rank's batches, as planned by ``llava.train.batches``."""
        workers = self.args.dataloader_num_workers
        return EpochLoader(
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

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Return the batches of one optimiser step, and their supervised tokens on all ranks.

        The time spent waiting for batches is counted. The library would count tokens on the device.
        """
        timed = TimedIterator(epoch_iterator)
        batches = [batch for _, batch in zip(range(num_batches), timed, strict=False)]
        self._meter.add_wait(timed.seconds)
        if not batches:
            return batches, None
        count = sum(batch["layout"].num_supervised for batch in batches)
        total = torch.full((), count, device=device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            total = self.accelerator.reduce(total, "sum")
        return batches, total

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimiser with a learning rate per part."""
        if self.optimizer is None:
            tuned: Any = self.model if model is None else model
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, tuned)
            decayed = set(self.get_decay_parameter_names(tuned))
            groups = parameter_groups(
                tuned, self.args.rates_by_part, self.args.weight_decay, decayed
            )
            self.optimizer = optimizer_class(groups, **options)
            self._group_parts = [group["part"] for group in groups]
        return self.optimizer

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Run one forward and backward pass; count its tokens, and the samples it replaced."""
        info, visual = inputs["info"], inputs["visual"]
        optimizer: Any = self.optimizer
        rates = (group["lr"] for group in optimizer.param_groups)
        self._part_rates = dict(zip(self._group_parts, rates, strict=True))
        tokens = 0 if visual is None else visual.patches.shape[0] // visual.patches_per_token
        self._meter.add_batch(info, inputs["layout"].num_supervised, tokens)
        self._meter.add_bad_samples(self._bad_samples.add(info.bad_samples))
        if isinstance(self._batches, StreamBatches):
            self._batches.trained_on(info.stream)
        if self._pictures is not None:
            self._pictures.show(visual, self.state.global_step + 1)
        # The library would wait for each tensor, and leave what is no tensor on the host.
        rest = {name: value for name, value in inputs.items() if name != "info"}
        inputs = {"info": info, **to_device(rest, self.args.device)}
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._finite_check.add(self.state.global_step + 1, loss, info.sample_ids)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the model's loss, and count the share of each data set."""
        info = inputs.pop("info")
        result: Any = super().compute_loss(model, inputs, True, num_items_in_batch)
        loss, outputs = result
        self._meter.add_losses(outputs["token_losses"], inputs["labels"], info.set_index)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures of all ranks to a step's log, and write its line.

        Raises:
            TooManyBadSamples: on all ranks at once, if the run has skipped too many samples.
            DivergedRunError: on all ranks at once, if the loss stays NaN or infinite.
        """
        is_step = "loss" in logs  # validation and the summary at the end have other keys
        if is_step:
            row = self._step_row(logs)
            losses = {f"loss_{name}": loss for name, loss in row["loss_by_dataset"].items()}
            logs |= {name: row[name] for name in _SHOWN if row[name] is not None} | losses
            if self.is_world_process_zero():
                if self._train_log is None:
                    self._train_log = TrainLog(self.args.run_folder, first_step=row["step"])
                self._train_log.append(row)
        super().log(logs, start_time)
        self.state.log_history[-1] = without_nan(self.state.log_history[-1])
        if is_step:
            # The library subtracts what it has logged, which leaves NaN for good.
            self._tr_loss.zero_()
            self._finite_check.check(logs.get("grad_norm"))
        self._bad_samples.check(self._bad_count)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Compute and log the loss on the held-out data; every rank must call it.

        Returns:
            ``eval_loss`` per supervised token, and ``eval_loss_NAME`` of each data set.
        """
        assert self._validation is not None  # the arguments require it for --eval_strategy
        row = self._validation.run(self.model_wrapped, self.accelerator)
        losses = {f"eval_loss_{name}": loss for name, loss in row["loss_by_dataset"].items()}
        metrics = {"eval_loss": row["loss"], **losses, "eval_seconds": row["seconds"]}
        self._meter.leave_out(row["seconds"])
        if self.is_world_process_zero():
            step = {"step": self.state.global_step, "epoch": self.state.epoch}
            append_validation(self.args.run_folder, {**step, **row})
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def save_final(self) -> None:
        """Write the trained model and the state of the run into the run's folder.

        Raises:
            DivergedRunError: on all ranks at once, if a weight is NaN or infinite.
        """
        self._finite_check.check_weights(self.model.parameters())
        self.save_model()
        self.save_state()

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
        if not self.args.should_save:
            return  # under ZeRO-3 only the rank that saves has whole weights
        folder = self.args.run_folder if output_dir is None else Path(output_dir)
        weights = self.model.state_dict() if state_dict is None else state_dict
        # Training runs without a cache; the saved model will generate.
        self.model.config.use_cache = True
        if self._adapters is None:
            super()._save(output_dir, state_dict)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            tuned = {name for name, value in self.model.named_parameters() if value.requires_grad}
            final = self.args.run_folder / folder.name if self._writes_checkpoint else folder
            save_adapters(folder, self._adapters, weights, tuned, final_folder=final)
            self.model.config.save_pretrained(folder)
            processor: Any = self.processing_class
            processor.save_pretrained(folder)
        self.model.config.use_cache = self.args.use_cache
        if self._saves_projector:
            projector = {
                name: tensor.detach().cpu().contiguous()
                for name, tensor in weights.items()
                if part_of(name) == PROJECTOR
            }
            save_file(projector, folder / PROJECTOR_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # FSDP keeps all weights in a file of its own, which it shards over the ranks.
        if self._adapters is None or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_adapter_weights(self.model, Path(resume_from_checkpoint))

    def _get_output_dir(self, trial: Any) -> str:
        folder = self.args.run_folder
        return str(folder / UNFINISHED_FOLDER if self._writes_checkpoint else folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint to a temporary folder, and rename it when every rank is done.

        Raises:
            CheckpointError: if it cannot be written; the checkpoints before it stay.
            DivergedRunError: on all ranks at once, if a weight is NaN or infinite.
        """
        folder, step = self.args.run_folder, self.state.global_step
        self._finite_check.check_weights(model.parameters())
        if self.args.should_save:
            discard_unfinished(folder)
        self.accelerator.wait_for_everyone()
        self._writes_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
            if isinstance(self._batches, StreamBatches) and not self.args.save_only_model:
                self._batches.write(folder / UNFINISHED_FOLDER / f"checkpoint-{step}")
        # torch reports a full disk as RuntimeError.
        except (OSError, RuntimeError, SafetensorError) as error:
            discard_unfinished(folder)
            raise CheckpointError(
                f"checkpoint-{step} cannot be written into {folder} ({error}); free some space, "
                "then continue with --resume_from_checkpoint auto"
            ) from error
        finally:
            self._writes_checkpoint = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            publish_checkpoint(folder, step, self.args.save_total_limit)
