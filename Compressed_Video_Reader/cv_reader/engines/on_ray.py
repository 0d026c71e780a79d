"""Run tasks on a Ray cluster, or on a Ray that is started on this machine for the run.

One Ray task is one task of the command. Ray's worker processes only forward it: each keeps one
worker process of its own (``local.WorkerPool``) with the limits of time and memory, so that a
crash, a hang or a bomb costs one task, as on one machine. A Ray worker or a node that is lost costs
nothing: its tasks are tried on another one. The driver holds no state that is not on disk, so that
it can be killed and started again.

Ray is an extra: nothing else imports it, and this module only when it is used.
"""

import contextlib
import importlib
import importlib.util
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cv_reader.engines.local import WorkerPool
from cv_reader.engines.tasks import UNSENDABLE, Failure, Limits, Settled, TaskOutcome
from cv_reader.errors import SettingsError
from cv_reader.exits import say

T = TypeVar("T")
V = TypeVar("V")
Versions = Mapping[str, str]

DEFAULT_PORT = 6379
_PIP_LINE = "pip install -e '.[ray]'"
_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 120.0
_START_TRIES = 4
_LOOK_AHEAD_TASKS = 4096
_MAX_TRIES = 10
"""Ray workers or nodes that may be lost under one task before it counts as failed."""
_BYTES_PER_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class RayChoice:
    """Where tasks run, and what Ray reserves for each.

    Attributes:
        address: ``auto`` = the cluster that this machine is a node of; ``local`` = a Ray of this
            machine, started for the run; else ``HOST`` or ``HOST:PORT`` of the head node.
        task_cpus: CPUs that one task takes of its node.
        task_memory_mib: memory that one task takes of its node; 0 = none is reserved.
        versions: names of what decides over bytes to their versions; a function that can be
            imported by name, which is called here and on every node.
        shared: files and folders that every node must see.
    """

    address: str = "auto"
    task_cpus: float = 1.0
    task_memory_mib: int = 0
    versions: Callable[[], Versions]
    shared: Sequence[Path] = ()


