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

from cv_reader.assets.claims import claimed_file, claimed_output
from cv_reader.assets.metadata import META, read_meta
from cv_reader.assets.names import FRAME_IDS_SUFFIX, META_SUFFIX, ROWS_SUFFIX
from cv_reader.assets.validation import (
    ASSET,
    SELECTION,
    Checks,
    Target,
    check_target,
    find_targets,
)
from cv_reader.commands.arguments import add_worker_arguments
from cv_reader.commands.arguments.parser import new_parser
from cv_reader.commands.progress import check_writable, run_samples
from cv_reader.engines.tasks import Failure
from cv_reader.errors import AssetError, SettingsError
from cv_reader.exits import FAILED_SAMPLES, OK, run_command, say
from cv_reader.ledger import (
    FAILED,
    FINISHED,
    STALE,
    Ledger,
    Place,
    digest_of,
    ledger_path,
)

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
    parser.add_argument(
        "--write_ledger",
        action="store_true",
        help="write what is found to the ledger of the folder, the --out_root of precompute or"
        " stage1: their next run (of one shard) looks at no finished sample in full",
    )
    add_worker_arguments(parser, num_workers=2, timeout_seconds=600.0)
    return parser


def _run(args: argparse.Namespace) -> int:
    if not args.place.exists():
        raise SettingsError(f"{args.place}: no such file or folder")
    if args.report:
        check_writable(args.report.parent)
    if args.write_ledger and not args.place.is_dir():
        raise SettingsError(f"{args.place}: --write_ledger needs an output folder")
    checks = Checks(is_deep=args.deep, video_root=args.video_root, image_folder=args.image_folder)
    states: Counter[tuple[str, str]] = Counter()
    makers: Counter[str] = Counter()
    num_problems = 0
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(claimed_file(args.report)) if args.report else None
        ledger = stack.enter_context(_NewLedger(args.place)) if args.write_ledger else None
        for outcome in run_samples(partial(check_target, checks), find_targets(args.place), args):
            target: Target = outcome.task
            if ledger is not None:
                ledger.put(target, outcome.failure)
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


class _NewLedger(contextlib.ExitStack):
    """The ledger of a folder, begun again from what is found.

    Args:
        folder: the output; no run may be at work on it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        part = "shard00of01"
        self.enter_context(claimed_output(folder, part, folder))
        path = ledger_path(folder, part)
        path.unlink(missing_ok=True)
        self._ledger = self.enter_context(Ledger(path, ""))

    def put(self, target: Target, failure: Failure | None) -> None:
        """Record a sample; what has no readable metadata is left to the next run."""
        path = Path(target.where)
        if target.kind not in (ASSET, SELECTION):
            return
        try:
            meta = read_meta(path if target.kind == SELECTION else path / META)
            source, asked = meta["source"], f"{meta['fingerprint']} auto"
            facts = (Path(meta["video"]).name, int(source["size_bytes"]), int(source["mtime_ns"]))
        except (AssetError, KeyError, TypeError, ValueError):
            return
        if target.kind == SELECTION:
            prefix = str(path).removesuffix(META_SUFFIX)
            suffixes = (ROWS_SUFFIX, FRAME_IDS_SUFFIX, META_SUFFIX)
            place = Place(Path(prefix).name, [], [prefix + suffix for suffix in suffixes])
        else:
            place = Place(path.name, [], [f"{path}/"])
        state, reason = FINISHED, ""
        if failure is not None:
            state, reason = STALE if failure.kind == STALE_KIND else FAILED, failure.reason
        self._ledger.put_state(place, asked, state, digest_of([facts]), reason)


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
