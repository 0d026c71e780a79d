"""``cv_reader validate``: check assets, stage 1's files or a training JSONL against the contract.

Prints a table. Exit code 0: all sound; 1: some are not (each told on stderr, and with ``--report``
as a JSON line); 2: there is nothing to check.
"""

import argparse
import json
from collections import Counter
from functools import partial
from pathlib import Path

from cv_reader.assets.files import new_file
from cv_reader.assets.validation import Checks, Target, check_target, find_targets
from cv_reader.commands.arguments import (
    EXIT_DONE,
    EXIT_SOME_FAILED,
    check_writable,
    run_command,
    run_tasks,
    say,
)
from cv_reader.errors import SettingsError

STALE_KIND = "StaleAssetError"


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("cv_reader validate", description=__doc__)
    parser.add_argument("place", type=Path, help="a folder, or a .json or .jsonl data set")
    parser.add_argument(
        "--deep", action="store_true", help="decode mosaics; hold contents and videos to hashes"
    )
    parser.add_argument("--video_root", type=Path, help="of relative videos; they must be there")
    parser.add_argument("--image_folder", type=Path, help="of relative paths in a JSONL")
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--timeout_seconds", type=float, default=600.0, help="0 = none")
    parser.add_argument("--memory_limit_mib", type=int, default=4096, help="0 = none")
    parser.add_argument("--maxtasks_per_child", type=int, default=0, help="0 = no limit")
    parser.add_argument("--max_shown", type=int, default=20, help="problems told on stderr")
    parser.add_argument("--report", type=Path, help="one JSON line per problem")
    return parser


def _run(args: argparse.Namespace) -> int:
    if not args.place.exists():
        raise SettingsError(f"{args.place}: no such file or folder")
    if args.report:
        check_writable(args.report.parent)
    checks = Checks(is_deep=args.deep, video_root=args.video_root, image_folder=args.image_folder)
    states: Counter[tuple[str, str]] = Counter()
    makers: Counter[str] = Counter()
    problems: list[dict[str, str]] = []
    for outcome in run_tasks(partial(check_target, checks), find_targets(args.place), args):
        target: Target = outcome.task
        if outcome.failure is None:
            states[target.kind, "sound"] += 1
            makers[str(outcome.value)] += 1
            continue
        state = "stale" if outcome.failure.kind == STALE_KIND else "broken"
        states[target.kind, state] += 1
        problems.append(
            {"kind": target.kind, "state": state, "where": target.where,
             "reason": outcome.failure.reason}
        )  # fmt: skip
        if len(problems) <= args.max_shown:
            say(f"validate: {state}: {outcome.failure.reason}")
    if not states:
        raise SettingsError(f"{args.place}: holds no asset, no selection and no sample")
    if len(problems) > args.max_shown:
        say(f"validate: and {len(problems) - args.max_shown} more; --report FILE lists all")
    if args.report:
        with new_file(args.report) as path:
            path.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    print("\n".join(_table(states, makers)))
    return EXIT_SOME_FAILED if problems else EXIT_DONE


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
