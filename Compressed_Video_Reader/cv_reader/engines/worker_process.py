"""A worker process that runs tasks sent over a pipe, and reports their outcomes.

It is spawned, and gets functions by name, each with one task.
"""

import contextlib
import ctypes
import gc
import importlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from types import FrameType

from cv_reader.engines.tasks import Failure, attempt
from cv_reader.exits import plain_warnings

_STOP_SECONDS = 2.0
_ADDRESS_SPACE_FACTOR = 2

_SILENT = -8
"""FFmpeg's level ``AV_LOG_QUIET``."""

_PR_SET_PDEATHSIG = 1
"""Linux's ``prctl``: the signal that this process gets when its parent ends."""

_GROUP_SIGNALS = (signal.SIGINT, signal.SIGHUP)
"""Signals that a terminal sends to all processes; only the parent decides what they mean."""


class Worker:
    """One process and the task that it works on.

    Args:
        module: module that it imports before its first task; "" = none.
        ends_with_parent: the system ends it with the thread that starts it (Linux), even in the
            middle of a task. Otherwise it ends after its task.
    """

    def __init__(self, module: str = "", *, ends_with_parent: bool = False) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, child = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(child, module, ends_with_parent), daemon=True
        )
        # The process inherits the mask, so that Ctrl-C cannot meet its start either. The library's
        # tracker would be started with the first process, and unblocks SIGINT when it is.
        ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        child.close()
        self.task_number: int | None = None
        self.deadline = float("inf")
        self.tasks_done = 0

    def memory_bytes(self) -> int:
        """Return its resident memory; 0 where the system does not tell."""
        return _memory_bytes(self.process.pid, 1)

    def failure_of_exit(self) -> Failure:
        """Return why the process ended by itself."""
        self.process.join(_STOP_SECONDS)
        return Failure("WorkerDied", _exit_reason(self.process.exitcode))


def stop_workers(workers: Sequence[Worker], *, at_once: bool = False) -> None:
    """End processes together: idle ones by themselves, others by a signal, then by force."""
    for worker in workers:
        worker.connection.close()
    if not at_once:
        _join([worker for worker in workers if worker.task_number is None])
    # SIGTERM first: it lets a task remove its temporary files.
    for worker in workers:
        worker.process.terminate()
    _join(workers)
    for worker in workers:
        worker.process.kill()
    _join(workers)


def _join(workers: Sequence[Worker]) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    for worker in workers:
        worker.process.join(max(deadline - time.monotonic(), 0))


_early: list[Worker] = []


@contextlib.contextmanager
def early_worker(module: str) -> Generator[None]:
    """Start a worker now, for the first task that is run in this context.

    It imports a module while this process does: both take a third of what a short video takes.
    """
    _early.append(Worker(module))
    try:
        yield
    finally:
        stop_workers(_early, at_once=True)
        _early.clear()


def new_worker(*, ends_with_parent: bool = False) -> Worker:
    """Return the worker that was started early, or a new one."""
    while _early and not ends_with_parent:
        if (worker := _early.pop()).process.is_alive():
            return worker
    return Worker(ends_with_parent=ends_with_parent)


def _memory_bytes(pid: int | str | None, field: int) -> int:
    try:
        statistics = Path(f"/proc/{pid}/statm").read_text()
    except OSError:
        return 0
    return int(statistics.split()[field]) * os.sysconf("SC_PAGE_SIZE")


def _limit_memory(limit_bytes: int) -> None:
    """Set the hard limit of this process; nothing where the system has none.

    The worker sets it itself, before its first task, for which its modules are imported by then: a
    limit that the parent sets may come after the task has taken all memory.
    """
    if not hasattr(resource, "RLIMIT_AS"):
        return
    most = _memory_bytes("self", 0) + _ADDRESS_SPACE_FACTOR * limit_bytes
    # An administrator may have set a lower limit.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _exit_reason(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = "; out of memory?" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended by itself with exit code {code}"


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent ends; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _serve(connection: Connection, module: str, ends_with_parent: bool) -> None:
    """Run one task after the other in the worker, until the pipe closes."""
    if ends_with_parent:
        _end_with_parent()
    for number in _GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    # Imports make many objects and no garbage: looking for some takes a tenth of the start.
    gc.disable()
    prepare_process()
    if module:
        importlib.import_module(module)
    gc.freeze()
    gc.enable()
    is_limited = False
    with contextlib.suppress(EOFError, OSError), plain_warnings():
        while True:
            function, task, limit_bytes = connection.recv()
            if limit_bytes and not is_limited:
                is_limited = True
                _limit_memory(limit_bytes)
            connection.send(("started", None))
            connection.send(attempt(function, task))
    # Skip the interpreter's shutdown; nothing needs it.
    os._exit(0)


def prepare_process() -> None:
    """Make a worker process of any engine safe for videos; call it before the first task.

    PyAV has FFmpeg log through Python, from FFmpeg's own threads too. Such a thread then waits for
    the interpreter's lock, and deadlocks with a Python thread that holds the lock and waits for
    FFmpeg. FFmpeg's own callback needs no lock. What FFmpeg would print is dropped, as PyAV drops
    it: errors reach the caller as exceptions.
    """
    # Imported here: the command starts its first worker before it imports anything large.
    from av import logging as av_logging

    av_logging.restore_default_callback()
    av_logging.set_libav_level(_SILENT)


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
