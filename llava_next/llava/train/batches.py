"""The plan of this rank's batches: rows of single or packed samples, in order."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from llava.data.dataset import SupervisedDataset
from llava.data.lengths import Lengths, read_lengths, shared_lengths
from llava.data.records import RecordError
from llava.data.sampler import RankBatches, packed_rows, single_rows
from llava.data.streamed import StreamBatches, StreamedDataset, StreamPlan
from llava.train.arguments import DataArguments, LlavaTrainingArguments
from llava.train.run.bad_samples import BadSampleLog

logger = logging.getLogger(__name__)


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Copy what the model takes to its device, without waiting where the memory is page-locked."""
    return {
        name: value if value is None else value.to(device, non_blocking=True)
        for name, value in batch.items()
    }


class EpochLoader(DataLoader[Any]):
    """A loader whose batch sampler is told each epoch by the library."""

    def set_epoch(self, epoch: int) -> None:
        """Plan the batches of an epoch."""
        batches: Any = self.batch_sampler
        batches.set_epoch(epoch)


def plan_batches(
    dataset: SupervisedDataset | StreamedDataset,
    data_args: DataArguments,
    args: LlavaTrainingArguments,
    bad_samples: BadSampleLog,
) -> RankBatches | StreamBatches:
    """Plan the batches of this rank; those of a stream follow from their numbers.

    Packing and balancing need the length of every sample; they are measured unless a file has them.

    Raises:
        RecordError: if a sample is broken and the run is to stop.
        ValueError: if there are too many of them, or too few rows for a step.
    """
    if isinstance(dataset, StreamedDataset):
        return StreamBatches(dataset)
    rows, costs = single_rows(np.arange(len(dataset))), None
    if args.pack_sequences or args.balance_lengths:
        lengths = _lengths(dataset, data_args, args)
        if lengths.bad_samples and data_args.on_bad_sample == "stop":
            raise RecordError(
                f"{len(lengths.bad_samples)} samples cannot be used, the first: "
                f"{lengths.bad_samples[0]['message']}; repair them, or add --on_bad_sample skip"
            )
        if args.should_save:
            bad_samples.add(lengths.bad_samples)
        bad_samples.check(len(lengths.bad_samples))
        rows = single_rows(lengths.usable)
        if args.pack_sequences:
            dataset.replace_by_shorter(lengths.total)
            rows = packed_rows(lengths.usable, lengths.total, args.model_max_length, args.seed)
            logger.info("%d samples are packed into %d rows", len(lengths.usable), len(rows))
        costs = rows.sums(lengths.total) if args.balance_lengths else None
    return RankBatches(
        rows,
        batch_rows=args.per_device_train_batch_size,
        world_size=args.world_size,
        rank=args.process_index,
        seed=args.seed if args.data_seed is None else args.data_seed,
        costs=costs,
        drop_last=args.dataloader_drop_last,
    )


def plan_streams(data_args: DataArguments, args: LlavaTrainingArguments) -> StreamPlan:
    """Plan how streams are read.

    Raises:
        ValueError: naming a setting that needs to know how many samples there are, or how long.
    """
    if args.max_steps <= 0:
        raise ValueError(
            "--max_steps is required where data is streamed: a stream has no end and no epochs"
        )
    if data_args.lengths_file is not None:
        raise ValueError(
            "--lengths_file is of numbered entries, and a stream has none; leave it out, or leave "
            "streaming out"
        )
    if args.ignore_data_skip:
        raise ValueError(
            "--ignore_data_skip has no meaning where data is streamed: a resumed run continues "
            "with the next rows without reading those before them; leave it out"
        )
    if args.balance_lengths and args.should_log:
        logger.info("lengths of streamed samples are unknown: --balance_lengths has no effect")
    return StreamPlan(
        seed=args.seed if args.data_seed is None else args.data_seed,
        shuffle_rows=data_args.shuffle_buffer,
        world_size=args.world_size,
        rank=args.process_index,
        readers=max(1, args.dataloader_num_workers),
        batch_rows=args.per_device_train_batch_size,
        packed=args.pack_sequences,
    )


def planned_samples(
    dataset: SupervisedDataset | StreamedDataset, args: LlavaTrainingArguments
) -> int:
    """Return the number of samples of the data; of a stream, of the rows that the run will read."""
    if isinstance(dataset, SupervisedDataset):
        return len(dataset)
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return args.max_steps * rows * args.world_size


def _lengths(
    dataset: SupervisedDataset, data_args: DataArguments, args: LlavaTrainingArguments
) -> Lengths:
    """Return the lengths of the given file, else those kept next to the data or measured now."""
    fingerprint = dataset.fingerprint()
    if data_args.lengths_file is not None:
        lengths = read_lengths(Path(data_args.lengths_file), fingerprint)
        if lengths is None:
            raise ValueError(
                f"--lengths_file {data_args.lengths_file} is absent or of other data or settings; "
                "make it again with python -m llava.data.validate --out, or leave it out"
            )
        return lengths
    return shared_lengths(dataset, args.run_folder)
