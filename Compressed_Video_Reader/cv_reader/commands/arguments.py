"""What the commands that make assets share: arguments, failure files, progress, exit codes."""

import argparse
import errno
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from cv_reader.assets.files import new_file
from cv_reader.backends import BACKEND_NAMES
from cv_reader.engines.local import Outcome, run_isolated
from cv_reader.errors import AssetError, SampleError, SettingsError
from cv_reader.media.display import HDR_MODES
from cv_reader.reader import ReadOptions
from cv_reader.select.config import (
    COMPENSATIONS,
    DIRECTIONS,
    DISTORTIONS,
    FRAME_SAMPLINGS,
    ORDERS,
    PADDING_POLICIES,
    PREDICTIONS,
    SELECTORS,
    SIGNALS,
    TOPK_MODES,
    WINDOW_PICKS,
    AssetConfig,
)

FULL = (errno.ENOSPC, errno.EDQUOT)
HDR_ARGUMENT: dict[str, Any] = {
    "choices": HDR_MODES,
    "default": "tonemap",
    "help": "HDR video (PQ, HLG): show it as SDR (default), refuse it, or read raw samples",
}
"""Settings of ``--hdr``, which commands share."""

EXIT_DONE, EXIT_SOME_FAILED, EXIT_REFUSED, EXIT_INTERRUPTED = 0, 1, 2, 130


