"""One process that does what it is told, and says how it went.

It is spawned, and has a pipe, over which it gets functions by name, each with one task.
"""

import contextlib
import errno
import importlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from cv_reader.errors import CvReaderError

_STOP_SECONDS = 2.0

_SILENT = -8
"""FFmpeg's level ``AV_LOG_QUIET``."""

_FULL = (errno.ENOSPC, errno.EDQUOT)

DISK_FULL = "DiskFull"
"""Kind of a failure after which others will fail alike."""


@dataclass(frozen=True)
class Failure:
    """Why a task has no value.

    Attributes:
        kind: name of the exception, or ``WorkerDied``, ``TimeoutError``, ``MemoryError`` or
            ``DiskFull``.
        reason: its message.
        details: traceback of an exception that nobody expected, else "".
    """

    kind: str
    reason: str
    details: str = ""


class Worker:
    """One process and what it is at.

    Args:
        module: what it imports while nobody asks it for anything; "" = nothing.
    """

    def __init__(self, module: str = "") -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, child = context.Pipe()
        self.process = context.Process(target=_serve, args=(child, module), daemon=True)
        self.process.start()
        child.close()
        self.task_number: int | None = None
        self.deadline = float("inf")
        self.tasks_done = 0

    def memory_bytes(self) -> int:
        """Resident memory; 0 where the system does not tell."""
        try:
            statistics = Path(f"/proc/{self.process.pid}/statm").read_text()
        except OSError:
            return 0
        return int(statistics.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self, *, at_once: bool = False) -> None:
        self.connection.close()
        if self.task_number is None and not at_once:
            self.process.join(_STOP_SECONDS)
        # A polite signal first: it lets the task remove its temporary files.
        for end in (self.process.terminate, self.process.kill):
            if self.process.is_alive():
                end()
                self.process.join(_STOP_SECONDS)

    def bury(self) -> Failure:
        """Why it has ended by itself."""
        self.process.join(_STOP_SECONDS)
        return Failure("WorkerDied", _exit_reason(self.process.exitcode))


_early: list[Worker] = []


@contextlib.contextmanager
def early_worker(module: str) -> Generator[None]:
    """Have a worker ready, as soon as it can be, for the first who asks in this context.

    It imports a module while this process does: both take a third of what a short video takes.
    """
    _early.append(Worker(module))
    try:
        yield
    finally:
        while _early:
            _early.pop().stop(at_once=True)


def new_worker() -> Worker:
    """The one that is ready, or a fresh one."""
    while _early:
        if (worker := _early.pop()).process.is_alive():
            return worker
    return Worker()


def _exit_reason(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = "; out of memory?" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended by itself with exit code {code}"


def _serve(connection: Connection, module: str) -> None:
    """The worker's side: one task after the other until the pipe closes."""
    # Ctrl-C reaches the whole group; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    prepare_process()
    if module:
        importlib.import_module(module)
    with contextlib.suppress(EOFError, OSError):
        while True:
            function, task = connection.recv()
            connection.send(("started", None))
            connection.send(attempt(function, task))
    # Whoever waits for the end need not wait for the interpreter to be taken to pieces.
    os._exit(0)


def prepare_process() -> None:
    """Make a worker process of any engine safe for videos; call it before the first task.

    PyAV has FFmpeg log through Python, from FFmpeg's own threads too. Such a thread then waits for
    the interpreter's lock, and deadlocks with a Python thread that holds the lock and waits for
    FFmpeg. FFmpeg's own callback needs no lock. What FFmpeg would print is dropped, as PyAV drops
    it: errors reach the caller as exceptions.
    """
    from av import logging as av_logging  # here: the parent starts workers before heavy imports

    av_logging.restore_default_callback()
    av_logging.set_libav_level(_SILENT)


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def attempt(function: Callable[[Any], Any], task: Any) -> tuple[str, Any]:
    """``("value", what function gives)`` or ``("failure", why it gave nothing)``."""
    try:
        return "value", function(task)
    except CvReaderError as error:
        return "failure", Failure(type(error).__name__, str(error))
    except Exception as error:  # noqa: BLE001 - the one place: it is reported, with its traceback
        if isinstance(error, OSError) and error.errno in _FULL:
            return "failure", Failure(DISK_FULL, str(error))
        reason = f"{type(error).__name__}: {error}"
        return "failure", Failure(type(error).__name__, reason, traceback.format_exc())
