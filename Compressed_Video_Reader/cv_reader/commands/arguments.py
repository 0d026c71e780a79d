"""Arguments that several commands share: settings of selection and packing, and of the run.

One meaning has one name in all commands; the names that the reference implementation and earlier
versions gave it stay as aliases.
"""

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from cv_reader.backends import BACKEND_NAMES
from cv_reader.errors import SettingsError
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

HDR_ARGUMENT: dict[str, Any] = {
    "choices": HDR_MODES,
    "default": "tonemap",
    "help": "HDR video (PQ, HLG): show it as SDR (default), refuse it, or read raw samples",
}
"""Settings of ``--hdr``, which commands share."""


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
    """Accept flags, with or without a value, and refuse them with a reason."""
    for flag, reason in flags.items():
        # The help is hidden, so the metavar is free to carry the reason.
        parser.add_argument(flag, action=Refuse, nargs="?", metavar=reason, help=argparse.SUPPRESS)


def only(value: str, reason: str) -> Callable[[str], str]:
    """Return an argument type that accepts one value, and refuses others with the reason."""

    def check(text: str) -> str:
        if text != value:
            raise argparse.ArgumentTypeError(f"{text!r} is not supported, only {value!r}: {reason}")
        return text

    return check


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
        help="write one JSON line per failed sample here; default: next to the output",
    )


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the number of frames, mosaics and pixels."""
    group = parser.add_argument_group("size")
    group.add_argument(
        "--sequence_length",
        "--seq_len_frames",
        "--T",
        metavar="T",
        type=int,
        default=64,
        help="frames sampled from a video",
    )
    group.add_argument(
        "--num_images",
        "--keep_frames_equiv",
        metavar="G",
        type=int,
        default=8,
        help="mosaics per video: the budget in full frames",
    )
    group.add_argument(
        "--square_size", type=int, default=576, help="side of the square and of a mosaic, pixels"
    )
    group.add_argument(
        "--patch_size", "--patch", type=int, default=16, help="side of a cell, pixels"
    )


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings of energy and selection."""
    group = parser.add_argument_group("scoring")
    group.add_argument(
        "--padding_policy",
        choices=PADDING_POLICIES,
        default="zero",
        help="what fills slots once all content is kept: padding (zero), content first (exclude), "
        "the last cell again (repeat)",
    )
    group.add_argument("--hdr", **HDR_ARGUMENT)
    group.add_argument(
        "--signal", choices=SIGNALS, default="reference", help="what a cell's score is made of"
    )
    group.add_argument(
        "--mv_compensate",
        choices=COMPENSATIONS,
        default="median",
        help="how the camera's motion is subtracted",
    )
    group.add_argument(
        "--frames",
        choices=FRAME_SAMPLINGS,
        default="uniform",
        help="spread the sampled frames evenly by number, or by coded bytes (bitcost)",
    )
    group.add_argument(
        "--mv_pct", type=float, default=95.0, help="percentile of a frame's motion that counts as 1"
    )
    group.add_argument(
        "--res_pct",
        type=float,
        default=95.0,
        help="percentile of a frame's residual that counts as 1",
    )
    group.add_argument("--w_mv", type=float, default=1.0, help="weight of motion")
    group.add_argument("--w_res", type=float, default=1.0, help="weight of the residual")
    group.add_argument(
        "--fuse_mode",
        type=only("weighted", "training and evaluation share one fusion"),
        default="weighted",
        help="only weighted: the sum by --w_mv and --w_res",
    )
    group.add_argument(
        "--mv_unit_div",
        type=only("4.0", "motion is divided by its own percentile, so a unit has no effect"),
        default="4.0",
        help="only 4.0: motion is divided by its own percentile",
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
        "--mean_num_images",
        type=float,
        default=0.0,
        help="mosaics per video on average, by one price for the data set (rate_distortion); "
        "0 = --num_images for every video",
    )
    group.add_argument(
        "--token_price",
        type=float,
        default=0.0,
        help="price of a kept cell (rate_distortion); 0 = what meets the budget",
    )


def add_budget_arguments(parser: argparse.ArgumentParser, *, is_first_frame_whole: bool) -> None:
    """Add how the budget is spread over time."""
    group = parser.add_argument_group("budget")
    default = "yes" if is_first_frame_whole else "no"
    group.add_argument(
        "--keep_first_full_frame",
        action="store_true",
        default=is_first_frame_whole,
        help=f"keep all cells of the first frame; default: {default}",
    )
    group.add_argument(
        "--no_first_full_frame",
        dest="keep_first_full_frame",
        action="store_false",
        help="let the first frame compete like the others",
    )
    group.add_argument(
        "--keep_uniform_first",
        action="store_true",
        help="keep all cells of the first frame that show content",
    )
    group.add_argument(
        "--keep_mid_full_frame", action="store_true", help="keep all cells of one middle frame too"
    )
    group.add_argument(
        "--mid_full_frame_index", type=int, default=-1, help="its slot; -1 = T // 2, 0 = none"
    )
    group.add_argument(
        "--topk_mode",
        choices=TOPK_MODES,
        default="global",
        help="take the best cells of the whole video, or of each of several spans (time_bucket)",
    )
    group.add_argument(
        "--time_bucket_count", type=int, default=-1, help="spans; -1 = one per mosaic that is left"
    )
    group.add_argument(
        "--sample_start_offset", type=int, default=0, help="first frame that may be sampled"
    )
    group.add_argument(
        "--window_len",
        type=int,
        default=0,
        help="sample within so many frames; 0 = the whole video",
    )
    group.add_argument(
        "--window_pick",
        choices=WINDOW_PICKS,
        default="none",
        help="where that window is; energy3 = the largest of begin, mid and end by coded bytes",
    )


def add_packing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings of the mosaics."""
    group = parser.add_argument_group("packing")
    group.add_argument(
        "--order",
        choices=ORDERS,
        default="raster",
        help="order of cells within a slot: raster, or odd rows from right to left (zigzag)",
    )
    group.add_argument("--jpg_quality", type=int, default=95, help="quality of mosaics, 1..100")


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
        "--overwrite", action="store_true", help="remake existing output, with any settings"
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


def shard_suffix(args: argparse.Namespace) -> str:
    """Return a name such as ``shard00of01``."""
    return f"shard{args.shard_id:02d}of{args.num_shards:02d}"
