"""Run tasks as job arrays of Slurm, through a folder that all machines share.

The driver writes the tasks to files of ``chunk_tasks`` tasks each, and submits an array by
``sbatch``: one element runs one file, by the local engine with one worker, and writes its outcomes
as a whole. The driver passes them on in order. An element that ends without outcomes, as the node
was lost or its time was up, is submitted again.

Plain ``sbatch`` and no library: DataTrove's executor runs fixed shards, ends at the first
exception, and keeps no state inside a shard, while a run here resumes by sample.
"""

import os
import pickle
import shlex
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar

from cv_reader.engines import local
from cv_reader.engines.tasks import Failure, Limits, Settled, TaskOutcome
from cv_reader.errors import SettingsError

T = TypeVar("T")
V = TypeVar("V")

_POLL_SECONDS, _ASK_SECONDS = 0.5, 5.0
_MAX_TRIES = 3
_MAX_ARRAY = 1000
"""Elements of one array; Slurm's own limit is 1,001 unless it is configured otherwise."""
_LOST_SECONDS = 30.0
"""How long the outcomes of an element may take to be seen on a network file system."""


@dataclass(frozen=True, kw_only=True)
class SlurmChoice:
    """How jobs are submitted.

    Attributes:
        spool: folder that all machines share.
        sbatch_arguments: further arguments of ``sbatch``, such as ``--partition=cpu``.
        chunk_tasks: tasks of one element.
        task_cpus: CPUs of one element.
        task_memory_mib: memory of one element; 0 = the cluster's default.
        versions: names of what decides over bytes to their versions; importable by name.
    """

    spool: Path
    sbatch_arguments: str = ""
    chunk_tasks: int = 100
    task_cpus: float = 1.0
    task_memory_mib: int = 0
    versions: Callable[[], Mapping[str, str]]


def check_slurm() -> None:
    """Refuse a run that cannot submit jobs.

    Raises:
        SettingsError: a program of Slurm is not installed.
    """
    for name in ("sbatch", "squeue", "scancel"):
        if shutil.which(name) is None:
            raise SettingsError(
                f"--engine slurm needs Slurm's {name}, which is not on the PATH; start the command "
                "on a login node of the cluster"
            )


def run_tasks(
    function: Callable[[T], V], tasks: Iterable[T | Settled], limits: Limits, choice: SlurmChoice
) -> Generator[TaskOutcome[T, V], None, None]:
    """Run ``function`` on every task in elements of job arrays.

    Args:
        function: importable by name on every machine; it, tasks and values can be pickled.
        tasks: written to the spool folder; settled ones are passed on.
        limits: resources of the run; ``num_workers`` is the number of elements at a time.
        choice: how jobs are submitted.

    Yields:
        One outcome per task, in the order of the tasks.

    Raises:
        SettingsError: Slurm refuses the jobs, or a machine has other versions.
    """
    check_slurm()
    choice.spool.mkdir(parents=True, exist_ok=True)
    spool = Path(mkdtemp(prefix=".cv_reader.slurm-", dir=choice.spool)).absolute()
    run = _Run(spool, limits, choice)
    try:
        (spool / "work").write_bytes(
            pickle.dumps((function, limits, os.getcwd(), dict(choice.versions()), choice.versions))
        )
        yield from run.outcomes(tasks)
    finally:
        run.cancel()
        shutil.rmtree(spool, ignore_errors=True)