def check_ray(address: str) -> None:
    """Refuse a run that cannot reach Ray, before it looks at its data.

    Raises:
        SettingsError: Ray is not installed, or nothing answers at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise SettingsError(f"--engine ray needs the extra package ray; {_PIP_LINE}")
    if address.startswith("ray://"):
        raise SettingsError(
            f"--address {address}: Ray Client is not supported; start the command on a node of the "
            "cluster with --address auto, or name HOST:PORT of the head node"
        )
    if address in ("auto", "local"):
        return
    host, port = _host_and_port(address)
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise SettingsError(
            f"--address {address}: nothing answers at {host}:{port} ({error}); start the head node "
            f"with `ray start --head --port={port}`, or correct the address"
        ) from error


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon:
        return address, DEFAULT_PORT
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise SettingsError(f"--address must be auto, local, HOST or HOST:PORT, got {address!r}")
    return host, int(port)


def run_tasks(
    function: Callable[[T], V],
    tasks: Iterable[T | Settled],
    limits: Limits,
    choice: RayChoice,
) -> Generator[TaskOutcome[T, V], None, None]:
    """Run ``function`` on every task on the nodes of a cluster.

    Args:
        function: importable by name on every node; it, tasks and values can be pickled.
        tasks: consumed lazily; settled ones are passed on.
        limits: resources of the run; ``num_workers`` is the number of tasks at a time on all nodes.
        choice: the cluster.

    Yields:
        One outcome per task, in the order of the tasks.

    Raises:
        SettingsError: The cluster is not there, or a node has other versions or does not see the
            files.
    """
    check_ray(choice.address)
    ray: Any = importlib.import_module("ray")
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    _connect(ray, choice, limits)
    try:
        # Ray replaces the handler that ends a command in order.
        for number, handler in handlers.items():
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)
        _check_nodes(ray, choice)
        yield from _Driver(ray, function, limits, choice).run(tasks)
    finally:
        ray.shutdown()


def _connect(ray: Any, choice: RayChoice, limits: Limits) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    try:
        if choice.address == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            cpus = max(limits.num_workers, 1) * choice.task_cpus
            own = {"num_cpus": -int(-cpus // 1), "include_dashboard": False, **quiet}
            _start(ray, own)
        elif choice.address == "auto":
            ray.init(address="auto", **quiet)
        else:
            host, port = _host_and_port(choice.address)
            ray.init(address=f"{host}:{port}", **quiet)
    # Ray raises RuntimeError, ConnectionError, ValueError and others of its own for a cluster that
    # is missing, ends, or has another version.
    except Exception as error:  # noqa: BLE001
        raise SettingsError(
            f"--address {choice.address}: cannot join the Ray cluster: {error}; start it with `ray "
            "start --head`, or use the versions of Ray and Python that it has"
        ) from error


def _start(ray: Any, settings: Mapping[str, Any]) -> None:
    """Start a Ray of this machine; its 30 s for that may be too few where others work, too."""
    for tries_left in reversed(range(_START_TRIES)):
        try:
            ray.init(address="local", **settings)
        except Exception as error:
            ray.shutdown()
            if not tries_left or "timed out during startup" not in str(error):
                raise
        else:
            return


def _check_nodes(ray: Any, choice: RayChoice) -> None:
    """Refuse nodes that would make other bytes, or would not find the data."""
    expected = dict(choice.versions())
    paths = [str(path.absolute()) for path in choice.shared]
    strategies: Any = importlib.import_module("ray.util.scheduling_strategies")
    at: Any = strategies.NodeAffinitySchedulingStrategy
    nodes = [node for node in ray.nodes() if node["Alive"]]
    probe = ray.remote(_new_probe())
    asked = {
        probe.options(
            num_cpus=0, max_retries=3, scheduling_strategy=at(node["NodeID"], soft=False)
        ).remote(choice.versions.__module__, choice.versions.__name__, paths): node
        for node in nodes
    }
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE_SECONDS)
    for ref in late:
        raise SettingsError(
            f"node {asked[ref]['NodeManagerAddress']} did not answer in {_PROBE_SECONDS:g} s; "
            "remove it from the cluster, or look at `ray status`"
        )
    for ref in ready:
        name = f"node {asked[ref]['NodeManagerAddress']}"
        try:
            found, missing = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            raise SettingsError(
                f"{name}: cv_reader cannot be imported ({error.cause}); install the same version "
                "there"
            ) from error
        except ray.exceptions.RayError:
            continue  # The node has been lost meanwhile.
        refuse_versions(name, expected, found)
        if missing:
            raise SettingsError(
                f"{name} does not see {missing[0]}; nodes need the data and the output at the same "
                "path, on a file system that they share"
            )
    resources = [node["Resources"] for node in nodes]
    memory = choice.task_memory_mib * _BYTES_PER_MIB
    if not any(
        r.get("CPU", 0) >= choice.task_cpus and r.get("memory", 0) >= memory for r in resources
    ):
        say(
            f"ray: no node has {choice.task_cpus:g} CPUs and {choice.task_memory_mib} MiB for one "
            "task (--task_cpus, --task_memory_mib) at present; waiting for the cluster to grow"
        )


def refuse_versions(name: str, expected: Versions, found: Versions) -> None:
    """Refuse a machine whose versions differ from those of the machine that started the run.

    Raises:
        SettingsError: naming the first difference.
    """
    for key, version in expected.items():
        if found.get(key) != version:
            raise SettingsError(
                f"{name} has {key} {found.get(key, 'missing')} where this machine has {version}; "
                "results would differ: install the same versions on all nodes"
            )


def _new_probe() -> Callable[..., Any]:
    """Return what a node answers with; Ray sends the code, as cv_reader may be missing there."""

    def probe(module: str, name: str, paths: list[str]) -> tuple[dict[str, str], list[str]]:
        import importlib
        import os

        found = dict(getattr(importlib.import_module(module), name)())
        return found, [path for path in paths if not os.path.exists(path)]

    return probe


class _Driver:
    """Hands tasks to Ray and puts their outcomes in order.

    Args:
        ray: the module, connected.
        function: what runs on each task.
        limits: see ``run_tasks``.
        choice: see ``run_tasks``.
    """

    def __init__(
        self, ray: Any, function: Callable[[Any], Any], limits: Limits, choice: RayChoice
    ) -> None:
        self._ray, self._at_once = ray, max(limits.num_workers, 1)
        settings: dict[str, Any] = {"num_cpus": choice.task_cpus, "max_retries": 0}
        if choice.task_memory_mib:
            settings["memory"] = choice.task_memory_mib * _BYTES_PER_MIB
        self._remote = ray.remote(_run_one).options(**settings)
        work = pickle.dumps((function, limits, os.getcwd(), choice.versions))
        self._work = ray.put((work, dict(choice.versions())))
        self._tasks: dict[int, Any] = {}
        self._running: dict[Any, int] = {}
        self._outcomes: dict[int, TaskOutcome[Any, Any]] = {}
        self._tries: dict[int, int] = {}

    def run(self, tasks: Iterable[Any]) -> Iterator[TaskOutcome[Any, Any]]:
        numbered = enumerate(tasks)
        taken = emitted = 0
        ahead = max(_LOOK_AHEAD_TASKS, 2 * self._at_once)
        while True:
            while len(self._running) < self._at_once and taken < emitted + ahead:
                upcoming = next(numbered, None)
                if upcoming is None:
                    break
                number, task = upcoming
                taken += 1
                if isinstance(task, Settled):
                    self._outcomes[number] = task.outcome
                    continue
                self._tasks[number] = task
                self._submit(number)
            if not self._running and not self._outcomes:
                return
            if emitted not in self._outcomes:
                self._collect()
            while emitted in self._outcomes:
                yield self._outcomes.pop(emitted)
                emitted += 1

    def _submit(self, number: int) -> None:
        try:
            content = pickle.dumps(self._tasks[number])
        except UNSENDABLE as error:
            reason = f"cannot be sent to a worker: {type(error).__name__}: {error}"
            self._finish(number, None, Failure(type(error).__name__, reason))
            return
        self._running[self._remote.remote(self._work, content)] = number

    def _collect(self) -> None:
        if not self._running:
            return
        ray, running = self._ray, list(self._running)
        ready, _ = ray.wait(running, num_returns=1)
        if len(running) > 1:
            ready, _ = ray.wait(running, num_returns=len(running), timeout=0)
        for ref in ready:
            number = self._running.pop(ref)
            try:
                value, failure = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, SettingsError):
                    raise error.cause from error
                reason = f"{type(error.cause).__name__}: {error.cause}"
                self._finish(number, None, Failure(type(error.cause).__name__, reason, str(error)))
            except ray.exceptions.RayError as error:
                self._try_again(number, error)
            else:
                self._finish(number, value, failure)

    def _try_again(self, number: int, error: Exception) -> None:
        """Submit a task whose Ray worker or node was lost; it is no fault of the task at first."""
        tries = self._tries[number] = self._tries.get(number, 0) + 1
        if tries < _MAX_TRIES:
            self._submit(number)
            return
        lines = str(error).strip().splitlines() or [""]
        reason = f"its Ray worker or node was lost {tries} times; the last: {lines[0]}"
        self._finish(number, None, Failure("WorkerDied", reason))

    def _finish(self, number: int, value: Any, failure: Failure | None) -> None:
        self._tries.pop(number, None)
        self._outcomes[number] = TaskOutcome(self._tasks.pop(number), value, failure)


_pools: dict[bytes, WorkerPool[Any, Any]] = {}
"""In a Ray worker: the pool of the run that it works for, by the run's pickled work."""


def _run_one(work: tuple[bytes, dict[str, str]], content: bytes) -> tuple[Any, Failure | None]:
    """Run one task in a Ray worker's own child process; returns value and failure."""
    if work[0] not in _pools:
        _start_pool(*work)
    (outcome,) = _pools[work[0]].run([pickle.loads(content)])
    return outcome.value, outcome.failure


def _start_pool(work: bytes, expected: dict[str, str]) -> None:
    function, limits, folder, versions = pickle.loads(work)
    # A node that joined after the start of the run.
    refuse_versions(f"node {socket.gethostname()}", expected, versions())
    os.chdir(folder)
    # A child process would import Ray's worker, whose main module this is.
    vars(sys.modules["__main__"]).pop("__file__", None)
    one = Limits(
        num_workers=1,
        timeout_seconds=limits.timeout_seconds,
        memory_mib=limits.memory_mib,
        tasks_per_worker=limits.tasks_per_worker,
    )
    _pools[work] = WorkerPool(function, one, ends_with_parent=True)
