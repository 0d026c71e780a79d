"""Learning rates as closed forms of the step, by name.

The published training multiplies each step's rate by (1 + f^2) / 2, f = (t - l) / (t - l + 1) at
step l of t. It asks for a decay of power 2, but this recursion falls almost linearly; a resumed
run used the quadratic closed form instead, so that its rate jumped. Here ``linear`` is the shape of
the recursion and ``quadratic`` is the power that was asked for; both resume where they were.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

SCHEDULES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "linear": lambda left: left,
        "quadratic": lambda left: left**2,
        "cosine": lambda left: 0.5 - 0.5 * math.cos(math.pi * left),
        "constant": lambda left: 1.0,
    }
)
"""Name to the factor of the rate where ``left`` in (0, 1] of the steps after warm-up remain."""


def rate_factor(name: str, step: int, *, num_steps: int, warmup_steps: int) -> float:
    """Return the factor of the learning rate at a step.

    Args:
        name: one of ``SCHEDULES``.
        step: 0 for the first.
        num_steps: steps of the whole run.
        warmup_steps: steps in which the factor rises to 1 in equal parts.

    Returns:
        A number in (0, 1]; 0 after the last step.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    left = (num_steps - step) / max(num_steps - warmup_steps, 1)
    return SCHEDULES[name](left) if left > 0 else 0.0
