"""Train a LLaVA model: settings -> model -> what is tuned -> data -> Trainer -> files.

Run: ``python -m llava.train.train --model_name_or_path DIR --data_path FILE --output_dir DIR``,
alone or under torchrun; with ``--deepspeed scripts/zero2.json``, and ``--use_cpu`` without a GPU.

Exit codes: 0 done; 1 failed in training (checkpoints remain); 2 settings,
data or installation wrong, nothing started; 130 interrupted.
"""

import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import PrinterCallback, ProgressCallback, set_seed

from llava.data.collator import Collator
from llava.data.dataset import SupervisedDataset
from llava.data.records import RecordError
from llava.data.sources.streams import StreamError
from llava.data.streamed import StreamedDataset, is_streamed
from llava.model.adapters import LoraSettings, add_adapters, quantise_decoder
from llava.model.assemble import load_model
from llava.model.processing import LlavaProcessor
from llava.train.arguments import (
    Arguments,
    LlavaTrainingArguments,
    model_source,
    parse_arguments,
)
from llava.train.batches import plan_batches, plan_streams, planned_samples
from llava.train.parts import parse_parts, set_trainable, tuned_weights_to_float32
from llava.train.run.bad_samples import BadSampleLog, TooManyBadSamples
from llava.train.run.config import describe_run, find_changes, refuse_changes, write_run_config
from llava.train.run.console import ConsoleTable
from llava.train.run.divergence import DivergedRunError
from llava.train.run.flops import count_flops_of
from llava.train.run.meter import StepMeter
from llava.train.trainer import LlavaTrainer
from llava.train.validation import Validation
from run_kit.checkpoints import (
    CheckpointError,
    check_sharing,
    discard_unfinished,
    find_checkpoint,
)
from run_kit.exits import FAILED_SAMPLES, INTERRUPTED, OK, USAGE
from run_kit.ranks import end_process, give_up
from run_kit.speed import peak_flops

logger = logging.getLogger("llava.train")


def prepare(arguments: Arguments) -> tuple[LlavaTrainer, Path | None]:
    """Load and check everything; no training step is run yet.

    Returns:
        The trainer, and the checkpoint to continue from.

    Raises:
        ValueError: if settings, model or data cannot work.
    """
    model_args, data_args, training_args = arguments
    if not training_args.should_log:  # one rank speaks for all
        logger.setLevel(logging.WARNING)
    output_dir = training_args.run_folder
    if training_args.save_strategy != "no" and not training_args.save_only_model:
        check_sharing(output_dir)
    checkpoint = find_checkpoint(output_dir, training_args.resume_from_checkpoint)
    if training_args.local_process_index == 0:
        discard_unfinished(output_dir)
    set_seed(training_args.seed)
    lora, adapters = model_args.lora(), None
    model, processor = load_model(
        model_source(arguments),
        dtype=training_args.weight_dtype(lora=lora is not None),
        attn_implementation=model_args.attn_implementation,
    )
    model.config.tokenizer_model_max_length = training_args.model_max_length
    model.selects_saved_operations = training_args.checkpointing_policy == "selective"
    model.config.mm_tunable_parts = model_args.mm_tunable_parts
    parts = parse_parts(model_args.mm_tunable_parts)
    if lora is not None:
        adapters = _put_adapters(model, lora, arguments)
    trainable = set_trainable(model, parts, lora=lora is not None)  # pyright: ignore[reportArgumentType]
    if not training_args.deepspeed:
        tuned_weights_to_float32(model)  # pyright: ignore[reportArgumentType]

    dataset = _open_training_data(arguments, processor)
    description = describe_run(
        arguments, dataset.entries, trainable=trainable, world_size=training_args.world_size
    )
    validation = _make_validation(arguments, processor, model.config.image_token_id)
    changes = _changes_since(checkpoint, description, training_args)
    if isinstance(dataset, StreamedDataset) and checkpoint is not None:
        dataset.continue_from(checkpoint)
    bad_samples = BadSampleLog(
        output_dir,
        num_samples=planned_samples(dataset, training_args),
        max_fraction=data_args.max_bad_fraction,
    )
    trainer = LlavaTrainer(
        tuned_parts=parts,
        adapters=adapters,
        batches=plan_batches(dataset, data_args, training_args, bad_samples),
        meter=StepMeter(
            training_args.device,
            dataset.entries.names,
            count_flops_of(model, parts, lora=lora is not None),
            peak_flops(training_args.device, training_args.peak_tflops),
        ),
        bad_samples=bad_samples,
        validation=validation,
        model=model,
        args=training_args,
        train_dataset=dataset,
        eval_dataset=None if validation is None else validation.dataset,
        data_collator=Collator(
            processor.pad_token_id, model.config.image_token_id, packed=training_args.pack_sequences
        ),
        processing_class=processor,
    )
    # One table takes the place of the library's progress bar and dictionaries.
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(ConsoleTable(dataset.entries.names))
    if trainer.is_world_process_zero():
        write_run_config(output_dir, description, checkpoint, changes)
    return trainer, checkpoint


