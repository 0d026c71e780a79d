"""Stop a run whose loss or weights are no longer finite, and name the samples that came first."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from run_kit.ranks import gather

MOST_BAD_STEPS = 3
"""Steps in a row with a loss that is not finite, until the run stops."""
_MOST_NAMES = 16


class DivergedRunError(RuntimeError):
    """Loss or weights became NaN or infinite."""


class FiniteCheck:
    """Watches the loss of every step.

    The losses stay on the device until ``check`` is called, so that no step waits for them.
    """

    def __init__(self, accelerator: Any, *, gradients_may_overflow: bool) -> None:
        """Start with a good step.

        Args:
            accelerator: reduces over all ranks.
            gradients_may_overflow: whether a gradient that is not finite is normal, as under the
                loss scaling of float16, which then leaves the step out.
        """
        self._accelerator = accelerator
        self._checks_gradients = not gradients_may_overflow
        self._pending: list[tuple[int, Tensor, tuple[str, ...]]] = []
        self._bad_in_a_row = 0
        self._first: tuple[int, tuple[str, ...]] | None = None

    def add(self, step: int, loss: Tensor, sample_ids: Sequence[str]) -> None:
        """Remember one micro-batch of this rank.

        Args:
            step: number of the optimiser step that the micro-batch belongs to.
            loss: scalar on the device.
            sample_ids: the samples of the micro-batch.
        """
        self._pending.append((step, torch.isfinite(loss.detach()), tuple(sample_ids)))

    def check(self, grad_norm: float | None = None) -> None:
        """Look at the losses since the last call; every rank must call it.

        Args:
            grad_norm: gradient norm of the last of these steps, None if it is not known.

        Raises:
            DivergedRunError: on all ranks at once, if too many steps in a row were not finite.
        """
        steps = sorted({step for step, _, _ in self._pending})
        if not steps:
            return
        finite = torch.stack([flag for _, flag, _ in self._pending]).tolist()
        samples: dict[int, tuple[str, ...]] = {step: () for step in steps}
        bad = dict.fromkeys(steps, 0)
        for (step, _, ids), is_finite in zip(self._pending, finite, strict=True):
            bad[step] += not is_finite
            samples[step] += ids if not is_finite else ()
        gradient_is_bad = grad_norm is not None and not math.isfinite(grad_norm)
        if gradient_is_bad and self._checks_gradients and not bad[steps[-1]]:
            bad[steps[-1]] += 1
            samples[steps[-1]] = tuple(
                name for step, _, ids in self._pending if step == steps[-1] for name in ids
            )
        self._pending.clear()
        counts = torch.tensor(list(bad.values()), device=self._accelerator.device)
        for step, count in zip(
            steps, self._accelerator.reduce(counts, "sum").tolist(), strict=True
        ):
            if not count:
                self._bad_in_a_row, self._first = 0, None
                continue
            self._bad_in_a_row += 1
            self._first = self._first or (step, samples[step])
            if self._bad_in_a_row >= MOST_BAD_STEPS:
                raise self._error(f"the loss was not finite for {self._bad_in_a_row} steps")

    def check_weights(self, parameters: Iterable[nn.Parameter]) -> None:
        """Look at all tuned weights before they are saved; every rank must call it.

        Raises:
            DivergedRunError: on all ranks at once, if a weight is NaN or infinite.
        """
        self.check()
        shards = (_share(parameter) for parameter in parameters if parameter.requires_grad)
        largest = [
            torch.linalg.vector_norm(shard.float(), math.inf) for shard in shards if shard.numel()
        ]
        finite = all(torch.isfinite(torch.stack(largest)).tolist()) if largest else True
        bad = torch.tensor(int(not finite), device=self._accelerator.device)
        if int(self._accelerator.reduce(bad, "sum")):
            raise self._error("weights are NaN or infinite, so they are not saved")

    def _error(self, what: str) -> DivergedRunError:
        found = [first for first in gather(self._first) if first is not None]
        step = min((step for step, _ in found), default=None)
        names = [name for at, ids in found if at == step for name in ids]
        shown = ", ".join(names[:_MOST_NAMES]) + (" ..." if len(names) > _MOST_NAMES else "")
        where = f"; step {step} was the first, with the samples {shown or '(unknown)'}"
        return DivergedRunError(
            f"the run diverged: {what}{where if step is not None else ''}. Look at these samples, "
            "lower --learning_rate or --max_grad_norm, or warm up longer; then continue from the "
            "last checkpoint with --resume_from_checkpoint auto --resume_with_changes true"
        )


def _share(parameter: nn.Parameter) -> Tensor:
    """Return what this rank has of a parameter that ZeRO-3 or FSDP has sharded, or all of it."""
    weights: Any = vars(parameter).get("ds_tensor", parameter.detach())
    return weights.to_local() if hasattr(weights, "to_local") else weights
