"""``cv_reader validate``: check assets, stage 1's files or a training JSONL against the contract.

Prints a table. Exit code 0: all are sound; 1: some are not (the first of them are shown, and
``--report`` lists all as JSON lines); 2: there is nothing to check.
"""

import argparse
import contextlib
import json
from collections import Counter
from functools import partial
from pathlib import Path

from cv_reader.assets.claims import claimed_file
from cv_reader.assets.validation import Checks, Target, check_target, find_targets
from cv_reader.commands.arguments import (
    add_worker_arguments,
    new_parser,
)
from cv_reader.commands.progress import check_writable, run_samples
from cv_reader.errors import SettingsError
from cv_reader.exits import FAILED_SAMPLES, OK, run_command, say

STALE_KIND = "StaleAssetError"


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("cv_reader validate", __doc__)
    parser.add_argument("place", type=Path, help="folder, or .json or .jsonl data set, to check")
    parser.add_argument(
        "--deep",
        action="store_true",
        help="also decode mosaics, and compare contents and videos with their hashes",
    )
    parser.add_argument(
        "--video_root",
        metavar="FOLDER",
        type=Path,
        help="folder that relative video paths start from; all videos must be there",
    )
    parser.add_argument(
        "--image_folder",
        metavar="FOLDER",
        type=Path,
        help="folder that relative paths in a JSONL start from",
    )
    parser.add_argument(
        "--max_shown", type=int, default=20, help="number of problems to print to standard error"
    )
    parser.add_argument(
        "--report", metavar="FILE", type=Path, help="file for one JSON line per problem"
    )
    add_worker_arguments(parser, num_workers=2, timeout_seconds=600.0)
    return parser


def _run(args: argparse.Namespace) -> int:
    if not args.place.exists():
        raise SettingsError(f"{args.place}: no such file or folder")
    if args.report:
        check_writable(args.report.parent)
    checks = Checks(is_deep=args.deep, video_root=args.video_root, image_folder=args.image_folder)
    states: Counter[tuple[str, str]] = Counter()
    makers: Counter[str] = Counter()
    num_problems = 0
    with claimed_file(args.report) if args.report else contextlib.nullcontext() as lines:
        for outcome in run_samples(partial(check_target, checks), find_targets(args.place), args):
            target: Target = outcome.task
            if outcome.failure is None:
                states[target.kind, "sound"] += 1
                makers[str(outcome.value)] += 1
                continue
            state = "stale" if outcome.failure.kind == STALE_KIND else "broken"
            states[target.kind, state] += 1
            num_problems += 1
            problem = {"kind": target.kind, "state": state, "where": target.where}
            if lines:
                line = json.dumps(problem | {"reason": outcome.failure.reason})
                lines.write(line + "\n")
            if num_problems <= args.max_shown:
                say(f"validate: {state}: {outcome.failure.reason}")
        if not states:
            raise SettingsError(f"{args.place}: holds no asset, no selection and no sample")
    if num_problems > args.max_shown:
        say(f"validate: and {num_problems - args.max_shown} more; --report FILE lists all")
    print("\n".join(_table(states, makers)))
    return FAILED_SAMPLES if num_problems else OK


def _table(states: Counter[tuple[str, str]], makers: Counter[str]) -> list[str]:
    titles = ("sound", "stale", "broken")
    lines = [f"{'kind':<12}" + "".join(f"{title:>10}" for title in titles)]
    for kind in dict.fromkeys(kind for kind, _ in states):
        lines.append(f"{kind:<12}" + "".join(f"{states[kind, title]:>10}" for title in titles))
    named = [(maker, count) for maker, count in sorted(makers.items()) if maker]
    if named:
        lines += ["", f"{'made by':<40}{'sound':>10}"]
        lines += [f"{maker:<40}{count:>10}" for maker, count in named]
    return lines
