"""Isolation: a crash, a hang or an exception costs one task."""

import functools
import math
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cv_reader.assets.contract import read_positions
from cv_reader.engines.local import run_tasks
from cv_reader.engines.tasks import Limits
from cv_reader.engines.worker_process import early_worker

# Tasks are Python expressions: ``eval`` is a function that every worker can import.
QUICK, FAIL = "1 + 1", "1 / 0"
CRASH, ABORT = "__import__('os')._exit(3)", "__import__('os').abort()"
KILL = "__import__('signal').raise_signal(9)"
HANG = "__import__('time').sleep(600)"


def test_failures_cost_their_own_task_and_keep_the_order() -> None:
    tasks = [QUICK, FAIL, CRASH, ABORT, KILL, HANG, QUICK]
    outcomes = list(run_tasks(eval, tasks, Limits(num_workers=2, timeout_seconds=1.5)))
    assert [outcome.task for outcome in outcomes] == tasks
    assert [outcome.value for outcome in outcomes] == [2, None, None, None, None, None, 2]
    failures = [outcome.failure for outcome in outcomes[1:-1]]
    assert [failure.kind for failure in failures] == [
        "ZeroDivisionError", "WorkerDied", "WorkerDied", "WorkerDied", "TimeoutError",
    ]  # fmt: skip
    assert failures[0].reason == "ZeroDivisionError: division by zero"
    assert "Traceback" in failures[0].details
    assert "exit code 3" in failures[1].reason
    assert "SIGABRT" in failures[2].reason
    assert "SIGKILL; out of memory?" in failures[3].reason
    assert "--timeout_seconds" in failures[4].reason
    assert all("twice" in failure.reason for failure in failures[1:])


def test_a_worker_that_dies_once_costs_nothing(tmp_path: Path) -> None:
    # Dies where the file is not there yet, and leaves it there.
    path = str(tmp_path / "tried")
    once = (
        f"__import__('os').path.exists({path!r}) or "
        f"(open({path!r}, 'w').close(), __import__('os')._exit(9))"
    )
    outcomes = list(run_tasks(eval, [QUICK, once, QUICK], Limits()))
    assert [outcome.value for outcome in outcomes] == [2, True, 2]


def test_a_worker_that_is_ready_takes_the_first_task() -> None:
    with early_worker("colorsys"):
        (started,) = multiprocessing.active_children()
        pid, imported = "__import__('os').getpid()", "'colorsys' in __import__('sys').modules"
        outcomes = list(run_tasks(eval, [pid, imported], Limits()))
    assert [outcome.value for outcome in outcomes] == [started.pid, True]


def test_a_worker_that_nobody_needs_does_not_stay() -> None:
    with early_worker("no.such.module"):
        (died,) = multiprocessing.active_children()
        died.join()
        (outcome,) = run_tasks(eval, [QUICK], Limits())
        assert outcome.value == 2
    with early_worker("colorsys"):
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children()


def test_memory_is_limited() -> None:
    greedy = "(bytearray(400 << 20), __import__('time').sleep(600))"
    outcomes = run_tasks(eval, [greedy, QUICK], Limits(memory_mib=300))
    failed, quick = outcomes
    assert (failed.failure.kind, quick.value) == ("MemoryError", 2)
    assert "more than 300 MiB (--memory_limit_mib), twice" in failed.failure.reason


def test_one_huge_allocation_fails_at_once() -> None:
    started = time.monotonic()
    bomb = "len(bytearray(1 << 40)) + sum(bytearray(8 << 30))"
    big = "len(bytearray(8 << 30))"  # never written to: only the hard limit notices it
    outcomes = list(run_tasks(eval, [bomb, big, QUICK], Limits(memory_mib=300)))
    assert [outcome.value for outcome in outcomes] == [None, None, 2]
    for outcome in outcomes[:2]:
        assert outcome.failure.kind == "MemoryError"
        assert "--memory_limit_mib" in outcome.failure.reason
        assert outcome.failure.details == ""
    assert time.monotonic() - started < 60


def test_a_task_that_cannot_be_sent_costs_itself() -> None:
    deep = []
    for _ in range(100_000):
        deep = [deep]
    deep_task, quick = run_tasks(eval, [deep, QUICK], Limits())
    assert deep_task.failure.kind == "RecursionError"
    assert quick.value == 2


def test_the_first_worker_of_a_process_starts_with_ctrl_c_blocked_too() -> None:
    code = (
        "import re, signal\n"
        "from pathlib import Path\n"
        "from cv_reader.engines.worker_process import Worker, stop_workers\n"
        "if __name__ == '__main__':\n"
        "    worker = Worker()\n"
        "    status = Path(f'/proc/{worker.process.pid}/status').read_text()\n"
        "    blocked = int(re.search(r'SigBlk:\\s*(\\w+)', status)[1], 16)\n"
        "    print(blocked >> (signal.SIGINT - 1) & 1)\n"
        "    stop_workers([worker], at_once=True)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "1\n"


def test_ctrl_c_while_a_worker_starts_shows_no_traceback() -> None:
    code = (
        "import os, signal, sys, threading, time\n"
        "from cv_reader.engines.worker_process import Worker, stop_workers\n"
        "if __name__ == '__main__':\n"
        "    os.setpgrp()\n"
        "    workers = []\n"
        "    try:\n"
        "        for _ in range(3):\n"
        "            workers.append(Worker())\n"
        "        os.killpg(0, signal.SIGINT)\n"
        "        time.sleep(5)\n"
        "    except KeyboardInterrupt:\n"
        "        time.sleep(0.5)\n"
        "        stop_workers(workers, at_once=True)\n"
        "        print('interrupted')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("interrupted\n", "")


def test_tasks_are_taken_lazily_and_workers_recycled() -> None:
    taken = []

    def tasks() -> Iterator[str]:
        for number in range(5):
            taken.append(number)
            yield "__import__('os').getpid()"

    outcomes = run_tasks(eval, tasks(), Limits(tasks_per_worker=3))
    first = next(outcomes)
    assert len(taken) <= 2
    pids = [first.value] + [outcome.value for outcome in outcomes]
    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[4]
    assert os.getpid() not in pids


def test_stopping_early_ends_the_workers() -> None:
    outcomes = run_tasks(eval, ["__import__('os').getpid()", HANG], Limits())
    pid = next(outcomes).value
    outcomes.close()
    with pytest.raises(ProcessLookupError):
        for _ in range(50):
            os.kill(pid, 0)
            time.sleep(0.1)


def test_no_tasks_start_no_worker() -> None:
    assert list(run_tasks(math.sqrt, [], Limits())) == []


def test_an_expected_error_comes_without_its_traceback(tmp_path: Path) -> None:
    work = functools.partial(read_positions, num_images=1)
    (outcome,) = run_tasks(work, [tmp_path / "missing.npy"], Limits())
    assert outcome.failure.kind == "AssetError"
    assert "missing.npy" in outcome.failure.reason
    assert outcome.failure.details == ""
