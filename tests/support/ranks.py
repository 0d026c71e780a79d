"""Training runs on several ranks with gloo, as subprocesses on the CPU."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

from support.paths import ROOT

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def launcher(ranks: int) -> list[str]:
    """Return the command that starts training on several ranks of one machine."""
    options = ["--standalone", "--nproc_per_node", str(ranks)]
    return [sys.executable, "-m", "torch.distributed.run", *options, "-m", "llava.train.train"]


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    """Start a run; its standard error is kept."""
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def finish(command: Sequence[str], code: int = 0) -> str:
    """Run to the end, check the exit code, and return standard error."""
    process = start(command)
    errors = process.communicate()[1]
    assert process.returncode == code, errors[-3000:]
    return errors


def finish_machines(arguments: Sequence[Sequence[str]], seconds: float = 240) -> list[str]:
    """Run one rank on each of several machines, played by launchers of their own.

    Returns:
        Of each machine the exit code and standard error, as one text.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    common = ["--nproc_per_node", "1", "--nnodes", str(len(arguments))]
    common += ["--master_addr", "127.0.0.1", "--master_port", str(port)]
    started = [
        start(
            [sys.executable, "-m", "torch.distributed.run", *common, "--node_rank", str(number)]
            + ["-m", "llava.train.train", *flags]
        )
        for number, flags in enumerate(arguments)
    ]
    try:
        errors = [process.communicate(timeout=seconds)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        f"code {process.returncode}\n{text}" for process, text in zip(started, errors, strict=True)
    ]
