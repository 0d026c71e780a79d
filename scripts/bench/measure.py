"""Time, processor time and peak memory of a piece of work, in a process of its own."""

import contextlib
import ctypes
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER = 36
_ORPHAN_SECONDS = 10.0


class Measured(NamedTuple):
    """What a piece of work took.

    Attributes:
        wall_seconds: time that passed.
        cpu_seconds: user and system time, children that have ended included, and what they left.
        peak_rss_bytes: largest resident memory of any one process.
        read_bytes: bytes read by system calls, from files and pipes, children included.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    read_bytes: int


def measure(work: Sequence[str] | Callable[[], object]) -> Measured:
    """Measure a command line from start to end, or a picklable callable without the start.

    Raises:
        RuntimeError: the work failed.
    """
    call: Callable[[], object] = work if callable(work) else _Command(tuple(map(str, work)))
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(call, sender))
    process.start()
    sender.close()
    try:
        measured: Measured = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{work} failed with exit code {process.exitcode}") from None
    process.join()
    return measured


class _Command:
    """A command line as a callable."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self.arguments = arguments

    def __call__(self) -> None:
        # Daemons that the command leaves become children of this process, and count.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        subprocess.run(self.arguments, check=True, stdout=sys.stderr)
        end = time.monotonic() + _ORPHAN_SECONDS
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < end:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.05)


def _child(call: Callable[[], object], sender: Connection) -> None:
    read, cpu, wall = _read_bytes(), _cpu_seconds(), time.perf_counter()
    call()
    wall, cpu, read = time.perf_counter() - wall, _cpu_seconds() - cpu, _read_bytes() - read
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    sender.send(Measured(wall, cpu, max(memory_bytes("VmHWM"), children), read))


def memory_bytes(name: str) -> int:
    """Return the memory of this process.

    Args:
        name: ``VmRSS``, what is resident now, or ``VmHWM``, the most so far. ``getrusage`` would
            count the memory of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _read_bytes() -> int:
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))


def _cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
