"""lmms-eval's command line in the process of the tests, or in processes of its own."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmms_eval.api.task
import lmms_eval.tasks
import pytest
from lmms_eval.tasks import TaskManager

from llava.eval.launch import main

_TASK_FOLDERS = (
    *("ai2d", "arc", "chartqa", "docvqa", "longvideobench", "mlvu", "mvbench", "nextqa"),
    *("ocrbench", "perceptiontest", "temporalbench", "tomato", "videomme", "videommmu"),
)


def keep_data_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have lmms-eval, which remembers the folder of the first data set, keep data sets there."""
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(home / "datasets"))
    lmms_eval.api.task._resolve_hf_datasets_cache_dir.cache_clear()


def evaluate_here(home: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> int:
    """The command of ``llava.eval.launch`` in this process, which has its imports; its exit code.

    Of lmms-eval's two thousand task files, which take seconds to read, only those of the
    benchmarks named above are indexed.

    Args:
        home: ``HF_HOME``: benchmarks, prepared annotations.
        monkeypatch: sets the environment and takes it back.
        arguments: of the command.
    """
    keep_data_in(home, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    package = Path(lmms_eval.tasks.__file__).parent
    index = TaskManager._get_task_and_group

    def index_some(manager: TaskManager, folder: str) -> dict[str, Any]:
        if Path(folder) != package:
            return index(manager, folder)
        parts = [index(manager, f"{folder}/{name}") for name in _TASK_FOLDERS]
        return {name: entry for part in parts for name, entry in part.items()}

    monkeypatch.setattr(TaskManager, "_get_task_and_group", index_some)
    try:
        return main(arguments)
    except SystemExit as stopped:
        assert isinstance(stopped.code, int)
        return stopped.code


def evaluate_apart(home: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """The same in processes of its own; what hangs fails by time-out, and leaves no rank behind."""
    with subprocess.Popen(
        [sys.executable, "-m", "llava.eval.launch", *arguments],
        env={**os.environ, "HF_HOME": str(home)},
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=240)
        except BaseException:  # pytest-timeout raises its own
            process.terminate()  # the launcher ends its ranks; killed, it would leave them
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=60)
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