def _put_adapters(model: Any, lora: LoraSettings, arguments: Arguments) -> Any:
    """Put adapters on the decoder, in 4 bits where that is asked for; return their settings."""
    model_args, _, training_args = arguments
    quantisation = model_args.quantisation()
    if quantisation is not None:
        dtype = training_args.weight_dtype(lora=True)
        quantise_decoder(model, quantisation, device=training_args.device, compute_dtype=dtype)
    return add_adapters(model, lora, base=model_args.model_name_or_path)


def _open_training_data(
    arguments: Arguments, processor: LlavaProcessor
) -> SupervisedDataset | StreamedDataset:
    _, data_args, training_args = arguments
    if training_args.dataloader_num_workers < 0:
        raise ValueError(
            "--dataloader_num_workers must be 0 (read in the process itself) or more, got "
            f"{training_args.dataloader_num_workers}"
        )
    if not is_streamed(data_args.data_path, streaming=data_args.streaming):
        return _open_dataset(arguments, processor, data_args.data_path)
    plan = plan_streams(data_args, training_args)
    with training_args.main_process_first(desc="opening the data"):
        return StreamedDataset(
            data_args.data_path,
            processor.tokenizer,
            processor.visual,
            plan=plan,
            streaming=data_args.streaming,
            **_sample_settings(arguments, processor),
        )


def _open_dataset(
    arguments: Arguments, processor: LlavaProcessor, data_path: str
) -> SupervisedDataset:
    """Index the data. One process of a machine makes the index of a new file, others map it."""
    with arguments[2].main_process_first(desc="indexing the data"):
        return SupervisedDataset(
            data_path,
            processor.tokenizer,
            processor.visual,
            **_sample_settings(arguments, processor),
        )


def _make_validation(
    arguments: Arguments, processor: LlavaProcessor, image_token_id: int
) -> Validation | None:
    _, data_args, training_args = arguments
    if data_args.eval_data_path is None:
        return None
    held_out = _open_dataset(arguments, processor, data_args.eval_data_path)
    return Validation(held_out, Collator(processor.pad_token_id, image_token_id), training_args)


def _sample_settings(arguments: Arguments, processor: LlavaProcessor) -> dict[str, Any]:
    """Return how entries become samples."""
    _, data_args, training_args = arguments
    return {
        "image_folder": data_args.image_folder,
        "video_folder": data_args.video_folder,
        "video_time_limit_seconds": data_args.video_time_limit_seconds,
        "template": processor.template,
        "max_length": training_args.model_max_length,
        "on_bad_sample": data_args.on_bad_sample,
    }


def _changes_since(
    checkpoint: Path | None, description: dict[str, Any], args: LlavaTrainingArguments
) -> list[str]:
    """Return what changed since a checkpoint, as the first rank sees it.

    The first rank decides, because copies of the data on other machines may have other times.

    Raises:
        ChangedRunError: on all ranks, unless changes were asked for.
    """
    if checkpoint is None:
        return []
    found = [find_changes(checkpoint, description) if args.process_index == 0 else []]
    changes = broadcast_object_list(found)[0]
    if not args.resume_with_changes:
        refuse_changes(checkpoint, changes)
    for change in changes:
        logger.warning("continuing with a change: %s", change)
    return changes


def message_of(error: Exception) -> str:
    """Return what an error says, without the trace that comes with it from a data worker."""
    return str(error).rpartition(f"{type(error).__qualname__}: ")[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    try:
        trainer, checkpoint = prepare(parse_arguments(argv))
    except (ValueError, OSError) as error:
        logger.error("error: %s", error)
        return USAGE
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.save_final()
    except KeyboardInterrupt:
        logger.error("interrupted; continue with --resume_from_checkpoint auto")
        return INTERRUPTED
    except RecordError as error:
        logger.error(
            "error: %s\nContinue with --resume_from_checkpoint auto and --on_bad_sample skip, or "
            "repair the sample and add --resume_with_changes true",
            message_of(error),
        )
        # Data workers that the garbage collector finds, not their last user, take seconds to end.
        traceback.clear_frames(error.__traceback__)
        return FAILED_SAMPLES
    except (TooManyBadSamples, CheckpointError, DivergedRunError, StreamError) as error:
        logger.error("error: %s", message_of(error))
        traceback.clear_frames(error.__traceback__)
        return FAILED_SAMPLES
    finally:
        if isinstance(trainer.train_dataset, StreamedDataset):
            trainer.train_dataset.close()
    return OK


if __name__ == "__main__":
    exit_code = main()
    if exit_code == OK:
        end_process(exit_code)
    give_up(exit_code)
