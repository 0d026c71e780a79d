"""Collectives of the sharded softmax: rows to all ranks with gradients, sums back to their ranks.

They are those of torch, with torch's gradients: the backward pass of a gather is a summing scatter
and the reverse, so that each rank may compute its own part of a loss and the gradient is that of
the sum of all parts. Without a process group they leave their input as it is.

Axis letters: B rows of all ranks, M rows of the fullest rank, W ranks, D width of a row.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import _functional_collectives as functional

# torch 2.12 renamed both; the older names still work there but warn.
_gather: Callable[..., Tensor] = (
    vars(functional).get("all_gather_single_autograd") or functional.all_gather_tensor_autograd
)
_scatter: Callable[..., Tensor] = (
    vars(functional).get("reduce_scatter_single_autograd")
    or functional.reduce_scatter_tensor_autograd
)


def group_rank_and_size(group: Any = None) -> tuple[int, int]:
    """Return the rank of this process in a group (None: all processes) and the group's size."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def gather_counts(counts: list[int], device: torch.device, group: Any = None) -> list[list[int]]:
    """Return the numbers that every rank passed; one list per rank, all of one length."""
    _, size = group_rank_and_size(group)
    if size == 1:
        return [counts]
    own = torch.tensor(counts, dtype=torch.int64, device=device)
    return _gather(own, 0, group or dist.group.WORLD).view(size, -1).tolist()


def gather_rows(rows: Tensor, most_rows: int, fill: float = 0.0, group: Any = None) -> Tensor:
    """Return the rows of all ranks, each rank's padded to the same number.

    Args:
        rows: (own rows, D), at most ``most_rows``.
        most_rows: M, the same on every rank.
        fill: value of the padding.
        group: process group; None for all processes.

    Returns:
        (W * M, D), rank after rank. The gradient of a row is the sum of all ranks' gradients.
    """
    rows = torch.nn.functional.pad(rows, (0, 0, 0, most_rows - rows.shape[0]), value=fill)
    if group_rank_and_size(group)[1] == 1:
        return rows
    return _gather(rows.contiguous(), 0, group or dist.group.WORLD)


def sum_to_owners(rows: Tensor, group: Any = None) -> Tensor:
    """Sum rows over the ranks, and return to each rank the sums of its own.

    Args:
        rows: (W * M, D), laid out as ``gather_rows`` does.
        group: process group; None for all processes.

    Returns:
        (M, D).
    """
    if group_rank_and_size(group)[1] == 1:
        return rows
    return _scatter(rows.contiguous(), "sum", 0, group or dist.group.WORLD)


def max_over_ranks(values: Tensor, group: Any = None) -> Tensor:
    """Return the largest of all ranks' values, element by element, without a gradient."""
    values = values.detach().clone()
    if group_rank_and_size(group)[1] > 1:
        dist.all_reduce(values, dist.ReduceOp.MAX, group=group)
    return values


def sum_over_ranks(values: Tensor, group: Any = None) -> Tensor:
    """Return the sum of all ranks' values, element by element, without a gradient."""
    values = values.detach().clone()
    if group_rank_and_size(group)[1] > 1:
        dist.all_reduce(values, dist.ReduceOp.SUM, group=group)
    return values
