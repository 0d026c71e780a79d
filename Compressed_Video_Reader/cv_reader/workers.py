"""Tasks in processes of their own: a crash, a hang or an exception costs one task and no more.

Each worker is a spawned process with a pipe. It gets one task at a time; a worker that dies or runs
over its time or memory is replaced, and its task tried once more. Memory is what is resident, read
a few times a second (Linux). Outcomes come in the order of the tasks, with bounded look-ahead, so
that neither tasks nor outcomes pile up in memory.
"""

import contextlib
import errno
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar

from cv_reader.errors import CvReaderError

_LOOK_AHEAD_TASKS = 256
_START_SECONDS = 120.0
_STOP_SECONDS = 2.0
_LOOK_SECONDS = 0.2
_BYTES_PER_MIB = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)

DISK_FULL = "DiskFull"
"""Kind of a failure after which others will fail alike."""

T = TypeVar("T")
V = TypeVar("V")


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


@dataclass(frozen=True)
class Outcome(Generic[T, V]):
    """A task with either its value or its failure."""

    task: T
    value: V | None
    failure: Failure | None


def run_isolated(
    function: Callable[[T], V],
    tasks: Iterable[T],
    *,
    num_workers: int = 1,
    timeout_seconds: float = 0.0,
    memory_limit_mib: int = 0,
    tasks_per_worker: int = 0,
) -> Generator[Outcome[T, V], None, None]:
    """Run ``function`` on every task in worker processes.

    Args:
        function: importable by name; it and tasks and values can be pickled.
        tasks: consumed lazily.
        num_workers: processes at a time, at least 1.
        timeout_seconds: limit for one task; 0 = none.
        memory_limit_mib: limit for one worker; 0 = none.
        tasks_per_worker: replace a worker after so many tasks; 0 = never.

    Yields:
        One outcome per task, in the order of the tasks.
    """
    limits = _Limits(timeout_seconds, memory_limit_mib * _BYTES_PER_MIB, tasks_per_worker)
    pool: _Pool[T, V] = _Pool(function, max(num_workers, 1), limits)
    try:
        yield from pool.run(tasks)
    finally:
        pool.stop()


@dataclass(frozen=True)
class _Limits:
    """Of one task or worker; 0 = none."""

    seconds: float
    memory_bytes: int
    tasks: int


class _Worker(Generic[T, V]):
    """One process and what it is at."""

    def __init__(self, function: Callable[[T], V]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, child = context.Pipe()
        self.process = context.Process(target=_serve, args=(child, function), daemon=True)
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


class _Pool(Generic[T, V]):
    def __init__(self, function: Callable[[T], V], num_workers: int, limits: _Limits) -> None:
        self._function, self._num_workers, self._limits = function, num_workers, limits
        self._timeout_seconds = limits.seconds or float("inf")
        self._tasks_per_worker = limits.tasks or sys.maxsize
        self._workers: list[_Worker[T, V]] = []
        self._tasks: dict[int, T] = {}
        self._outcomes: dict[int, Outcome[T, V]] = {}
        self._again: deque[int] = deque()
        self._tried: set[int] = set()

    def run(self, tasks: Iterable[T]) -> Iterator[Outcome[T, V]]:
        numbered = enumerate(tasks)
        emitted = 0
        while True:
            self._hand_out(numbered, emitted)
            if not self._tasks and not self._outcomes:
                return
            self._collect()
            while emitted in self._outcomes:
                yield self._outcomes.pop(emitted)
                emitted += 1

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    def _hand_out(self, numbered: Iterator[tuple[int, T]], emitted: int) -> None:
        while self._again:
            self._give(self._again.popleft())
        while len(self._tasks) < self._num_workers:
            if emitted + _LOOK_AHEAD_TASKS <= max(self._outcomes, default=0):
                return
            upcoming = next(numbered, None)
            if upcoming is None:
                return
            number, task = upcoming
            self._tasks[number] = task
            self._give(number)

    def _give(self, number: int) -> None:
        worker = self._idle_worker()
        worker.task_number = number
        try:
            worker.connection.send(self._tasks[number])
        except OSError:
            self._bury(worker)
        else:
            # Importing a fresh worker's modules is not the task's fault.
            worker.deadline = time.monotonic() + _START_SECONDS + self._timeout_seconds

    def _idle_worker(self) -> "_Worker[T, V]":
        for worker in list(self._workers):
            if worker.task_number is None:
                if worker.process.is_alive() and worker.tasks_done < self._tasks_per_worker:
                    return worker
                self._discard(worker)
        worker: _Worker[T, V] = _Worker(self._function)
        self._workers.append(worker)
        return worker

    def _discard(self, worker: "_Worker[T, V]", *, at_once: bool = False) -> None:
        self._workers.remove(worker)
        worker.stop(at_once=at_once)

    def _collect(self) -> None:
        busy = {w.connection: w for w in self._workers if w.task_number is not None}
        if not busy:
            return
        left = max(min(worker.deadline for worker in busy.values()) - time.monotonic(), 0)
        if self._limits.memory_bytes:
            left = min(left, _LOOK_SECONDS)
        for connection in wait(list(busy), None if left == float("inf") else left):
            self._receive(busy[connection])  # pyright: ignore[reportArgumentType]
        for worker in busy.values():
            excess = None if worker.task_number is None else self._excess(worker)
            if excess is not None:
                self._lose(worker, excess)

    def _excess(self, worker: "_Worker[T, V]") -> Failure | None:
        if time.monotonic() >= worker.deadline:
            reason = f"took longer than {self._timeout_seconds:g} s (--timeout_seconds)"
            return Failure("TimeoutError", reason)
        limit = self._limits.memory_bytes
        if limit and worker.memory_bytes() > limit:
            reason = f"used more than {limit // _BYTES_PER_MIB} MiB (--memory_limit_mib)"
            return Failure("MemoryError", reason)
        return None

    def _receive(self, worker: "_Worker[T, V]") -> None:
        try:
            kind, content = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if kind == "started":
            worker.deadline = time.monotonic() + self._timeout_seconds
        elif kind == "value":
            self._finish(worker, content, None)
        else:
            self._finish(worker, None, content)

    def _bury(self, worker: "_Worker[T, V]") -> None:
        worker.process.join(_STOP_SECONDS)
        self._lose(worker, Failure("WorkerDied", _exit_reason(worker.process.exitcode)))

    def _lose(self, worker: "_Worker[T, V]", failure: Failure) -> None:
        """Give up a worker; its task gets a second chance, for the fault may be the machine's."""
        number = worker.task_number
        assert number is not None
        if number in self._tried:
            reason = f"{failure.reason}, twice"
            self._finish(worker, None, Failure(failure.kind, reason))
        else:
            self._tried.add(number)
            self._again.append(number)
            worker.task_number = None
        self._discard(worker, at_once=True)

    def _finish(self, worker: "_Worker[T, V]", value: V | None, failure: Failure | None) -> None:
        number = worker.task_number
        assert number is not None
        self._outcomes[number] = Outcome(self._tasks.pop(number), value, failure)
        worker.task_number = None
        worker.tasks_done += 1


def _exit_reason(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = "; out of memory?" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended by itself with exit code {code}"


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """The worker's side: one task after the other until the pipe closes."""
    # Ctrl-C reaches the whole group; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    with contextlib.suppress(EOFError, OSError):
        while True:
            task = connection.recv()
            connection.send(("started", None))
            connection.send(attempt(function, task))


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
