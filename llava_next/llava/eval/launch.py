"""lmms-eval's command line in one process or several, with an exit code that says what happened.

Run: ``python -m llava.eval.launch --processes 2 --model llava_ov_encoder --tasks ...``; all but
``--processes`` goes to lmms-eval, which by itself reports an exception and ends with 0, and whose
launcher turns every code of its processes into 1.

Exit codes: 0 all done, 2 nothing was answered (tasks, settings, data or assets are wrong), 1 the
run broke off, 130 interrupted.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import Any

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from llava.exits import FAILED_SAMPLES, INTERRUPTED, USAGE, ExitOnError, say
from llava.ranks import leave


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser("launch", add_help=False, allow_abbrev=False)
    parser.add_argument("--processes", type=int, default=1)
    args, rest = parser.parse_known_args(argv)
    try:
        return _run_here(rest) if args.processes <= 1 else _run_several(args.processes, rest)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run_here(arguments: Sequence[str]) -> int:
    """lmms-eval in this process, its arguments in place of this command's."""
    # Seconds of imports that a process which only starts others can do without.
    from lmms_eval import __main__ as lmms_eval_command

    from llava.eval.plugin.model import LlavaOVEncoder

    evaluate = lmms_eval_command.cli_evaluate_single

    def evaluate_or_exit(args: argparse.Namespace) -> Any:
        with ExitOnError(USAGE, "lmms-eval", always_trace=True) as context:
            try:
                return evaluate(args)
            finally:
                context.code = FAILED_SAMPLES if LlavaOVEncoder.started else USAGE

    LlavaOVEncoder.started = False
    lmms_eval_command.cli_evaluate_single = evaluate_or_exit
    sys.argv = ["lmms_eval", *arguments]
    try:
        lmms_eval_command.cli_evaluate()
        leave()
    finally:
        lmms_eval_command.cli_evaluate_single = evaluate
    return 0


def _run_several(processes: int, arguments: Sequence[str]) -> int:
    """One such process per device; one that ends with an error ends the others.

    The code is 2 if any process found that nothing can be started: none of them starts before all
    have looked, so what the others end with is a consequence.
    """
    launch = ["--standalone", "--nproc_per_node", str(processes), "-m", "llava.eval.launch"]
    try:
        run(parse_args([*launch, *arguments]))
    except ChildFailedError as error:
        say(str(error))
        codes = {failure.exitcode for failure in error.failures.values()}
        return USAGE if USAGE in codes else FAILED_SAMPLES
    except SignalException as error:
        return INTERRUPTED if error.sigval == signal.SIGINT else FAILED_SAMPLES
    return 0


if __name__ == "__main__":
    sys.exit(main())
