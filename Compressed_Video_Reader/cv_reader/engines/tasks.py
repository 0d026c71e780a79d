"""Tasks, their limits and their outcomes: what an engine gets and gives."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pickle import PicklingError
from typing import Any, Generic, TypeVar

from cv_reader.errors import CvReaderError

T = TypeVar("T")
V = TypeVar("V")

UNSENDABLE = (RecursionError, ValueError, TypeError, AttributeError, PicklingError)
"""What pickling raises for a task that cannot be sent to another process."""


@dataclass(frozen=True)
class Failure:
    """Why a task has no value.

    Attributes:
        kind: name of the exception, or ``WorkerDied``, ``TimeoutError`` or ``MemoryError``.
        reason: its message.
        details: traceback of an unexpected exception, else "".
    """

    kind: str
    reason: str
    details: str = ""


@dataclass(frozen=True)
class TaskOutcome(Generic[T, V]):
    """A task with either its value or its failure."""

    task: T
    value: V | None
    failure: Failure | None


@dataclass(frozen=True)
class Settled:
    """A task among others that needs no work: an engine passes its outcome on, in its place."""

    outcome: TaskOutcome[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Resources of a run; 0 = no limit, except for ``num_workers``.

    Attributes:
        num_workers: tasks at a time, at least 1.
        timeout_seconds: time for one task.
        memory_mib: resident memory of one worker. Twice as much address space beyond what a worker
            needs to start is a hard limit, so that one huge allocation fails at once.
        tasks_per_worker: tasks after which a worker is replaced.
    """

    num_workers: int = 1
    timeout_seconds: float = 0.0
    memory_mib: int = 0
    tasks_per_worker: int = 0


def attempt(function: Callable[[Any], Any], task: Any) -> tuple[str, Any]:
    """Return ``("value", function(task))``, or ``("failure", Failure)`` if it raises."""
    try:
        return "value", function(task)
    except CvReaderError as error:
        return "failure", Failure(type(error).__name__, str(error))
    except MemoryError as error:
        reason = f"needs more memory than a worker may use (--memory_limit_mib): {error}"
        return "failure", Failure("MemoryError", reason.rstrip(": "))
    # Decoders and arrays meet files from anywhere: no fault in one task may
    # end the worker or the run. It is reported with its traceback; KeyboardInterrupt passes.
    except Exception as error:  # noqa: BLE001
        reason = f"{type(error).__name__}: {error}"
        return "failure", Failure(type(error).__name__, reason, traceback.format_exc())
