"""Run lmms-eval in one process or several, with an exit code that says what happened.

Run: ``python -m llava.eval.launch --processes 2 --model llava_ov_encoder --tasks ...``; all but
``--processes`` goes to lmms-eval. lmms-eval by itself reports an exception and ends with 0, and its
launcher turns every code of its processes into 1.

Settings are checked before anything heavy is imported, and a data set that is not there is named
with the command that brings it.

Exit codes: 0 all done, 2 nothing was answered (tasks, settings, data or assets are wrong), 1 the
run ended early, 130 interrupted.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import Any

from llava.eval.settings import check_checkpoint, read_settings, split_model_args
from run_kit.arguments import command_parser
from run_kit.exits import FAILED_SAMPLES, INTERRUPTED, OK, USAGE, ExitOnError, say

MODELS = ("llava_ov_encoder", "llava_ov_encoder_chat")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = command_parser(
        "llava.eval.launch",
        "Run lmms-eval in one process or several; all other arguments are its own.",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("--processes", type=int, default=1, help="processes of this machine")
    args, rest = parser.parse_known_args(argv)
    if {"-h", "--help"}.intersection(rest):
        sys.stdout.write(f"{parser.format_help()}\n")
    with ExitOnError(USAGE):
        check_arguments(rest)
    try:
        return _run_here(rest) if args.processes <= 1 else _run_several(args.processes, rest)
    except KeyboardInterrupt:
        return INTERRUPTED


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse wrong settings of our models; other models and ``--config`` files are left alone.

    Args:
        arguments: lmms-eval's command line.

    Raises:
        EvalSettingsError: naming the setting, its value and what is accepted.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model")
    parser.add_argument("--model_args", default="")
    parser.add_argument("--batch_size")
    args, _ = parser.parse_known_args(arguments)
    if args.model not in MODELS:
        return
    given = split_model_args(args.model_args)
    if args.batch_size is not None:
        given.setdefault("batch_size", args.batch_size)
    check_checkpoint(read_settings(given))


def _run_here(arguments: Sequence[str]) -> int:
    """Run lmms-eval in this process, its arguments in place of this command's."""
    # Seconds of imports that a process which only starts others can do without.
    from lmms_eval import __main__ as lmms_eval_command
    from tenacity import RetryError

    from llava.eval.plugin.missing_data import MissingDataError, explain
    from llava.eval.plugin.model import LlavaOVEncoder
    from run_kit.ranks import give_up, leave

    evaluate = lmms_eval_command.cli_evaluate_single

    def evaluate_or_exit(args: argparse.Namespace) -> Any:
        with ExitOnError(USAGE, "lmms-eval", always_trace=True) as context:
            try:
                return evaluate(args)
            except RetryError as error:
                cause = explain(error)
                context.always_trace = not isinstance(cause, MissingDataError)
                raise cause from error
            finally:
                context.code = FAILED_SAMPLES if LlavaOVEncoder.started else USAGE

    LlavaOVEncoder.started = False
    lmms_eval_command.cli_evaluate_single = evaluate_or_exit
    sys.argv = ["lmms_eval", *arguments]
    try:
        lmms_eval_command.cli_evaluate()
        leave()
    except SystemExit as ending:
        if isinstance(ending.code, int):
            give_up(ending.code)
        raise
    finally:
        lmms_eval_command.cli_evaluate_single = evaluate
    return OK


def _run_several(processes: int, arguments: Sequence[str]) -> int:
    """Run one such process per device; one that ends with an error ends the others.

    The code is 2 if any process found that nothing can be started, and none was killed: no process
    starts to answer before all have checked, so the codes of the others are consequences.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    launch = ["--standalone", "--nproc_per_node", str(processes), "-m", "llava.eval.launch"]
    try:
        run(parse_args([*launch, *arguments]))
    except ChildFailedError as error:
        say(str(error))
        codes = {failure.exitcode for failure in error.failures.values()}
        # Before a run begins, too, the others fail where one is killed; the launcher terminates.
        is_killed = any(code < 0 and code != -signal.SIGTERM for code in codes)
        return USAGE if USAGE in codes and not is_killed else FAILED_SAMPLES
    except SignalException as error:
        return INTERRUPTED if error.sigval == signal.SIGINT else FAILED_SAMPLES
    return OK


if __name__ == "__main__":
    sys.exit(main())
