"""Make the codec assets of benchmarks: find or fetch videos, name them, run the asset tool.

Run: ``python -m llava.eval.benchmarks.prepare videomme mvbench`` (or ``all``), mostly through
``scripts/precompute_codec_patch/preprocess_video_benchmark.sh``. A second run makes only what is
missing. Flags that are not listed here go to the asset tool (``--overwrite``, ``--backend native``,
``--num_shards 8 --shard_id 0`` ...). Variables give the defaults: HF_HOME, NUM_WORKERS,
SEQ_LEN_FRAMES, NUM_IMAGES, SQUARE_SIZE, PATCH_SIZE (or LLAVA_CODEC_<the same>), DRY_RUN, and
LLAVA_CODEC_<NAME> for every other setting of assets, such as LLAVA_CODEC_SELECT.

Exit codes: 0 all done, 1 some videos failed, 2 nothing started for a benchmark, 130 interrupted.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cv_reader.assets import AssetConfig, evaluation_key
from llava.eval.benchmarks.download import DownloadError, download
from llava.eval.benchmarks.table import VIDEO_BENCHMARKS, VIDEO_SUFFIXES, Benchmark, find_benchmark
from llava.eval.environment import hf_home, switch, variable, variables
from llava.eval.settings import SIZE_FLAGS, environment_defaults, read_selection
from run_kit.arguments import command_parser
from run_kit.exits import INTERRUPTED, OK, USAGE, say
from run_kit.files import write_json_lines

_DEFAULT_WORKERS = "8"

_JPEG_BYTES_PER_PIXEL = 0.5
"""Size of a mosaic at quality 95: the most that detailed videos took."""
_TABLE_BYTES_PER_CELL = 3 * 4 + 8
"""positions_thw.npy (three int32) and visible_indices.npy (int64)."""
_META_BYTES = 8192


class PrepareError(ValueError):
    """The assets of a benchmark cannot be made."""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args, tool_flags = _parser().parse_known_args(argv)
    try:
        benchmarks = _chosen(args.tasks)
        config = AssetConfig(
            sequence_length=args.seq_len_frames,
            num_images=args.num_images,
            square_size=args.square_size,
            patch_size=args.patch_size,
            **read_selection(environment_defaults(variables())),
        )
    except ValueError as error:
        say(f"error: {error}")
        return USAGE
    codes: dict[str, int] = {}
    for benchmark in benchmarks:
        codes[benchmark.name] = _prepare(benchmark, config, args, tool_flags)
        if codes[benchmark.name] == INTERRUPTED:
            return INTERRUPTED
    if len(codes) > 1:
        say("exit codes: " + ", ".join(f"{name} {code}" for name, code in codes.items()))
    return max(codes.values())


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("llava.eval.benchmarks.prepare", __doc__)
    names = ", ".join(item.name for item in VIDEO_BENCHMARKS)
    parser.add_argument("tasks", nargs="+", metavar="TASK", help=f"all, or of: {names}")
    for name, default, meaning in (
        ("seq_len_frames", AssetConfig.sequence_length, "number of frames sampled from a video"),
        ("num_images", AssetConfig.num_images, "number of mosaics per video"),
        ("square_size", AssetConfig.square_size, "side of a mosaic, in pixels"),
        ("patch_size", AssetConfig.patch_size, "side of a cell, in pixels"),
    ):
        text = variable(name.upper(), f"LLAVA_CODEC_{name.upper()}", default=str(default))
        parser.add_argument(f"--{name}", type=int, default=text, help=meaning)
    parser.add_argument(
        "--num_workers",
        default=variable("NUM_WORKERS", default=_DEFAULT_WORKERS),
        help="number of worker processes",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        default=switch("DRY_RUN"),
        help="write and fetch nothing; print what would be done",
    )
    return parser


def _chosen(tasks: Sequence[str]) -> list[Benchmark]:
    """Return the benchmarks asked for, each once, in the order given.

    Raises:
        PrepareError: A name is unknown, or its benchmark has no videos.
    """
    if list(tasks) == ["all"]:
        return list(VIDEO_BENCHMARKS)
    chosen: dict[str, Benchmark] = {}
    for task in tasks:
        benchmark = find_benchmark(task)
        if benchmark is None or not benchmark.is_video:
            names = ", ".join(item.name for item in VIDEO_BENCHMARKS)
            reason = (
                "is not a known benchmark" if benchmark is None else "has images instead of videos"
            )
            raise PrepareError(f"{task} {reason}; give all, or some of {names}")
        chosen[benchmark.name] = benchmark
    return list(chosen.values())


def _prepare(
    benchmark: Benchmark, config: AssetConfig, args: argparse.Namespace, tool_flags: Sequence[str]
) -> int:
    home = hf_home()
    try:
        videos = _videos(benchmark, home, dry_run=args.dry_run)
    except (PrepareError, DownloadError) as error:
        say(f"error: {error}")
        return USAGE
    named = name_videos(videos, benchmark.videos_folder(home))
    _say_sizes(benchmark, named, config, home)
    command = _tool_command(benchmark, config, args.num_workers, home, tool_flags)
    if args.dry_run:
        sys.stdout.write(f"{shlex.join(command)}\n")
        return OK
    listing = ({"video": str(video), "key": key} for key, video in named.items())
    write_json_lines(benchmark.listing(home), listing)
    return _run(command)


def _videos(benchmark: Benchmark, home: Path, *, dry_run: bool) -> list[Path]:
    folder = benchmark.videos_folder(home)
    if not (home / benchmark.cache_folder).exists():
        if dry_run:
            say(f"{benchmark.name}: would fetch {benchmark.dataset}")
            return []
        download(benchmark, home)
    videos = find_videos(folder)
    if not videos and not dry_run:
        raise PrepareError(
            f"{benchmark.name}: no videos below {folder}, where lmms-eval looks for them; put them "
            f"there, or remove {home / benchmark.cache_folder} to have {benchmark.dataset} fetched"
        )
    return videos


def find_videos(folder: Path) -> list[Path]:
    """Return every video below a folder, sorted; links are followed, suffixes in any case."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name)
            for name in names
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith(".")
        ]
    return sorted(found)