def run_command(body: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run a command's body and turn what stops it into an exit code and one line on stderr."""
    try:
        return body(args)
    except (SettingsError, SampleError, AssetError) as error:
        say(f"refused: {error}")
        return EXIT_REFUSED
    except OSError as error:
        if error.errno not in FULL:
            raise
        say(f"stopped: {error}; make room and run the same command to go on")
        return EXIT_SOME_FAILED
    except KeyboardInterrupt:
        say("interrupted; what is finished is kept, run the same command to go on")
        return EXIT_INTERRUPTED


def say(message: str) -> None:
    """One line to the user; the output of these commands is files, so it goes to stderr."""
    print(message, file=sys.stderr, flush=True)


class Refuse(argparse.Action):
    """A flag of the reference implementation that has no meaning here: exit 2 with the reason."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        parser.error(f"{option_string} is not supported: {self.metavar}")


def refuse(parser: argparse.ArgumentParser, flags: dict[str, str]) -> None:
    """Accept flags, with or without a value, only to refuse them with a reason."""
    for flag, reason in flags.items():
        # The help is hidden, so the metavar is free to carry the reason.
        parser.add_argument(flag, action=Refuse, nargs="?", metavar=reason, help=argparse.SUPPRESS)


def only(value: str, reason: str) -> Callable[[str], str]:
    """An argument type with one value left; any other is refused with the reason."""

    def check(text: str) -> str:
        if text != value:
            raise argparse.ArgumentTypeError(f"{text!r} is not supported, only {value!r}: {reason}")
        return text

    return check


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Settings of geometry, energy and selection that stage 1 and precompute share."""
    group = parser.add_argument_group("scoring")
    group.add_argument("--patch_size", type=int, default=16, help="side of a cell, pixels")
    group.add_argument("--square_size", type=int, default=576, help="side of the square, pixels")
    group.add_argument("--padding_policy", choices=PADDING_POLICIES, default="zero")
    group.add_argument("--hdr", **HDR_ARGUMENT)
    group.add_argument("--signal", choices=SIGNALS, default="reference")
    group.add_argument(
        "--mv_compensate", choices=COMPENSATIONS, default="median", help="the camera's motion"
    )
    group.add_argument(
        "--frames", choices=FRAME_SAMPLINGS, default="uniform", help="spread by number or by bytes"
    )
    group.add_argument("--mv_pct", type=float, default=95.0, help="percentile that counts as 1")
    group.add_argument("--res_pct", type=float, default=95.0, help="percentile that counts as 1")
    group.add_argument("--w_mv", type=float, default=1.0, help="weight of motion")
    group.add_argument("--w_res", type=float, default=1.0, help="weight of the residual")
    group.add_argument(
        "--fuse_mode",
        type=only("weighted", "training and evaluation share one fusion"),
        default="weighted",
    )
    group.add_argument(
        "--mv_unit_div",
        type=only("4.0", "motion is divided by its own percentile, so a unit has no effect"),
        default="4.0",
    )
    refuse(parser, {"--res_use_grad": "training and evaluation share one residual energy"})
    _add_selector_arguments(parser)


def _add_selector_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("selector")
    group.add_argument(
        "--select",
        choices=SELECTORS,
        default="topk",
        help="by score, by what would be missed, or whole frames",
    )
    group.add_argument(
        "--block_cells", type=int, default=1, help="2 = choose and pack 2 x 2 cells as one"
    )
    group.add_argument(
        "--distortion",
        choices=DISTORTIONS,
        default="sharp",
        help="how rate_distortion judges a difference",
    )
    group.add_argument(
        "--direction",
        choices=DIRECTIONS,
        default="nearest",
        help="whether a slot may show what is kept later (rate_distortion)",
    )
    group.add_argument(
        "--predict",
        choices=PREDICTIONS,
        default="search",
        help="whether what is kept may shift to show another slot (rate_distortion)",
    )
    group.add_argument(
        "--quality_db",
        type=float,
        default=0.0,
        help="stop where the rebuilt video has this PSNR (rate_distortion); 0 = spend the budget",
    )
    group.add_argument(
        "--token_price",
        type=float,
        default=0.0,
        help="price of a kept cell (rate_distortion); 0 = what meets the budget",
    )


def add_budget_arguments(parser: argparse.ArgumentParser) -> None:
    """How the budget is shared out over time."""
    parser.add_argument("--keep_mid_full_frame", action="store_true")
    parser.add_argument(
        "--mid_full_frame_index", type=int, default=-1, help="a slot; -1 = T // 2, 0 = none"
    )
    parser.add_argument("--topk_mode", choices=TOPK_MODES, default="global")
    parser.add_argument(
        "--time_bucket_count", type=int, default=-1, help="-1 = one per mosaic that is left"
    )
    parser.add_argument("--window_len", type=int, default=0, help="frames; 0 = the whole video")
    parser.add_argument("--window_pick", choices=WINDOW_PICKS, default="none")


def add_run_arguments(parser: argparse.ArgumentParser, log_every: int, num_workers: int) -> None:
    """Settings of the run that change no byte of the output."""
    group = parser.add_argument_group("run")
    group.add_argument("--num_workers", type=int, default=num_workers)
    group.add_argument(
        "--maxtasks_per_child", type=int, default=2000, help="0 = never replace a worker"
    )
    group.add_argument(
        "--timeout_seconds", type=float, default=1800.0, help="limit for one video; 0 = none"
    )
    group.add_argument(
        "--memory_limit_mib", type=int, default=4096, help="limit for one worker; 0 = none"
    )
    group.add_argument("--log_every", type=int, default=log_every, help="samples per progress line")
    group.add_argument("--max_samples", type=int, default=0, help="first rows of the file; 0 = all")
    group.add_argument("--num_shards", type=int, default=1)
    group.add_argument("--shard_id", type=int, default=0)
    group.add_argument("--overwrite", action="store_true", help="make again what stands already")
    group.add_argument("--dry_run", action="store_true", help="only say what there is to do")
    group.add_argument("--backend", default="auto", choices=BACKEND_NAMES)
    group.add_argument("--require_exact", action="store_true", help="refuse estimated signals")
    group.add_argument(
        "--video_root", type=Path, help="relative videos; default: the data set's folder"
    )


def add_packing_arguments(parser: argparse.ArgumentParser) -> None:
    """Settings of the mosaics."""
    parser.add_argument("--order", choices=ORDERS, default="raster", help="rows inside one slot")
    parser.add_argument("--jpg_quality", type=int, default=95)


def config_from(args: argparse.Namespace) -> AssetConfig:
    """The settings among a command's arguments; the others keep their defaults."""
    given = vars(args)
    return AssetConfig(**{f.name: given[f.name] for f in fields(AssetConfig) if f.name in given})


def read_options_from(args: argparse.Namespace) -> ReadOptions:
    """How the command reads videos: one thread per worker."""
    return ReadOptions(backend=args.backend, require_exact=args.require_exact)


def check_shards(args: argparse.Namespace) -> None:
    """Refuse shard numbers that name no shard."""
    if args.num_shards < 1 or not 0 <= args.shard_id < args.num_shards:
        raise SettingsError(
            f"--shard_id must be in [0, num_shards), got {args.shard_id} of {args.num_shards}"
        )


def check_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be made or written.

    Raises:
        SettingsError: with the system's reason.
    """
    try:
        with new_file(folder / "probe") as path:
            path.touch()
        (folder / "probe").unlink()
    except OSError as error:
        raise SettingsError(
            f"{folder}: cannot be written ({error.strerror}); choose another output folder"
        ) from error


def shard_suffix(args: argparse.Namespace) -> str:
    """``shard00of01``."""
    return f"shard{args.shard_id:02d}of{args.num_shards:02d}"


def run_tasks(
    function: Callable[[Any], Any], tasks: Iterable[Any], args: argparse.Namespace
) -> Iterable[Outcome[Any, Any]]:
    """``run_isolated`` with a command's arguments."""
    return run_isolated(
        function,
        tasks,
        num_workers=args.num_workers,
        timeout_seconds=args.timeout_seconds,
        memory_limit_mib=args.memory_limit_mib,
        tasks_per_worker=args.maxtasks_per_child,
    )
