"""The processes of one run, as far as they speak with each other; one process is a run too."""

from typing import Any

import torch.distributed as dist


def rank_and_size() -> tuple[int, int]:
    """Number of this process, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if _several() else (0, 1)


def gather(value: Any) -> list[Any]:
    """What every rank gave, in their order; every rank must come here."""
    if not _several():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def leave() -> None:
    """End this process's part in a finished run, together with the others.

    Left to the interpreter's exit, gloo's threads may outlive what they use: the process then
    aborts, and its launcher reports a failure of a run that is complete.
    """
    if _several():
        dist.barrier()
        dist.destroy_process_group()


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