class _Run:
    def __init__(self, spool: Path, limits: Limits, choice: SlurmChoice) -> None:
        self._spool, self._limits, self._choice = spool, limits, choice
        self._jobs: list[str] = []
        self._tries: dict[int, int] = {}
        self._places: dict[int, tuple[int, int]] = {}
        """Number of a file of tasks to its array and its index there."""
        self._ended: dict[int, float] = {}

    def outcomes(self, tasks: Iterable[Any]) -> Iterator[TaskOutcome[Any, Any]]:
        # Enough arrays at a time to keep the cluster busy; the list is read as they are done.
        at_once = max(_MAX_ARRAY, 2 * self._limits.num_workers)
        stream, count = iter(tasks), 0
        open_chunks: deque[int] = deque()
        while True:
            fresh: list[int] = []
            while len(open_chunks) < at_once:
                chunk = list(islice(stream, self._choice.chunk_tasks))
                if not chunk:
                    break
                _write(self._path("tasks", count), chunk)
                open_chunks.append(count)
                if not all(isinstance(task, Settled) for task in chunk):
                    fresh.append(count)
                count += 1
            self._submit(fresh)
            if not open_chunks:
                return
            yield from self._finished(open_chunks.popleft())

    def _finished(self, number: int) -> Iterator[TaskOutcome[Any, Any]]:
        chunk: list[Any] = _read(self._path("tasks", number))
        work = [task for task in chunk if not isinstance(task, Settled)]
        done = iter(self._wait(number, work) if work else [])
        for task in chunk:
            yield task.outcome if isinstance(task, Settled) else next(done)
        for kind in ("tasks", "outcomes"):
            self._path(kind, number).unlink(missing_ok=True)
        self._places.pop(number, None)

    def _wait(self, number: int, work: list[Any]) -> list[TaskOutcome[Any, Any]]:
        path = self._path("outcomes", number)
        asked = time.monotonic()
        while not path.exists():
            if time.monotonic() - asked > _ASK_SECONDS and self._is_lost(number):
                tries = self._tries[number]
                if tries >= _MAX_TRIES:
                    reason = f"its Slurm job ended without a result, {tries} times"
                    reason += self._log(number)
                    return [TaskOutcome(task, None, Failure("WorkerDied", reason)) for task in work]
                self._submit([number])
            if time.monotonic() - asked > _ASK_SECONDS:
                asked = time.monotonic()
            time.sleep(_POLL_SECONDS)
            os.listdir(self._spool)  # network file systems then look again
        found = _read(path)
        if isinstance(found, SettingsError):
            raise found
        return found

    def _is_lost(self, number: int) -> bool:
        """Return whether no element that runs or waits has this number, for some time."""
        active = _output(["squeue", "--noheader", "--array", "--format=%j %K", "--me"])
        array, index = self._places[number]
        if [f"{self._spool.name}-{array}", str(index)] in [
            line.split() for line in active.splitlines()
        ]:
            self._ended.pop(number, None)
            return False
        ended = self._ended.setdefault(number, time.monotonic())
        if time.monotonic() - ended < _LOST_SECONDS:
            return False
        del self._ended[number]
        return True

    def _submit(self, numbers: list[int]) -> None:
        choice = self._choice
        for start in range(0, len(numbers), _MAX_ARRAY):
            part = numbers[start : start + _MAX_ARRAY]
            array = len(self._jobs)
            _write(self._spool / f"array-{array}", part)
            program = [sys.executable, "-m", "cv_reader.engines.on_slurm"]
            program += [str(self._spool), str(array)]
            command = ["sbatch", "--parsable", f"--job-name={self._spool.name}-{array}"]
            command += ["--no-requeue", f"--output={self._spool}/{array}_%a.log"]
            command += [f"--cpus-per-task={_whole(choice.task_cpus)}"]
            command += [f"--array=0-{len(part) - 1}%{max(self._limits.num_workers, 1)}"]
            if choice.task_memory_mib:
                command += [f"--mem={choice.task_memory_mib}M"]
            command += shlex.split(choice.sbatch_arguments)
            command += ["--wrap", f"exec {shlex.join(program)} $SLURM_ARRAY_TASK_ID"]
            self._jobs.append(_output(command).strip().partition(";")[0])
            for index, number in enumerate(part):
                self._places[number] = array, index
                self._tries[number] = self._tries.get(number, 0) + 1

    def _log(self, number: int) -> str:
        """Return the last line of an element's output, for messages."""
        array, index = self._places[number]
        try:
            text = (self._spool / f"{array}_{index}.log").read_text(errors="replace").strip()
        except OSError:
            folder = self._spool.parent
            return f", nor output; do all machines see {folder} (--out_root, --cache_root)?"
        return f"; its last line: {text.splitlines()[-1]}" if text else ""

    def cancel(self) -> None:
        """End what is still queued or at work."""
        if self._jobs:
            subprocess.run(["scancel", *self._jobs], capture_output=True, check=False)

    def _path(self, kind: str, number: int) -> Path:
        return self._spool / f"{kind}-{number:06d}"


def _whole(cpus: float) -> int:
    return max(-int(-cpus // 1), 1)


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", "") or str(error)
        raise SettingsError(
            f"{command[0]} failed: {told.strip()}; correct --sbatch_arguments or ask the "
            "cluster's administrators"
        ) from error


def _write(path: Path, content: object) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(pickle.dumps(content))
    os.replace(temporary, path)


def _read(path: Path) -> Any:
    return pickle.loads(path.read_bytes())


def run_element(spool: Path, array: int, index: int) -> None:
    """Run the tasks of one element, in the job that Slurm has started for it."""
    number = _read(spool / f"array-{array}")[index]
    function, limits, folder, expected, versions = _read(spool / "work")
    os.chdir(folder)
    target = spool / f"outcomes-{number:06d}"
    for name, version in expected.items():
        found = versions().get(name, "missing")
        if found != version:
            _write(
                target,
                SettingsError(
                    f"node {os.uname().nodename} has {name} {found} where the machine that started "
                    f"the run has {version}; install the same versions on all nodes"
                ),
            )
            return
    chunk = _read(spool / f"tasks-{number:06d}")
    work = [task for task in chunk if not isinstance(task, Settled)]
    one = replace(limits, num_workers=1)
    _write(target, list(local.run_tasks(function, work, one)))


if __name__ == "__main__":
    run_element(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
