"""Run tasks in processes of this machine.

Each worker is a spawned process with a pipe and gets one task at a time. A worker that dies, or
exceeds its time or memory, is replaced, and its task is tried once more. Resident memory is read
a few times a second (Linux). Outcomes come in the order of the tasks, with bounded look-ahead, so
that neither tasks nor outcomes pile up in memory.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.connection import wait
from typing import Generic, TypeVar

from cv_reader.engines.tasks import UNSENDABLE, Failure, Limits, Settled, TaskOutcome
from cv_reader.engines.worker_process import Worker, new_worker, stop_workers

_LOOK_AHEAD_TASKS = 256
_START_SECONDS = 120.0
_LOOK_SECONDS = 0.2
_BYTES_PER_MIB = 1 << 20

T = TypeVar("T")
V = TypeVar("V")


def run_tasks(
    function: Callable[[T], V], tasks: Iterable[T | Settled], limits: Limits
) -> Generator[TaskOutcome[T, V], None, None]:
    """Run ``function`` on every task in worker processes.

    Args:
        function: importable by name; it, tasks and values can be pickled.
        tasks: consumed lazily; settled ones are passed on.
        limits: resources of the run.

    Yields:
        One outcome per task, in the order of the tasks.
    """
    pool: WorkerPool[T, V] = WorkerPool(function, limits)
    try:
        yield from pool.run(tasks)
    finally:
        pool.stop()


class WorkerPool(Generic[T, V]):
    """Worker processes that serve several runs of one function, until they are stopped.

    Args:
        function: as for ``run_tasks``.
        limits: resources of the runs.
        ends_with_parent: the system ends a worker with this process, however this process ends.
    """

    def __init__(
        self, function: Callable[[T], V], limits: Limits, *, ends_with_parent: bool = False
    ) -> None:
        self._ends_with_parent = ends_with_parent
        self._function, self._num_workers = function, max(limits.num_workers, 1)
        self._timeout_seconds = limits.timeout_seconds or float("inf")
        self._memory_bytes = limits.memory_mib * _BYTES_PER_MIB
        self._tasks_per_worker = limits.tasks_per_worker or sys.maxsize
        self._workers: list[Worker] = []
        self._tasks: dict[int, T] = {}
        self._outcomes: dict[int, TaskOutcome[T, V]] = {}
        self._again: deque[int] = deque()
        self._tried: set[int] = set()
        self._num_taken = 0

    def run(self, tasks: Iterable[T | Settled]) -> Iterator[TaskOutcome[T, V]]:
        """Yield the outcome of every task, in their order; an earlier run must have ended."""
        self._tried.clear()
        numbered = enumerate(tasks)
        self._num_taken = emitted = 0
        while True:
            self._hand_out(numbered, emitted)
            if not self._tasks and not self._outcomes:
                return
            if emitted not in self._outcomes:
                self._collect()
            while emitted in self._outcomes:
                yield self._outcomes.pop(emitted)
                emitted += 1

    def stop(self) -> None:
        """End the worker processes."""
        stop_workers(self._workers)
        self._workers.clear()

    def _hand_out(self, numbered: Iterator[tuple[int, T | Settled]], emitted: int) -> None:
        while self._again:
            self._give(self._again.popleft())
        ahead = max(_LOOK_AHEAD_TASKS, 2 * self._num_workers)
        while len(self._tasks) < self._num_workers and self._num_taken < emitted + ahead:
            upcoming = next(numbered, None)
            if upcoming is None:
                return
            number, task = upcoming
            self._num_taken += 1
            if isinstance(task, Settled):
                self._outcomes[number] = task.outcome
                continue
            self._tasks[number] = task
            self._give(number)

    def _give(self, number: int) -> None:
        worker = self._idle_worker()
        worker.task_number = number
        try:
            worker.connection.send((self._function, self._tasks[number], self._memory_bytes))
        except OSError:
            self._replace_dead(worker)
        except UNSENDABLE as error:
            # It cannot be pickled; nothing was sent.
            reason = f"cannot be sent to a worker: {type(error).__name__}: {error}"
            self._finish(worker, None, Failure(type(error).__name__, reason))
        else:
            # A fresh worker imports its modules first; that time is not the task's.
            worker.deadline = time.monotonic() + _START_SECONDS + self._timeout_seconds

    def _idle_worker(self) -> Worker:
        for worker in list(self._workers):
            if worker.task_number is None:
                if worker.process.is_alive() and worker.tasks_done < self._tasks_per_worker:
                    return worker
                self._discard(worker)
        worker = new_worker(ends_with_parent=self._ends_with_parent)
        self._workers.append(worker)
        return worker

    def _discard(self, worker: Worker, *, at_once: bool = False) -> None:
        self._workers.remove(worker)
        stop_workers([worker], at_once=at_once)

    def _collect(self) -> None:
        busy = {w.connection: w for w in self._workers if w.task_number is not None}
        if not busy:
            return
        left = max(min(worker.deadline for worker in busy.values()) - time.monotonic(), 0)
        if self._memory_bytes:
            left = min(left, _LOOK_SECONDS)
        for connection in wait(list(busy), None if left == float("inf") else left):
            self._receive(busy[connection])  # pyright: ignore[reportArgumentType]
        for worker in busy.values():
            excess = None if worker.task_number is None else self._excess(worker)
            if excess is not None:
                self._replace(worker, excess)

    def _excess(self, worker: Worker) -> Failure | None:
        if time.monotonic() >= worker.deadline:
            reason = f"took longer than {self._timeout_seconds:g} s (--timeout_seconds)"
            return Failure("TimeoutError", reason)
        limit = self._memory_bytes
        if limit and worker.memory_bytes() > limit:
            reason = f"used more than {limit // _BYTES_PER_MIB} MiB (--memory_limit_mib)"
            return Failure("MemoryError", reason)
        return None

    def _receive(self, worker: Worker) -> None:
        try:
            kind, content = worker.connection.recv()
        except (EOFError, OSError):
            self._replace_dead(worker)
            return
        if kind == "started":
            worker.deadline = time.monotonic() + self._timeout_seconds
        elif kind == "value":
            self._finish(worker, content, None)
        else:
            self._finish(worker, None, content)
            if content.kind == "MemoryError":
                self._discard(worker)

    def _replace_dead(self, worker: Worker) -> None:
        self._replace(worker, worker.failure_of_exit())

    def _replace(self, worker: Worker, failure: Failure) -> None:
        """End a worker; its task is tried once more, as the fault may be the machine's."""
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
        self._outcomes[number] = TaskOutcome(self._tasks.pop(number), value, failure)
        worker.task_number = None
        worker.tasks_done += 1