def name_videos(videos: Sequence[Path], root: Path) -> dict[str, Path]:
    """Return the videos by key.

    Of files that differ only in the suffix the first gets the plain key; the others keep their
    suffix in the key.
    """
    named: dict[str, Path] = {}
    for video in videos:
        key = evaluation_key(video, root)
        if key in named:
            key = evaluation_key(video.with_name(f"{video.name}.again"), root)
        named[key] = video
    return named


def asset_bytes(config: AssetConfig) -> int:
    """Return roughly the most bytes that one asset takes on disk."""
    pixels = config.num_images * config.square_size**2
    cells = config.num_images * (config.square_size // config.patch_size) ** 2
    bytes_per_pixel = _JPEG_BYTES_PER_PIXEL if config.jpg_quality else 3
    return int(pixels * bytes_per_pixel) + cells * _TABLE_BYTES_PER_CELL + _META_BYTES


def _say_sizes(
    benchmark: Benchmark, named: dict[str, Path], config: AssetConfig, home: Path
) -> None:
    assets = benchmark.assets_folder(home)
    missing = sum(not (assets / key).is_dir() for key in named)
    gigabytes = missing * asset_bytes(config) / 1e9
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    text = (
        f"{benchmark.name}: {len(named)} videos, {missing} without assets; these take at most "
        f"about {gigabytes:.1f} GB in {assets}, {free:.1f} GB are free there"
    )
    if gigabytes > free:
        say(f"warning: {text}: the disk may fill up; a second run continues where this one ends")
    else:
        say(text)


def _tool_command(
    benchmark: Benchmark,
    config: AssetConfig,
    num_workers: str,
    home: Path,
    tool_flags: Sequence[str],
) -> list[str]:
    return [
        *(sys.executable, "-m", "cv_reader.commands.main", "precompute"),
        *("--jsonl", str(benchmark.listing(home))),
        *("--out_root", str(benchmark.offline_folder(home))),
        *("--num_workers", num_workers),
        *("--seq_len_frames", str(config.sequence_length)),
        *("--num_images", str(config.num_images)),
        *("--square_size", str(config.square_size)),
        *("--patch_size", str(config.patch_size)),
        *config.to_flags(leave_out=[name for name, _ in SIZE_FLAGS.values()]),
        *tool_flags,
    ]


def _run(command: Sequence[str]) -> int:
    """Run the asset tool and return its exit code; it handles an interruption itself."""
    with subprocess.Popen(command) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


if __name__ == "__main__":
    sys.exit(main())
