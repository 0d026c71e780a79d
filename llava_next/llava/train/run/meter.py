"""Figures of each logged step: loss per data set, rates, waiting time, memory, share of the peak.

Between log lines, losses are summed on the device and all else on the host, so that no step waits.

Axis letters: B rows of a batch, T tokens of a row.
"""

import resource
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from llava.constants import IGNORE_INDEX
from llava.data.collator import BatchInfo
from llava.train.run.flops import FlopCounter

_TOKENS, _VISUAL, _FLOPS, _WAIT, _NEW_BAD, _FIXED = range(6)


class LossSums:
    """Sums token losses by data set, on the device.

    Attributes:
        sums: float64 (2, data sets): sum of the losses, and number of supervised tokens.
    """

    def __init__(self, num_sets: int, device: torch.device) -> None:
        self.sums = torch.zeros(2, num_sets, dtype=torch.float64, device=device)

    def add(self, token_losses: Tensor, labels: Tensor, set_index: Tensor) -> None:
        """Add the losses of a batch.

        Args:
            token_losses: float32 (B, T), 0 where nothing is supervised.
            labels: int64 (B, T), ``IGNORE_INDEX`` where nothing is supervised.
            set_index: int64 (B, T), the data set of each token.
        """
        # The first token of a row is never predicted.
        supervised = (labels[:, 1:] != IGNORE_INDEX).flatten().double()
        sets = set_index.to(labels.device, non_blocking=True)[:, 1:].flatten()
        self.sums[0].index_add_(0, sets, token_losses[:, 1:].flatten().double())
        self.sums[1].index_add_(0, sets, supervised)


def mean_losses(
    names: Sequence[str], sums: Sequence[float], counts: Sequence[float]
) -> dict[str, float]:
    """Return the mean loss of each data set that has supervised tokens, by name."""
    return {
        name: loss / count for name, loss, count in zip(names, sums, counts, strict=True) if count
    }


class StepMeter:
    """Collects figures since the last log line; ``row`` reports them over all ranks."""

    def __init__(
        self,
        device: torch.device,
        set_names: tuple[str, ...],
        flops: FlopCounter,
        peak: float | None,
    ) -> None:
        """Start counting.

        Args:
            device: device of this rank; it holds the sums of losses.
            set_names: names of the data sets.
            flops: counter of the model's operations.
            peak: operations per second of one device, None if not known.
        """
        self._set_names, self._flops, self._peak = set_names, flops, peak
        self._device = device
        self._sums = [0.0] * _FIXED
        self._losses = LossSums(len(set_names), device)
        self._started = time.perf_counter()

    def start(self) -> None:
        """Let the time of the first log line begin now."""
        self._started = time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Do not count time that was spent on other work than training."""
        self._started += seconds

    def add_batch(self, info: BatchInfo, supervised: int, visual_tokens: int) -> None:
        """Count a batch: its tokens, those that are supervised, and those of its visuals."""
        self._sums[_TOKENS] += sum(info.sample_tokens)
        self._sums[_VISUAL] += visual_tokens
        self._sums[_FLOPS] += self._flops.step(info.sample_tokens, info.segment_patches, supervised)

    def add_wait(self, seconds: float) -> None:
        """Count time in which this rank had no batch."""
        self._sums[_WAIT] += seconds

    def add_bad_samples(self, count: int) -> None:
        """Count samples that were replaced."""
        self._sums[_NEW_BAD] += count

    def add_losses(self, token_losses: Tensor, labels: Tensor, set_index: Tensor) -> None:
        """Count losses by data set; see ``LossSums.add``."""
        self._losses.add(token_losses, labels, set_index)

    def row(self, accelerator: Any) -> dict[str, Any]:
        """Return the figures of all ranks since the last call; every rank must call it."""
        now = time.perf_counter()
        seconds, self._started = now - self._started, now
        own = torch.tensor(self._sums, dtype=torch.float64, device=self._device)
        both = torch.cat((own, self._losses.sums.flatten()))
        reduced = accelerator.reduce(both, "sum").tolist()
        self._sums = [0.0] * _FIXED
        self._losses.sums.zero_()
        sums, losses = reduced[:_FIXED], reduced[_FIXED:]
        losses, counts = losses[: len(self._set_names)], losses[len(self._set_names) :]
        ranks = accelerator.num_processes
        rate = sums[_FLOPS] / seconds
        return {
            "tokens": round(sums[_TOKENS]),
            "visual_tokens": round(sums[_VISUAL]),
            "seconds": round(seconds, 4),
            "tokens_per_second": round(sums[_TOKENS] / seconds, 1),
            "visual_tokens_per_second": round(sums[_VISUAL] / seconds, 1),
            "data_wait_seconds": round(sums[_WAIT] / ranks, 4),
            "flops_per_second": rate,
            "mfu": None if self._peak is None else round(rate / self._peak / ranks, 4),
            "peak_memory_bytes": self._peak_memory(),
            "peak_host_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "new_bad_samples": round(sums[_NEW_BAD]),
            "loss_by_dataset": mean_losses(self._set_names, losses, counts),
        }

    def _peak_memory(self) -> int | None:
        device = self._device
        return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


class MeterClock(TrainerCallback):
    """Lets the time of the first log line begin when the first epoch does."""

    def __init__(self, meter: StepMeter) -> None:
        self._meter = meter

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the meter's clock."""
        self._meter.start()
