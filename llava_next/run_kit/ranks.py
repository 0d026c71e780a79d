"""Helpers for the ranks of one run; they also work in a single process without a group."""

import atexit
import logging
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

_Value = TypeVar("_Value")


def join_group(use_cpu: bool) -> torch.device:
    """Join the group that a launcher such as torchrun started, and return this rank's device.

    A process without a launcher stays alone.

    Args:
        use_cpu: whether to run on the CPU, with gloo.

    Raises:
        ValueError: if there is no GPU and no ``use_cpu``.
    """
    if not use_cpu and not torch.cuda.is_available():
        raise ValueError("no GPU found; add --use_cpu true to train on the CPU")
    device = torch.device("cpu" if use_cpu else f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        dist.init_process_group("gloo" if use_cpu else "nccl")
    return device


def rank_and_size() -> tuple[int, int]:
    """Return the rank of this process, and the number of ranks."""
    return (dist.get_rank(), dist.get_world_size()) if _several() else (0, 1)


def ranks_of_this_machine() -> int:
    """Return how many ranks share this machine, as the launcher says; 1 without one."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def gather(value: Any) -> list[Any]:
    """Return the values that all ranks passed, in order of rank; every rank must call it."""
    if not _several():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def from_first_rank(make: Callable[[], _Value], max_wait_seconds: float) -> _Value:
    """Return on every rank what ``make`` returns on the first, where alone it is called.

    The others wait in a group of their own, so that the time-out of the run's group does not count.
    Every rank must call this.

    Args:
        make: makes a value that can be pickled.
        max_wait_seconds: time-out of the waiting ranks.

    Raises:
        ValueError: on all ranks, if ``make`` raises ValueError or OSError on the first.
    """
    if not _several():
        return make()
    group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=max_wait_seconds))
    answer: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            answer[0] = make()
        except (ValueError, OSError) as error:
            answer[1] = str(error)
    dist.broadcast_object_list(answer, src=0, group=group)
    dist.destroy_process_group(group)
    if answer[1] is not None:
        raise ValueError(answer[1])
    return answer[0]


def leave() -> None:
    """Leave the process group of a finished run, together with all other ranks.

    Without it, gloo's threads may outlive what they use when the interpreter exits: the process
    then aborts, and its launcher reports the failure of a run that is complete.
    """
    if _several():
        dist.barrier()
        dist.destroy_process_group()


def end_process(code: int) -> NoReturn:
    """End a rank whose run is done, together with all other ranks; alone, exit as usual."""
    if _several():
        dist.barrier()
    give_up(code)


def give_up(code: int) -> NoReturn:
    """End a rank that cannot go on, without the others; alone, exit as usual.

    The interpreter is not torn down: threads of gloo and DeepSpeed may outlive what they use even
    when the group was destroyed. An abort there would make a complete run a failed one, and hide
    the code that says why another one ended.
    """
    if not _several():
        sys.exit(code)
    atexit._run_exitfuncs()  # such as those that end the run of a tracker
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
