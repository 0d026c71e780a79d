"""``cv_reader stage2``: pack what stage 1 chose into mosaics, and write the training JSONL.

Writes per sample ``sample_{id}__{stem}__{hash}/`` with ``{stem}_000.jpg`` and so on,
``positions_thw.npy``, ``frame_ids.npy`` and ``meta.json``. Lines of the JSONL stand in the order of
the data set. ``--mode rewrite`` decodes nothing and lists the samples whose folder is complete.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cv_reader.assets.contract import META, read_meta
from cv_reader.assets.files import claimed_file, claimed_output
from cv_reader.assets.freshness import standing_meta
from cv_reader.assets.samples import BadSample, Sample, check_video, describe
from cv_reader.assets.stage1 import META_SUFFIX, Stage1
from cv_reader.assets.stage2 import (
    Stage2,
    chosen_config,
    find_packed,
    is_packed,
    pack_sample,
    read_chosen,
    training_record,
)
from cv_reader.commands.arguments import (
    add_packing_arguments,
    add_run_arguments,
    check_shards,
    check_writable,
    read_options_from,
    refuse,
    run_command,
    run_tasks,
    shard_suffix,
)
from cv_reader.commands.progress import Report, dry_run, looked_over
from cv_reader.commands.stage1 import samples_of
from cv_reader.errors import SampleError, SettingsError
from cv_reader.select.config import AssetConfig

Work = Callable[[Stage2, Sample | BadSample], str]


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("stage2", description=__doc__)
    parser.add_argument("--mode", choices=("pack", "rewrite"), default="pack")
    parser.add_argument(
        "--input_dataset", dest="dataset_path", type=Path, required=True, help=".json or .jsonl"
    )
    parser.add_argument("--visidx_root", type=Path, help="stage 1's output folder")
    parser.add_argument("--num_images", type=int, default=8)
    parser.add_argument("--square_size", type=int, default=576)
    parser.add_argument("--T", type=int, default=64, help="frames sampled by stage 1")
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--layout", choices=("time_spatial", "spatial"), default="time_spatial")
    parser.add_argument(
        "--first_full", action="store_true", help="the first mosaic must be the first frame"
    )
    parser.add_argument("--skip_missing", action="store_true", help="pass over: no stage 1 output")
    parser.add_argument("--include_positions", action="store_true", help="the same for rewrite")
    parser.add_argument("--skip_missing_packs", action="store_true", help="rewrite: pass over")
    add_output_arguments(parser)
    add_packing_arguments(parser)
    add_run_arguments(parser, log_every=200, num_workers=1)
    refuse(parser, {"--export_patches": "single patches are no input of the model"})
    return parser


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Where folders and lines go."""
    parser.add_argument("--out_jsonl", type=Path, required=True)
    parser.add_argument("--out_image_root", type=Path, required=True, help="written as given")
    parser.add_argument(
        "--shard_dirs", action="store_true", help="folders below shardNN of --out_image_root"
    )
    parser.add_argument("--write_positions", action="store_true", help="name them in the JSONL")
    parser.add_argument("--force_shard_out", action="store_true", help="always add the suffix")
    parser.add_argument("--fail_txt", type=Path, help="one JSON line per failed sample")


def _run(args: argparse.Namespace) -> int:
    check_shards(args)
    if args.layout == "spatial":
        raise SettingsError(
            "--layout spatial is not supported: cells that share a place overwrite each other, so "
            "positions would not describe the images; use time_spatial"
        )
    is_packing = args.mode == "pack"
    if is_packing and args.visidx_root is None:
        raise SettingsError("--visidx_root is required to pack")
    if args.dry_run and not is_packing:
        raise SettingsError("--dry_run counts what there is to pack; drop --mode rewrite")
    first = Stage1(
        config=AssetConfig(
            sequence_length=args.T,
            num_images=args.num_images,
            square_size=args.square_size,
            patch_size=args.patch,
        ),
        options=read_options_from(args),
        data_file=args.dataset_path,
        video_root=args.video_root,
        out_root=args.visidx_root or Path(),
        overwrite=False,
    )
    skip_missing = args.skip_missing if is_packing else args.skip_missing_packs
    stage = stage2_from(args, first, first_full=args.first_full, skip_missing=skip_missing)
    if args.dry_run:
        state, trial = partial(_state, stage), partial(_trial, stage)
        return dry_run("stage2", samples_of(args), state, trial, args)
    total = 0
    for sample in looked_over("stage2", samples_of(args)):
        total += 1
        if is_packing and isinstance(sample, Sample):
            _check_standing(stage, sample)
    args.write_positions = args.write_positions or args.include_positions
    return write_jsonl("stage2", stage, pack_sample if is_packing else find_packed, args, total)


def stage2_from(
    args: argparse.Namespace, first: Stage1, *, first_full: bool, skip_missing: bool
) -> Stage2:
    """The stage that a command's arguments describe."""
    return Stage2(
        first=first,
        order=args.order,
        jpg_quality=args.jpg_quality,
        out_image_root=args.out_image_root,
        first_full=first_full,
        overwrite=args.overwrite,
        skip_missing=skip_missing,
        shard_folder=f"shard{args.shard_id:02d}" if args.shard_dirs else "",
    )


def write_jsonl(name: str, stage: Stage2, work: Work, args: argparse.Namespace, total: int) -> int:
    """Make every sample's folder, and write the lines of those that stand.

    Args:
        name: of the command.
        stage: where folders lie, and what they hold.
        work: makes one folder.
        args: the command's.
        total: samples of this shard.

    Returns:
        The exit code.
    """
    check_writable(stage.out_image_root)
    out_jsonl: Path = args.out_jsonl
    suffix = shard_suffix(args)
    if args.num_shards > 1 or args.force_shard_out:
        out_jsonl = Path(f"{out_jsonl}.{suffix}.jsonl")
    check_writable(out_jsonl.parent)
    fail_path = args.fail_txt or Path(f"{out_jsonl}.fail.txt")
    folders = stage.out_image_root / stage.shard_folder
    with (
        claimed_output(stage.out_image_root, suffix, folders),
        Report(name, fail_path, args.log_every, total) as report,
    ):
        with claimed_file(out_jsonl) as lines:
            for outcome in run_tasks(partial(work, stage), samples_of(args), args):
                if outcome.failure:
                    report.fail(outcome.failure, **describe(outcome.task))
                    continue
                if outcome.value != "skipped":
                    record = training_record(
                        stage, outcome.task, with_positions=args.write_positions
                    )
                    lines.write(json.dumps(record, ensure_ascii=False) + "\n")
                report.count(str(outcome.value))
        return report.finish(Path(f"{out_jsonl}.summary.json"), stage.packing(stage.first.config))


def _check_standing(stage: Stage2, sample: Sample) -> None:
    """Refuse to start on a stage 1, or over an output, that was made otherwise."""
    path = stage.first.file(sample, META_SUFFIX)
    if not path.exists():
        return
    config = chosen_config(stage, sample, read_meta(path))
    if not stage.overwrite:
        standing_meta(stage.folder(sample) / META, config)


def _state(stage: Stage2, sample: Sample | BadSample) -> str:
    if isinstance(sample, BadSample):
        raise SampleError(sample.reason)
    check_video(stage.first.video(sample))
    return "kept" if is_packed(stage, sample, read_chosen(stage, sample)) else "make"


def _trial(stage: Stage2, folder: Path, sample: Sample) -> Any:
    return pack_sample(replace(stage, out_image_root=folder, overwrite=True), sample)
