"""Exit codes of every command of ``llava`` and ``encoder_training``, and their messages.

``cv_reader`` uses the same codes under the same names. lmms-eval reports an exception and exits 0;
``ExitOnError`` makes sure that our commands do not.
"""

import sys
import traceback
from types import TracebackType

OK = 0
"""Everything was done."""
FAILED_SAMPLES = 1
"""The command started its work, and some samples or the run itself failed."""
USAGE = 2
"""Arguments, settings, input files or the installation are wrong; no work was started."""
INTERRUPTED = 130
"""The user stopped the command; the same command continues where it can."""


_CONTROL_ESCAPES = {
    code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))
}
"""Control characters of paths, but for tab and line feed, which terminals would obey."""


def without_controls(text: str) -> str:
    """Return text with control characters spelled out, but for tab and line feed."""
    return text.translate(_CONTROL_ESCAPES)


def say(text: str) -> None:
    """Write a line for people to standard error, apart from a command's results."""
    sys.stderr.write(f"{without_controls(text)}\n")
    sys.stderr.flush()


class ExitOnError:
    """End the process with an exit code and a message when the ``with`` block raises.

    ``SystemExit`` is what passes through lmms-eval, which catches every ``Exception``. One with a
    message instead of a code, as tasks end where a file is missing, gets the code of the block.

    Attributes:
        code: the exit code; the block may change it.
        where: what the block is doing, for the message; the block may change it.
        always_trace: whether a ``ValueError`` also prints a traceback. Our own errors of that type
            name the cause in their message and need none.
    """

    def __init__(self, code: int, where: str = "", *, always_trace: bool = False) -> None:
        self.code = code
        self.where = where
        self.always_trace = always_trace

    def __enter__(self) -> "ExitOnError":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ends_with_text = isinstance(error, SystemExit) and isinstance(error.code, str)
        if not isinstance(error, Exception) and not ends_with_text:
            return
        if isinstance(error, Exception) and (
            self.always_trace or not isinstance(error, ValueError)
        ):
            traceback.print_exception(kind, error, trace)
        prefix = f"{self.where}: " if self.where else ""
        say(f"error: {prefix}{error}")
        raise SystemExit(self.code) from error
