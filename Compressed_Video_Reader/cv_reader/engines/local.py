"""Tasks in processes of their own: a crash, a hang or an exception costs one task and no more.

Each worker is a spawned process with a pipe. It gets one task at a time; a worker that dies or runs
over its time or memory is replaced, and its task tried once more. Memory is what is resident, read
a few times a second (Linux). Outcomes come in the order of the tasks, with bounded look-ahead, so
that neither tasks nor outcomes pile up in memory.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Generic, TypeVar

from cv_reader.engines.worker_process import Failure, Worker, new_worker

_LOOK_AHEAD_TASKS = 256
_START_SECONDS = 120.0
_LOOK_SECONDS = 0.2
_BYTES_PER_MIB = 1 << 20

T = TypeVar("T")
V = TypeVar("V")


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


class _Pool(Generic[T, V]):
    def __init__(self, function: Callable[[T], V], num_workers: int, limits: _Limits) -> None:
        self._function, self._num_workers, self._limits = function, num_workers, limits
        self._timeout_seconds = limits.seconds or float("inf")
        self._tasks_per_worker = limits.tasks or sys.maxsize
        self._workers: list[Worker] = []
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
            worker.connection.send((self._function, self._tasks[number]))
        except OSError:
            self._bury(worker)
        else:
            # Importing a fresh worker's modules is not the task's fault.
            worker.deadline = time.monotonic() + _START_SECONDS + self._timeout_seconds

    def _idle_worker(self) -> Worker:
        for worker in list(self._workers):
            if worker.task_number is None:
                if worker.process.is_alive() and worker.tasks_done < self._tasks_per_worker:
                    return worker
                self._discard(worker)
        worker = new_worker()
        self._workers.append(worker)
        return worker

    def _discard(self, worker: Worker, *, at_once: bool = False) -> None:
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

    def _excess(self, worker: Worker) -> Failure | None:
        if time.monotonic() >= worker.deadline:
            reason = f"took longer than {self._timeout_seconds:g} s (--timeout_seconds)"
            return Failure("TimeoutError", reason)
        limit = self._limits.memory_bytes
        if limit and worker.memory_bytes() > limit:
            reason = f"used more than {limit // _BYTES_PER_MIB} MiB (--memory_limit_mib)"
            return Failure("MemoryError", reason)
        return None

    def _receive(self, worker: Worker) -> None:
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

    def _bury(self, worker: Worker) -> None:
        self._lose(worker, worker.bury())

    def _lose(self, worker: Worker, failure: Failure) -> None:
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

    def _finish(self, worker: Worker, value: V | None, failure: Failure | None) -> None:
        number = worker.task_number
        assert number is not None
        self._outcomes[number] = Outcome(self._tasks.pop(number), value, failure)
        worker.task_number = None
        worker.tasks_done += 1
