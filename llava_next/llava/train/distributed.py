"""Start DeepSpeed without a launcher, and DeepSpeed and FSDP on the CPU.

The only module of this package that touches the process's environment.
"""

import os
import socket
import warnings
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from accelerate import DistributedType, PartialState

_MASTER_ADDRESS = "127.0.0.1"


def prepare_deepspeed(use_cpu: bool, *, timeout_seconds: int) -> None:
    """Make ``--deepspeed`` work for this process. Call before any model is loaded.

    A process without a launcher becomes a group of one. On the CPU, the gloo group is started here,
    because ZeRO-3 needs it when it loads a model, and DeepSpeed's shared-memory operator is not
    built, because it needs a compiler.

    Args:
        use_cpu: whether to train on the CPU.
        timeout_seconds: how long a rank waits for the others.

    Raises:
        ValueError: if DeepSpeed is not installed, or there is no GPU and no ``--use_cpu``.
    """
    if find_spec("deepspeed") is None:
        raise ValueError("--deepspeed needs the package deepspeed; pip install '.[train]'")
    if not use_cpu and not torch.cuda.is_available():
        raise ValueError("--deepspeed found no GPU; add --use_cpu to run on the CPU")
    # DeepSpeed calls collectives by names that newer torch renames, once per collective.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if "RANK" not in os.environ:
        os.environ.update(
            RANK="0",
            LOCAL_RANK="0",
            WORLD_SIZE="1",
            MASTER_ADDR=_MASTER_ADDRESS,
            MASTER_PORT=str(_free_port()),
        )
    if use_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported
        import deepspeed

        # By name: the attribute `torch` of deepspeed.comm is torch itself, not this module.
        communication: Any = import_module("deepspeed.comm.torch")
        communication.build_shm_op = lambda: None
        deepspeed.init_distributed(
            dist_backend="gloo", timeout=timedelta(seconds=timeout_seconds), verbose=False
        )


def let_fsdp_run_on_cpu() -> None:
    """Make Accelerate shard a model over ranks without a GPU. Call before its ``Accelerator``.

    It looks for a request for FSDP only where ranks have an accelerator, and ignores it elsewhere.
    What it asks for is the kind of ranks, which is told here as that of GPUs; the device stays.
    """
    state: Any = PartialState()
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((_MASTER_ADDRESS, 0))
        return listener.getsockname()[1]
