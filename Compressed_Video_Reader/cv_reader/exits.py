"""Exit codes of every command of this package, and how a command ends.

``run_kit.exits`` has the same codes under the same names. Nothing that stops a command shows a
traceback: one line on standard error says what happened and what to do.
"""

import atexit
import contextlib
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from cv_reader.errors import (
    CONTROL_ESCAPES,
    AssetError,
    OutputError,
    SampleError,
    SettingsError,
    VideoError,
)

if TYPE_CHECKING:  # every worker imports this module, and parses nothing
    import argparse

OK = 0
"""Everything was done."""
FAILED_SAMPLES = 1
"""The command started its work, and some samples or the run itself failed."""
USAGE = 2
"""Arguments, settings, input files or the installation are wrong; no work was started."""
INTERRUPTED = 130
"""The user or the system stopped the command; the same command continues where it can."""
CLOSED_PIPE = 141
"""The reader of the output has closed it: 128 + SIGPIPE, as a shell reports it."""

_MAX_MESSAGE_CHARS = 4000
_END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def say(message: str) -> None:
    """Write one message to standard error; the output of these commands is files."""
    shown = shortened(message, _MAX_MESSAGE_CHARS).translate(CONTROL_ESCAPES)
    sys.stderr.write(f"{shown}\n")
    sys.stderr.flush()


def shortened(text: str, max_chars: int) -> str:
    """Return a text with its middle left out where it is longer than ``max_chars``."""
    if len(text) <= max_chars:
        return text
    note = f"... ({len(text)} characters) ..."
    half = max((max_chars - len(note)) // 2, 0)
    return text[:half] + note + text[len(text) - half :]


def run_command(body: "Callable[[argparse.Namespace], int]", args: "argparse.Namespace") -> int:
    """Run a command's body, and turn what stops it into one message and an exit code."""
    try:
        with interrupts(), plain_warnings():
            return body(args)
    except OutputError as error:
        say(f"stopped: {error}, then run the same command to continue")
        return FAILED_SAMPLES
    except (SettingsError, SampleError, AssetError) as error:
        say(f"refused: {error}")
        return USAGE
    except VideoError as error:
        say(f"failed: {error}")
        return FAILED_SAMPLES
    except BrokenPipeError:
        raise
    except OSError as error:
        found = OutputError.from_system(error.filename or "the output", error)
        reason = found or f"{error}; check the path or its disk"
        say(f"stopped: {reason}, then run the same command to continue")
        return FAILED_SAMPLES
    except KeyboardInterrupt:
        return interrupted()
    # Any other exception is a fault of this program: the user gets one line to report instead of a
    # traceback, and the exit code of a run that failed. SystemExit passes.
    except Exception as error:  # noqa: BLE001
        say(f"stopped by a fault of cv_reader: {_fault(error)}; please report this line")
        return FAILED_SAMPLES


def interrupted() -> int:
    """Say that the command was interrupted, and return the exit code."""
    say("interrupted; finished output is kept, run the same command to continue")
    # The interpreter remembers an interrupt that met certain imports, though it was caught, and
    # ends itself by SIGINT in place of the exit code; where that is blocked it cannot.
    atexit.register(signal.pthread_sigmask, signal.SIG_BLOCK, (signal.SIGINT,))
    return INTERRUPTED


@contextlib.contextmanager
def interrupts() -> Generator[None, None, None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, unless the caller ignores them.

    Schedulers and containers end a job by SIGTERM; a closed terminal sends SIGHUP, which ``nohup``
    ignores.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: signal.getsignal(n) for n in _END_SIGNALS}
        for number, handler in before.items():
            if handler is signal.SIG_DFL:
                signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is signal.SIG_DFL:
                signal.signal(number, handler)


@contextlib.contextmanager
def plain_warnings() -> Generator[None, None, None]:
    """Print warnings in the block as messages, without the line of code that gives them."""
    before = warnings.formatwarning
    warnings.formatwarning = _one_line
    try:
        yield
    finally:
        warnings.formatwarning = before


def _one_line(message: Warning | str, *_place: object, **_line: object) -> str:
    return f"warning: {message}\n"


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fault(error: Exception) -> str:
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f" ({Path(code.co_filename).name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{place}"
