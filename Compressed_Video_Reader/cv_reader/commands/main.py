"""The ``cv_reader`` command: one name, several sub-commands."""

import importlib
import os
import sys
from contextlib import nullcontext
from types import MappingProxyType

from cv_reader.engines.worker_process import early_worker
from cv_reader.exits import CLOSED_PIPE, OK, USAGE, interrupted, interrupts

COMMANDS = MappingProxyType(
    {
        "stage1": "score the patches of videos, and choose the ones to keep",
        "stage2": "pack the chosen patches into mosaics with their positions",
        "precompute": "both stages in one pass, as evaluation needs them",
        "index": "write the kept patches of a list of videos as one file",
        "validate": "check assets and training data against the contract",
        "visualize": "show which patches of a video are kept, next to other ways of choosing",
        "compare": "compare selections made elsewhere with those made here",
        "score": "measure what kept patches show of a video, by rebuilding it from them",
        "stats": "draw which patches a folder of assets keeps, over time and space",
        "stream": "follow a live stream, and choose patches of each half second as it comes",
        "convert": "turn assets into tar shards or canvases of LLaVA-OneVision-2, and back",
        "extract": "write motion, residual and bits of frames as numpy files",
        "doctor": "say what this installation can read, and how exactly",
    }
)
"""Sub-command to what it does; each is a module of this folder with a ``main(argv)``."""

WORKER_MODULES = MappingProxyType(
    {
        "stage1": "cv_reader.assets.stage1",
        "stage2": "cv_reader.assets.stage2",
        "precompute": "cv_reader.assets.make",
        "index": "cv_reader.commands.index",
    }
)
"""Commands with workers, and the module that a worker imports at its start: not the command's own,
whose arguments and messages no worker needs."""
_ALONE = frozenset({"-h", "--help", "--dry_run"})
"""Arguments with which these commands need no worker."""


def main(argv: list[str] | None = None) -> int:
    """Run a sub-command.

    Returns:
        Its exit code, 2 where there is no such command, 141 where its output is closed
        (``cv_reader validate ROOT | head``).
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        try:
            with interrupts():
                return _run(arguments)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        # Outside of a command's own work, such as its imports.
        return interrupted()
    except BrokenPipeError:
        # The interpreter flushes once more at its end, which must not fail.
        nothing = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nothing, stream.fileno())
        return CLOSED_PIPE


def _run(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_usage())
        return OK if arguments else USAGE
    if name not in COMMANDS:
        print(f"cv_reader: unknown command {name!r}\n\n{_usage()}", file=sys.stderr)
        return USAGE
    module_name = f"cv_reader.commands.{name}"
    starts_work = name in WORKER_MODULES and not _ALONE.intersection(arguments)
    if starts_work:
        # numpy's algebra is hardly used, but would start threads in every worker.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with early_worker(WORKER_MODULES[name]) if starts_work else nullcontext():
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
            "`cv_reader COMMAND --help` shows its arguments.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
