"""Exit codes and messages of the commands of this package.

0 all done, 2 settings or assets wrong and nothing generated, 1 the run broke off. lmms-eval reports
an exception and exits 0; this does not.
"""

import sys
import traceback
from types import TracebackType

USAGE, BROKEN, INTERRUPTED = 2, 1, 130


def say(text: str) -> None:
    """A line for people, apart from what a command prints as its result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class ExitOnError:
    """Context: an exception ends the process with an exit code and its message.

    ``SystemExit`` is what passes through lmms-eval, which catches every ``Exception``. One with a
    message instead of a code, as tasks end where a file is missing, gets the code of the block.

    Attributes:
        code: may be changed inside the block, like ``where``.
        where: what was being done, for the message.
        always_trace: whether a ``ValueError`` shows where it comes from; our own say it themselves.
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
