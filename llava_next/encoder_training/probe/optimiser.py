"""AdamW for stacked parameters: row n of each has its own rate, decay and gradient clipping."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from encoder_training.probe.heads import GradientMemory

SCHEDULES = ("linear", "cosine", "constant")
LAST_RATE = 1e-7
"""Rate at which ``linear`` and ``cosine`` end."""


class StackedAdamW:
    """``torch.optim.AdamW`` over parameters whose first axis counts the N probes.

    Each probe is a group of the optimiser, whose parameters are views of its rows. A probe whose
    gradient is once not finite keeps its values from then on; the others train on.

    Args:
        module: whose parameters to train.
        rates: learning rate of each probe.
        decays: weight decay of each probe.
        max_grad_norm: clip the gradient of each probe at this norm; 0: not.
        schedule: how rates fall over the run, one of ``SCHEDULES``.
        num_steps: steps of the run.

    Attributes:
        step_count: steps done.
        diverged: bool (N,), probes with a gradient that was not finite.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        rates: Sequence[float],
        decays: Sequence[float],
        max_grad_norm: float,
        schedule: str,
        num_steps: int,
    ) -> None:
        self._memory: GradientMemory | None = getattr(module, "memory", None)
        self._parameters = dict(module.named_parameters())
        self._rates, self._max_norm = list(rates), max_grad_norm
        self._schedule, self._num_steps = schedule, num_steps
        self._rows = {
            name: [nn.Parameter(row) for row in value.detach().unbind(0)]
            for name, value in self._parameters.items()
        }
        groups = [
            {"params": [rows[number] for rows in self._rows.values()], "weight_decay": decay}
            for number, decay in enumerate(decays)
        ]
        self._adam = torch.optim.AdamW(groups, fused=True)
        self._moments = {
            f"{moment}.{name}": torch.zeros_like(value)
            for name, value in self._parameters.items()
            for moment in ("exp_avg", "exp_avg_sq")
        }
        device = next(iter(self._parameters.values())).device
        self.diverged = torch.zeros(len(rates), dtype=torch.bool, device=device)
        self.step_count = 0
        self._set_state()

    def _set_state(self) -> None:
        """Let the optimiser's moments be views of the stacked ones."""
        for name, rows in self._rows.items():
            for number, row in enumerate(rows):
                self._adam.state[row] = {
                    "step": torch.tensor(
                        float(self.step_count), dtype=torch.float32, device=row.device
                    ),
                    "exp_avg": self._moments[f"exp_avg.{name}"][number],
                    "exp_avg_sq": self._moments[f"exp_avg_sq.{name}"][number],
                }

    def rates(self) -> list[float]:
        """Return the rate of each probe at the next step."""
        done = min(self.step_count / self._num_steps, 1.0)
        if self._schedule == "constant":
            return list(self._rates)
        left = 1 - done if self._schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        return [LAST_RATE + (rate - LAST_RATE) * left for rate in self._rates]

    @torch.no_grad()
    def step(self) -> Tensor:
        """Change the parameters by their gradients, and drop these.

        Returns:
            The norm of each probe's gradient before clipping, (N,).
        """
        found = {
            name: value.grad for name, value in self._parameters.items() if value.grad is not None
        }
        norms = [torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in found.values()]
        norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        self.diverged |= ~norm.isfinite()
        factor = ((self._max_norm or math.inf) / (norm + 1e-6)).clamp(max=1)
        factor = factor.masked_fill(self.diverged, 0)
        has_stopped = self.diverged.tolist()
        if any(has_stopped) or bool((factor < 1).any()):
            for grad in found.values():
                grad.mul_(factor.view(-1, *[1] * (grad.dim() - 1)))
                if any(has_stopped):
                    grad.nan_to_num_(0, 0, 0)
        for group, rate, stopped in zip(
            self._adam.param_groups, self.rates(), has_stopped, strict=True
        ):
            group["lr"] = 0.0 if stopped else rate
        for name, rows in self._rows.items():
            for number, row in enumerate(rows):
                row.grad = found[name][number] if name in found else None
        self._adam.step()
        self.step_count += 1
        self._adam.zero_grad()
        for value in self._parameters.values():
            value.grad = None
        if self._memory is not None:
            for grad in found.values():
                self._memory.give(grad)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Return all that a later ``load_state`` needs, by name."""
        about = {"diverged": self.diverged, "step_count": torch.tensor(self.step_count)}
        return {**self._moments, **about}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what ``state`` returned.

        Raises:
            KeyError: A tensor is missing.
        """
        for name, value in self._moments.items():
            value.copy_(state[name])
        self.diverged.copy_(state["diverged"])
        self.step_count = int(state["step_count"])
        self._set_state()
