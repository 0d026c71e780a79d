"""The ``cv_reader`` command: one name, several sub-commands."""

import importlib
import os
import sys
from contextlib import nullcontext
from types import MappingProxyType

from cv_reader.engines.worker_process import early_worker

COMMANDS = MappingProxyType(
    {
        "stage1": "score the patches of videos, and choose the ones to keep",
        "stage2": "pack the chosen patches into mosaics with their positions",
        "precompute": "both stages in one pass, as evaluation needs them",
        "validate": "check assets and training data against the contract",
        "visualize": "show what is kept of a video, beside what other ways would keep",
        "compare": "hold selections made elsewhere against those made here",
        "stats": "draw which patches a folder of assets keeps, over time and space",
        "extract": "write motion, residual and bits of frames as numpy files",
        "doctor": "say what this installation can read, and how exactly",
    }
)
"""Sub-command to what it does; each is a module beside this one with a ``main(argv)``."""

_AT_WORK = ("stage1", "stage2", "precompute")
_ALONE = frozenset({"-h", "--help", "--dry_run"})
"""Arguments with which those need no worker."""

EXIT_USAGE = 2
EXIT_CLOSED_PIPE = 141
"""What a shell reports of a program that the closing of a pipe ended: 128 + SIGPIPE."""


def main(argv: list[str] | None = None) -> int:
    """Run a sub-command.

    Returns:
        Its exit code, 2 where there is no such command, 141 where nobody reads its output any more
        (``cv_reader validate ROOT | head``).
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at its end: let it do so into nothing.
        nothing = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nothing, stream.fileno())
        return EXIT_CLOSED_PIPE


def _run(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else EXIT_USAGE
    if name not in COMMANDS:
        print(f"cv_reader: unknown command {name!r}\n\n{_usage()}", file=sys.stderr)
        return EXIT_USAGE
    module_name = f"cv_reader.commands.{name}"
    starts_work = name in _AT_WORK and not _ALONE.intersection(arguments)
    if starts_work:
        # numpy's algebra is hardly used, but would start threads in every worker.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with early_worker(module_name) if starts_work else nullcontext():
        return int(importlib.import_module(module_name).main(arguments[1:]))


def _usage() -> str:
    lines = [f"  {name:<12}{purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            "usage: cv_reader COMMAND [ARGUMENTS]",
            "",
            "commands:",
            *lines,
            "",
            "`cv_reader COMMAND --help` tells more.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
