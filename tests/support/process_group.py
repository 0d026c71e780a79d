"""Functions on several ranks of a gloo group, each rank a process of its own.

The processes are forked from a server that has imported torch once, so that a group costs little.
"""

import contextlib
import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path
from queue import Empty
from typing import Any

_SECONDS = 240


# The first user of a process starts its server; a server without these would import them per rank.
_PRELOADED = [
    "torch.distributed",
    "transformers.modeling_utils",
    "encoder_training.pretrain.train",
]


def forking_context() -> ForkServerContext:
    """Return the context of processes that are forked with torch imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def on_ranks(function: Callable[..., Any], size: int, *arguments: Any) -> list[Any]:
    """Call ``function(rank, *arguments)`` on every rank of a group, and return what they return.

    Args:
        function: at the top of a module.
        size: number of ranks.
        arguments: as for pickle.

    Raises:
        AssertionError: with the traceback of the first rank that failed.
    """
    context = forking_context()
    with tempfile.TemporaryDirectory() as folder:
        queue = context.Queue()
        processes = [
            context.Process(
                target=_run, args=(queue, function, rank, size, folder, arguments), daemon=True
            )
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        answers: dict[int, Any] = {}
        end = time.monotonic() + _SECONDS
        try:
            while len(answers) < size:
                with contextlib.suppress(Empty):
                    rank, value, error = queue.get(timeout=1)
                    assert error is None, f"rank {rank}: {error}"
                    answers[rank] = pickle.loads(value)
                    continue
                assert not any(process.exitcode for process in processes), "a rank died"
                assert time.monotonic() < end, "the ranks wait for each other"
        finally:
            for process in processes:
                process.join(timeout=5 if len(answers) == size else 0)
                process.kill()
    return [answers[rank] for rank in range(size)]


def _run(
    queue: Any, function: Callable[..., Any], rank: int, size: int, folder: str, arguments: Any
) -> None:
    import torch
    import torch.distributed as dist

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), size)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=_SECONDS)
    )
    try:
        value, error = function(rank, *arguments), None
    except BaseException:  # noqa: BLE001
        value, error = None, traceback.format_exc()
    # As bytes: the queue would share the memory of tensors with a process that ends.
    queue.put((rank, pickle.dumps(value), error))
    queue.close()
    queue.join_thread()
    if error is None and dist.is_initialized():  # the function may have left the group
        dist.barrier()
    os._exit(0)  # what gloo's threads still do must not keep the process
