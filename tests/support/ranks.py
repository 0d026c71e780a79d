"""Training runs on several ranks with gloo, as subprocesses on the CPU."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from support.paths import ROOT

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def launcher(ranks: int, module: str = "llava.train.train") -> list[str]:
    """Return the command that starts training on several ranks of one machine."""
    options = ["--standalone", "--nproc_per_node", str(ranks)]
    return [sys.executable, "-m", "torch.distributed.run", *options, "-m", module]


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    """Start a run; its standard error is kept."""
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def finish(command: Sequence[str], code: int = 0) -> str:
    """Run to the end, check the exit code, and return standard error."""
    process = start(command)
    errors = process.communicate()[1]
    assert process.returncode == code, errors[-3000:]
    return errors


def wait_for(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """Wait for a state of a run that must not end before."""
    while not reached():
        assert process.poll() is None, "the run ended before it could be disturbed"
        time.sleep(0.002)


def end_all(process: subprocess.Popen[str]) -> None:
    """Kill launcher and ranks at once; the ranks are in sessions of their own."""
    for pid in (process.pid, *workers(process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def workers(launcher: int) -> list[int]:
    """Return the processes that a process has started."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if parent_of(pid) == launcher]


def parent_of(pid: int) -> int | None:
    """Return the parent of a process; None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


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
