"""Loss on held-out data during training, for each data set."""

import time
from typing import Any

import torch
from torch.utils.data import DataLoader

from llava.data.collator import Collator
from llava.data.dataset import SupervisedDataset
from llava.train.arguments import LlavaTrainingArguments
from llava.train.batches import to_device
from llava.train.run.meter import LossSums, mean_losses


class Validation:
    """Computes the loss of every sample of a data path, shared out over the ranks.

    It takes no random numbers, so a run trains on as it would without.
    """

    def __init__(
        self, dataset: SupervisedDataset, collator: Collator, args: LlavaTrainingArguments
    ) -> None:
        """Plan the batches of this rank.

        Args:
            dataset: the held-out samples.
            collator: makes a batch of samples.
            args: batch size, ranks and workers.

        Raises:
            ValueError: if there are no samples.
        """
        if not len(dataset):
            raise ValueError("--eval_data_path must hold at least one sample, got none")
        self.dataset, self._collator, self._args = dataset, collator, args
        self._batches, self._num_counted = rank_batches(
            len(dataset), args.per_device_eval_batch_size, args.world_size, args.process_index
        )

    def run(self, model: Any, accelerator: Any) -> dict[str, Any]:
        """Compute the loss; every rank must call it.

        Args:
            model: the model as the trainer has wrapped it.
            accelerator: reduces over all ranks.

        Returns:
            ``loss`` per supervised token of all data, ``loss_by_dataset``, the number of supervised
            ``tokens``, and ``seconds``.
        """
        started, was_training = time.perf_counter(), model.training
        names = self.dataset.entries.names
        losses = LossSums(len(names), accelerator.device)
        model.eval()
        with torch.no_grad():
            for number, batch in enumerate(self._loader()):
                info = batch.pop("info")
                inputs = to_device(batch, accelerator.device)
                outputs = model(**inputs, loss_only=True)
                if number < self._num_counted:
                    losses.add(outputs["token_losses"], inputs["labels"], info.set_index)
        model.train(was_training)
        sums, counts = accelerator.reduce(losses.sums, "sum").tolist()
        return {
            "loss": sum(sums) / max(sum(counts), 1),
            "loss_by_dataset": mean_losses(names, sums, counts),
            "tokens": round(sum(counts)),
            "seconds": round(time.perf_counter() - started, 3),
        }

    def _loader(self) -> DataLoader[Any]:
        return DataLoader(
            self.dataset,
            batch_sampler=self._batches,
            collate_fn=self._collator,
            num_workers=self._args.dataloader_num_workers,
            generator=torch.Generator().manual_seed(0),
        )


def rank_batches(
    num_samples: int, batch_samples: int, world_size: int, rank: int
) -> tuple[list[list[int]], int]:
    """Share samples out over the ranks in order.

    Returns:
        The batches of this rank, as many as every other rank has, and how many of them count: a
        rank that would have one batch less repeats a sample, so that all ranks stay together.
    """
    batches = [
        list(range(start, min(start + batch_samples, num_samples)))
        for start in range(rank * batch_samples, num_samples, world_size * batch_samples)
    ]
    steps = -(-num_samples // (world_size * batch_samples))
    return [*batches, *([[0]] * (steps - len(batches)))], len(batches)
