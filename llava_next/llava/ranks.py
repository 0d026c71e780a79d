"""Helpers for the ranks of one run; they also work in a single process without a group."""

from typing import Any

import torch.distributed as dist


def rank_and_size() -> tuple[int, int]:
    """Return the rank of this process, and the number of ranks."""
    return (dist.get_rank(), dist.get_world_size()) if _several() else (0, 1)


def gather(value: Any) -> list[Any]:
    """Return the values that all ranks passed, in order of rank; every rank must call it."""
    if not _several():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def leave() -> None:
    """Leave the process group of a finished run, together with all other ranks.

    Without it, gloo's threads may outlive what they use when the interpreter exits: the process
    then aborts, and its launcher reports the failure of a run that is complete.
    """
    if _several():
        dist.barrier()
        dist.destroy_process_group()


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
