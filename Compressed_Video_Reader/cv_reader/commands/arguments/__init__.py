"""Arguments that several commands share: settings of selection and packing, and of the run.

One meaning has one name in all commands; the names that the reference implementation and earlier
versions gave it stay as aliases.
"""

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol

from cv_reader.backends import BACKEND_NAMES
from cv_reader.commands.arguments.parser import only, refuse
from cv_reader.cores import available_cores
from cv_reader.engines.choice import add_scheduler_arguments
from cv_reader.errors import SettingsError
from cv_reader.reader import ReadOptions
from cv_reader.remote.choice import add_remote_arguments
from cv_reader.select.config import CHOICES, AssetConfig

HDR_HELP = "how HDR video (PQ, HLG) is read: shown as SDR (tonemap), refused, or as raw samples"


def add_dataset_argument(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Add the file that lists the samples."""
    parser.add_argument(
        "--dataset_path",
        "--input_dataset",
        "--jsonl",
        metavar="FILE",
        type=Path,
        required=True,
        help=help_text,
    )


def add_fail_argument(parser: argparse.ArgumentParser) -> None:
    """Add the failure file."""
    parser.add_argument(
        "--fail_txt",
        metavar="FILE",
        type=Path,
        help="file for one JSON line per failed sample (default: next to the output)",
    )


class _Group(Protocol):
    """A parser or a group of its arguments."""

    def add_argument(self, *flags: str, **settings: Any) -> argparse.Action: ...


def add_setting(
    group: _Group, name: str, help_text: str, *aliases: str, metavar: str | None = None
) -> None:
    """Add a setting of assets; its type, values and default are those of ``AssetConfig``."""
    default: bool | str | int | float = getattr(AssetConfig, name)
    flags, more = (f"--{name}", *aliases), dict[str, Any](help=help_text)
    if isinstance(default, bool):
        more |= {"action": "store_true"}
    else:
        more |= {"type": type(default), "default": default, "metavar": metavar}
        more |= {"choices": CHOICES.get(name)}
    group.add_argument(*flags, **more)


def add_size_arguments(parser: argparse.ArgumentParser, description: str | None = None) -> None:
    """Add the number of frames, mosaics and pixels; ``description`` says of what."""
    group = parser.add_argument_group("size", description)
    add_setting(
        group,
        "sequence_length",
        "number of frames sampled from a video, T",
        "--seq_len_frames",
        "--T",
        metavar="T",
    )
    add_setting(
        group,
        "num_images",
        "number of mosaics per video: the budget of kept cells, in whole frames",
        "--keep_frames_equiv",
        metavar="G",
    )
    add_setting(group, "square_size", "side of the padded square frame and of a mosaic, in pixels")
    add_setting(group, "patch_size", "side of a cell, in pixels", "--patch")


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings of energy and selection."""
    group = parser.add_argument_group("scoring")
    for name, help_text in _SCORING.items():
        add_setting(group, name, help_text)
    group.add_argument(
        "--fuse_mode",
        type=only("weighted", "training and evaluation share one fusion"),
        default="weighted",
        help="accepted for compatibility; only weighted: the sum by --w_mv and --w_res",
    )
    group.add_argument(
        "--mv_unit_div",
        type=only("4.0", "motion is divided by its own percentile, so a unit has no effect"),
        default="4.0",
        help="accepted for compatibility; only 4.0, because motion is divided by its own "
        "percentile",
    )
    refuse(parser, {"--res_use_grad": "training and evaluation share one residual energy"})
    group = parser.add_argument_group("selector")
    for name, help_text in _SELECTOR.items():
        add_setting(group, name, help_text)


_SCORING = {
    "padding_policy": "how the budget is filled once all new content is kept: with padding and "
    "repeated frames by index (zero), with cells of repeated frames before padding (exclude), or "
    "with copies of the last cell (repeat)",
    "hdr": HDR_HELP,
    "signal": "signal from which the score of a cell is computed",
    "mv_compensate": "estimate of the camera's motion that is subtracted from the vectors before "
    "scoring",
    "frames": "sample frames evenly by frame number (uniform) or by coded bytes (bitcost); cheap "
    "moves even ones by 0.7 of a step at most to where little has to be decoded",
    "mv_pct": "percentile of a frame's motion energy that is scaled to 1",
    "res_pct": "percentile of a frame's residual energy that is scaled to 1",
    "w_mv": "weight of the motion energy",
    "w_res": "weight of the residual energy",
}
_SELECTOR = {
    "select": "choose cells by score (topk), by what a rebuilt video would miss "
    "(rate_distortion), or whole frames at even distances (uniform)",
    "block_cells": "side of the blocks of cells that are chosen and packed together: 1 or 2",
    "distortion": "with rate_distortion: measure of the difference between a cell and what is "
    "shown in its place",
    "direction": "with rate_distortion: show a cell that is not kept by the nearest kept one, "
    "earlier or later (nearest), or by the last kept one (hold)",
    "predict": "with rate_distortion: let a kept cell shift along the motion to show another slot "
    "by a small search (search), also along the codec's vectors through every picture between "
    "(vectors), or not (still)",
    "quality_db": "with rate_distortion: PSNR of the rebuilt video, in dB, at which selection "
    "stops; 0 = spend the whole budget",
    "token_price": "with rate_distortion: price of a kept cell, in units of distortion; 0 = the "
    "price at which the budget is spent",
}
"""Settings of assets to what they mean, in the order of ``--help``."""


def add_mean_argument(parser: argparse.ArgumentParser) -> None:
    """Add the mean budget of a data set."""
    parser.add_argument(
        "--mean_num_images",
        type=float,
        default=0.0,
        help="with rate_distortion: mean number of mosaics per video, reached by one price for "
        "the data set; 0 = --num_images mosaics for every video",
    )


def refuse_mean_argument(parser: argparse.ArgumentParser) -> None:
    """Refuse the mean budget where no data set gets a price."""
    reason = "its price is that of a data set; take --token_price of its token_price.json"
    refuse(parser, {"--mean_num_images": reason})


def add_budget_arguments(parser: argparse.ArgumentParser, *, is_first_frame_whole: bool) -> None:
    """Add how the budget is spread over time."""
    group = parser.add_argument_group("budget")
    default = "yes" if is_first_frame_whole else "no"
    group.add_argument(
        "--keep_first_full_frame",
        action="store_true",
        default=is_first_frame_whole,
        help=f"keep all cells of the first frame (default: {default})",
    )
    group.add_argument(
        "--no_first_full_frame",
        dest="keep_first_full_frame",
        action="store_false",
        help="select cells of the first frame as of all other frames",
    )
    for name, help_text in _BUDGET.items():
        add_setting(group, name, help_text)


_BUDGET = {
    "keep_uniform_first": "keep all cells of the first frame that show content",
    "keep_mid_full_frame": "also keep all cells of one frame in the middle",
    "mid_full_frame_index": "slot of that frame; -1 = T // 2, 0 = none",
    "topk_mode": "take the best cells of the whole video (global), or of each of several time "
    "spans (time_bucket)",
    "time_bucket_count": "number of time spans; -1 = one for each mosaic that is not a whole frame",
    "sample_start_offset": "number of the first frame that may be sampled",
    "window_len": "number of frames of the window to sample from; 0 = the whole video",
    "window_pick": "place of that window; energy3 = the one of begin, mid and end with the most "
    "coded bytes",
}


def add_packing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings of the mosaics."""
    group = parser.add_argument_group("packing")
    add_setting(
        group,
        "order",
        "order of the cells of a slot: all rows from left to right (raster), or odd rows from "
        "right to left (zigzag)",
    )
    add_setting(
        group,
        "jpg_quality",
        "JPEG quality of the mosaics, 1 to 100; 0 = uncompressed PPM files, which training reads "
        "in a third of the time and which take ten times the room",
    )


def add_run_arguments(
    parser: argparse.ArgumentParser, log_every: int, num_workers: int, *, is_shared: bool = True
) -> None:
    """Add the settings of the run that change no byte of the output.

    Args:
        parser: of the command.
        log_every: default of ``--log_every``.
        num_workers: default of ``--num_workers``.
        is_shared: whether several runs may share a data set, and a ledger knows what is finished.
    """
    add_worker_arguments(parser, num_workers, timeout_seconds=1800.0, tasks_per_worker=2000)
    add_scheduler_arguments(parser)
    add_remote_arguments(parser)
    add_reading_arguments(parser, has_exact=True, has_threads=False)
    group = parser.add_argument_group("run")
    group.add_argument(
        "--log_every",
        type=int,
        default=log_every,
        help="number of samples between two lines of progress",
    )
    group.add_argument(
        "--max_samples", type=int, default=0, help="number of rows to read, from the first; 0 = all"
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="make output again that exists, even if it was made with other settings",
    )
    group.add_argument(
        "--video_root",
        metavar="FOLDER",
        type=Path,
        help="folder that relative video paths start from (default: the folder of the data set)",
    )
    group.add_argument(
        "--num_threads",
        type=int,
        default=0,
        help="number of threads that decode one video; 0 = 1, or more where there are fewer "
        "videos than workers and cores",
    )
    if is_shared:
        _add_share_arguments(parser)


def _add_share_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("share")
    tries_help = "number of runs that try a sample; 0 = any"
    group.add_argument("--max_tries", type=int, default=0, help=tries_help)
    trust_help = "do not look at files of finished samples"
    group.add_argument("--trust_ledger", action="store_true", help=trust_help)
    group.add_argument(
        "--num_shards", type=int, default=1, help="number of runs that share the data set"
    )
    group.add_argument("--shard_id", type=int, default=0, help="number of this run, from 0")
    group.add_argument(
        "--dry_run",
        action="store_true",
        help="write nothing; print what would be done and what it would cost",
    )


def add_reading_arguments(
    parser: argparse.ArgumentParser, *, has_exact: bool = False, has_threads: bool = True
) -> None:
    """Add how videos are read."""
    group = parser.add_argument_group("reading")
    group.add_argument(
        "--backend",
        choices=BACKEND_NAMES,
        default="auto",
        help="backend that reads the video; auto takes the most exact one that can",
    )
    if has_exact:
        group.add_argument(
            "--require_exact",
            action="store_true",
            help="refuse videos whose signals can only be estimated",
        )
    if has_threads:
        group.add_argument(
            "--num_threads", type=int, default=1, help="number of threads that decode"
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
    group.add_argument(
        "--num_workers", type=int, default=num_workers, help="number of worker processes"
    )
    group.add_argument(
        "--maxtasks_per_child",
        type=int,
        default=tasks_per_worker,
        help="number of samples after which a worker process is replaced; 0 = never",
    )
    group.add_argument(
        "--timeout_seconds",
        type=float,
        default=timeout_seconds,
        help="time limit for one sample, in seconds; 0 = none",
    )
    group.add_argument(
        "--memory_limit_mib",
        type=int,
        default=4096,
        help="memory limit for one worker process, in MiB; 0 = none",
    )


def config_from(args: argparse.Namespace) -> AssetConfig:
    """Return the settings among a command's arguments; the others keep their defaults."""
    given = vars(args)
    return AssetConfig(**{f.name: given[f.name] for f in fields(AssetConfig) if f.name in given})


def read_options_from(args: argparse.Namespace) -> ReadOptions:
    """Return how the command reads videos: one thread per worker, unless more are asked for.

    Raises:
        SettingsError: The number of threads is negative.
    """
    if args.num_threads < 0:
        raise SettingsError(f"--num_threads must be at least 0, got {args.num_threads}")
    return ReadOptions(
        backend=args.backend,
        require_exact=args.require_exact,
        num_threads=max(args.num_threads, 1),
    )


def with_threads(options: ReadOptions, args: argparse.Namespace, num_videos: int) -> ReadOptions:
    """Return how to read so many videos: threads take the cores that workers leave free.

    No byte of the output depends on them.
    """
    if args.num_threads:
        return options
    share = min(args.num_workers, available_cores()) // max(num_videos, 1)
    return replace(options, num_threads=max(share, 1))


def check_shards(args: argparse.Namespace) -> None:
    """Refuse shard numbers that name no shard.

    Raises:
        SettingsError: The numbers name no shard.
    """
    if args.num_shards < 1 or not 0 <= args.shard_id < args.num_shards:
        raise SettingsError(
            f"--shard_id must be in [0, num_shards), got {args.shard_id} of {args.num_shards}"
        )


def shard_suffix(args: argparse.Namespace) -> str:
    """Return a name such as ``shard00of01``."""
    return f"shard{args.shard_id:02d}of{args.num_shards:02d}"
