"""``cv_reader precompute --stage 1,2``: both stages of a data set, one decode pass per video.

Writes what ``stage1`` and ``stage2`` write, byte for byte: the chosen cells in ``--visidx_root``,
the folders in ``--out_image_root``, and the training JSONL.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from cv_reader.assets.claims import claimed_output
from cv_reader.assets.freshness import refuse_other_settings, usable_meta
from cv_reader.assets.metadata import META
from cv_reader.assets.samples import BadRow, VideoSample, check_video
from cv_reader.assets.stage1 import Stage1, is_selected
from cv_reader.assets.stage2 import Stage2, is_packed, make_both, read_stage1_meta
from cv_reader.commands.arguments import (
    add_dataset_argument,
    add_packing_arguments,
    add_run_arguments,
    check_shards,
    shard_suffix,
)
from cv_reader.commands.progress import check_writable, dry_run, looked_over
from cv_reader.commands.stage1 import (
    add_selection_arguments,
    check_selections,
    samples_of,
    stage1_from,
    with_price,
)
from cv_reader.commands.stage2 import add_output_arguments, stage2_from, write_jsonl
from cv_reader.errors import SampleError
from cv_reader.exits import run_command
from cv_reader.select.config import AssetConfig


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("precompute --stage 1,2", description=__doc__)
    add_dataset_argument(parser, ".json array or .jsonl of samples")
    parser.add_argument(
        "--visidx_root", metavar="FOLDER", type=Path, required=True, help="stage 1's output folder"
    )
    add_output_arguments(parser)
    add_selection_arguments(parser)
    add_packing_arguments(parser)
    add_run_arguments(parser, log_every=200, num_workers=8)
    return parser


def _run(args: argparse.Namespace) -> int:
    check_shards(args)
    first = with_price(stage1_from(args, args.visidx_root), args)
    plain = AssetConfig()
    # Stage 1 does not know how stage 2 will pack; its files record the defaults.
    config = replace(first.config, order=plain.order, jpg_quality=plain.jpg_quality)
    first = replace(first, config=config)
    stage = stage2_from(args, first, first_full=False, skip_missing=False)
    if args.dry_run:
        state, trial = partial(_state, stage), partial(_trial, stage)
        return dry_run("precompute", samples_of(args), state, trial, args)
    total = check_selections(first, args)
    if not args.overwrite:
        for sample in looked_over("precompute", samples_of(args)):
            if isinstance(sample, VideoSample):
                packing = stage.packing(config)
                refuse_other_settings(partial(usable_meta, stage.folder(sample) / META, packing))
    check_writable(args.visidx_root)
    with claimed_output(args.visidx_root, shard_suffix(args), args.visidx_root):
        return write_jsonl("precompute", stage, make_both, args, total)


def _state(stage: Stage2, sample: VideoSample | BadRow) -> str:
    if isinstance(sample, BadRow):
        raise SampleError(sample.reason)
    first: Stage1 = stage.first
    check_video(first.video(sample))
    is_done = is_selected(first, sample) and is_packed(
        stage, sample, read_stage1_meta(stage, sample)
    )
    return "kept" if is_done else "make"


def _trial(stage: Stage2, folder: Path, sample: VideoSample) -> None:
    first = replace(stage.first, out_root=folder / "1", overwrite=True)
    make_both(replace(stage, first=first, out_image_root=folder / "2", overwrite=True), sample)
