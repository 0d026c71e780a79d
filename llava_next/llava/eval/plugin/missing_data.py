"""Name the data set that lmms-eval could not fetch, and the command that brings it.

lmms-eval tries downloads and scorers several times and then raises an error that names neither the
task nor the cause.
"""

from collections.abc import Iterator
from types import TracebackType

from lmms_eval.api.task import ConfigurableTask
from tenacity import RetryError

from llava.eval.benchmarks.table import PREPARE_SCRIPT, find_benchmark
from llava.eval.environment import hf_home

_LOCAL_FORMATS = ("json", "csv", "parquet", "text", "arrow", "pandas", "imagefolder")


class MissingDataError(ValueError):
    """The data set of a task is neither here nor can it be fetched."""


def explain(error: RetryError) -> Exception:
    """Return the error that says what went wrong in lmms-eval's repeated attempts.

    Returns:
        A ``MissingDataError`` where the data of a task could not be read, else the error of the
        last attempt.
    """
    cause = error.last_attempt.exception()
    if not isinstance(cause, Exception):
        return error
    task = next(_downloading_tasks(cause.__traceback__), None)
    return cause if task is None else MissingDataError(_message(task, cause))


def _downloading_tasks(trace: TracebackType | None) -> Iterator[ConfigurableTask]:
    """Yield the task whose ``download`` a traceback passes through."""
    while trace is not None:
        frame = trace.tb_frame
        task = frame.f_locals.get("self")
        if frame.f_code.co_name == "download" and isinstance(task, ConfigurableTask):
            yield task
        trace = trace.tb_next


def _message(task: ConfigurableTask, cause: Exception) -> str:
    name, dataset, part = task.config.task, task.config.dataset_path, task.config.dataset_name
    reason = (str(cause).splitlines() or [""])[0]
    text = f"{name}: its data set {dataset} cannot be read ({type(cause).__name__}: {reason})"
    if dataset in _LOCAL_FORMATS:
        return f"{text}; check data_files in the task's file"
    home, benchmark = hf_home(), find_benchmark(str(name))
    remedy = "Where a data hub can be reached, run"
    if benchmark is not None and benchmark.is_video:
        folder = home / benchmark.cache_folder
        if not folder.exists():
            prepare = f"HF_HOME={home} bash {PREPARE_SCRIPT} {benchmark.name}"
            return f"{text}; there is no folder of its videos {folder}. {remedy}\n  {prepare}"
    names = ", ".join(repr(item) for item in (dataset, part) if item is not None)
    load = f'python -c "from datasets import load_dataset; load_dataset({names})"'
    return f"{text}; it is not in {home}. {remedy}\n  HF_HOME={home} {load}"
