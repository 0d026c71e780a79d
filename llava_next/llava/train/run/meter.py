"""What a run reports per logged step: loss per data set, rates, waiting, memory, share of the peak.

Sums stay on the device between log lines, so that no step waits for them.
"""

import resource
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX
from llava.data.collator import BatchInfo
from llava.train.run.flops import FlopCounter

_TOKENS, _VISUAL, _FLOPS, _WAIT, _NEW_BAD, _FIXED = range(6)


class TimedIterator:
    """Passes batches on, and adds up the seconds spent waiting for them."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        started = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self.seconds += time.perf_counter() - started


class StepMeter:
    """Collects since the last log line; ``row`` reports over all ranks and starts anew."""

    def __init__(
        self,
        device: torch.device,
        set_names: tuple[str, ...],
        flops: FlopCounter,
        peak: float | None,
    ) -> None:
        """Start counting.

        Args:
            device: where the sums are kept.
            set_names: of the data sets.
            flops: of the model.
            peak: operations per second of one device, None if not known.
        """
        self._set_names, self._flops, self._peak = set_names, flops, peak
        self._sums = torch.zeros(_FIXED, dtype=torch.float64, device=device)
        self._losses = torch.zeros(2, len(set_names), dtype=torch.float64, device=device)
        self._started = time.perf_counter()

    def start(self) -> None:
        """Let the time of the first log line begin now."""
        self._started = time.perf_counter()

    def add_batch(self, info: BatchInfo, labels: Tensor, visual_tokens: int) -> None:
        """Count a batch before it goes to the device."""
        supervised = int((labels[:, 1:] != IGNORE_INDEX).sum())
        flops = self._flops.step(info.sample_tokens, info.segment_patches, supervised)
        values = [sum(info.sample_tokens), visual_tokens, flops, 0.0, 0.0]
        self._sums += torch.tensor(values, dtype=torch.float64, device=self._sums.device)

    def add_wait(self, seconds: float) -> None:
        """Count time in which this rank had no batch."""
        self._sums[_WAIT] += seconds

    def add_bad_samples(self, count: int) -> None:
        """Count samples that were replaced."""
        self._sums[_NEW_BAD] += count

    def add_losses(self, token_losses: Tensor, labels: Tensor, set_index: Tensor) -> None:
        """Count losses (B, T) by data set, on the device."""
        # The first token of a row is never predicted.
        supervised = (labels[:, 1:] != IGNORE_INDEX).flatten().double()
        sets = set_index.to(labels.device)[:, 1:].flatten()
        losses = token_losses[:, 1:].flatten().double()
        self._losses[0].index_add_(0, sets, losses)
        self._losses[1].index_add_(0, sets, supervised)

    def row(self, accelerator: Any) -> dict[str, Any]:
        """Figures of all ranks since the last call; every rank must call it."""
        now = time.perf_counter()
        seconds, self._started = now - self._started, now
        both = torch.cat((self._sums, self._losses.flatten()))
        reduced = accelerator.reduce(both, "sum").tolist()
        self._sums.zero_()
        self._losses.zero_()
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
            "loss_by_dataset": {
                name: loss / count
                for name, loss, count in zip(self._set_names, losses, counts, strict=True)
                if count
            },
        }

    def _peak_memory(self) -> int | None:
        device = self._sums.device
        return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
