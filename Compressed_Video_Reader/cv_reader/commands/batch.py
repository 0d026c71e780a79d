"""What commands that work on many samples share: arguments of a run, and its tasks."""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from cv_reader.assets.files import temporary_path
from cv_reader.backends import BACKEND_NAMES
from cv_reader.engines import local
from cv_reader.engines.tasks import Limits, Outcome
from cv_reader.errors import SettingsError
from cv_reader.reader import ReadOptions
from cv_reader.select.config import AssetConfig


def add_run_arguments(parser: argparse.ArgumentParser, log_every: int, num_workers: int) -> None:
    """Add the settings of the run that change no byte of the output."""
    add_worker_arguments(parser, num_workers, timeout_seconds=1800.0, tasks_per_worker=2000)
    group = parser.add_argument_group("run")
    group.add_argument("--log_every", type=int, default=log_every, help="samples per progress line")
    group.add_argument(
        "--max_samples", type=int, default=0, help="use only the first rows of the file; 0 = all"
    )
    group.add_argument("--num_shards", type=int, default=1, help="runs that share the data set")
    group.add_argument("--shard_id", type=int, default=0, help="which of them this is, from 0")
    group.add_argument(
        "--overwrite", action="store_true", help="remake existing output, whatever made it"
    )
    group.add_argument(
        "--dry_run", action="store_true", help="only say what there is to do, and estimate its cost"
    )
    group.add_argument(
        "--backend", default="auto", choices=BACKEND_NAMES, help="reader; auto = the best there is"
    )
    group.add_argument("--require_exact", action="store_true", help="refuse estimated signals")
    group.add_argument(
        "--video_root",
        metavar="FOLDER",
        type=Path,
        help="folder of relative videos; default: that of the data set",
    )


def add_worker_arguments(
    parser: argparse.ArgumentParser,
    num_workers: int,
    *,
    timeout_seconds: float,
    tasks_per_worker: int = 0,
) -> None:
    """Add the limits of worker processes."""
    group = parser.add_argument_group("workers")
    group.add_argument("--num_workers", type=int, default=num_workers, help="processes at a time")
    group.add_argument(
        "--maxtasks_per_child",
        type=int,
        default=tasks_per_worker,
        help="replace a process after so many samples; 0 = never",
    )
    group.add_argument(
        "--timeout_seconds",
        type=float,
        default=timeout_seconds,
        help="limit for one sample; 0 = none",
    )
    group.add_argument(
        "--memory_limit_mib", type=int, default=4096, help="limit for one process; 0 = none"
    )


def config_from(args: argparse.Namespace) -> AssetConfig:
    """Return the settings among a command's arguments; the others keep their defaults."""
    given = vars(args)
    return AssetConfig(**{f.name: given[f.name] for f in fields(AssetConfig) if f.name in given})


def read_options_from(args: argparse.Namespace) -> ReadOptions:
    """Return how the command reads videos: one thread per worker."""
    return ReadOptions(backend=args.backend, require_exact=args.require_exact)


def check_shards(args: argparse.Namespace) -> None:
    """Refuse shard numbers that name no shard.

    Raises:
        SettingsError: with the numbers.
    """
    if args.num_shards < 1 or not 0 <= args.shard_id < args.num_shards:
        raise SettingsError(
            f"--shard_id must be in [0, num_shards), got {args.shard_id} of {args.num_shards}"
        )


def check_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be made or written; nothing is left in it.

    Raises:
        SettingsError: with the system's reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = temporary_path(folder)
        trial.touch(exist_ok=False)
        trial.unlink(missing_ok=True)
    except OSError as error:
        raise SettingsError(
            f"{folder}: cannot be written ({error.strerror}); choose another output folder"
        ) from error


def shard_suffix(args: argparse.Namespace) -> str:
    """Return a name such as ``shard00of01``."""
    return f"shard{args.shard_id:02d}of{args.num_shards:02d}"


def run_tasks(
    function: Callable[[Any], Any], tasks: Iterable[Any], args: argparse.Namespace
) -> Iterable[Outcome[Any, Any]]:
    """Run tasks by the command's engine and limits; outcomes come in the order of the tasks."""
    limits = Limits(
        num_workers=args.num_workers,
        timeout_seconds=args.timeout_seconds,
        memory_mib=args.memory_limit_mib,
        tasks_per_worker=args.maxtasks_per_child,
    )
    return local.run_tasks(function, tasks, limits)
