"""``cv_reader stage1``: choose the cells of every video of a data set.

Writes per sample ``<name>.visidx_thw.npy`` int32 (K, 3), ``<name>.frame_ids.npy`` int32 (T,) and,
last, ``<name>.meta.json``; ``assets.names.stage1_prefix`` gives the name. Stage 2 packs them.
"""

import argparse
import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from cv_reader.assets.claims import claimed_output
from cv_reader.assets.files import new_file
from cv_reader.assets.freshness import refuse_other_settings
from cv_reader.assets.samples import BadRow, VideoSample, check_video, describe_sample, read_samples
from cv_reader.assets.stage1 import Stage1, is_selected, make_selection, usable_selection
from cv_reader.commands.arguments import (
    add_budget_arguments,
    add_dataset_argument,
    add_fail_argument,
    add_mean_argument,
    add_run_arguments,
    add_scoring_arguments,
    add_size_arguments,
    check_shards,
    config_from,
    read_options_from,
    shard_suffix,
    with_threads,
)
from cv_reader.commands.arguments.parser import new_parser, refuse
from cv_reader.commands.progress import (
    Report,
    announce,
    check_writable,
    dry_run,
    looked_over,
    run_unfinished,
)
from cv_reader.engines.choice import check_engine
from cv_reader.errors import SampleError, SettingsError
from cv_reader.exits import FAILED_SAMPLES, OK, run_command, say
from cv_reader.ledger import Ledger, Place, ledger_path
from cv_reader.remote.addresses import is_address
from cv_reader.remote.choice import ASKED_OF_STORE, check_places, local_output, remote_reading
from cv_reader.remote.output import put_reports


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run_command(_split if args.shard_dataset_out_dir else _run, args)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("cv_reader stage1", __doc__)
    add_dataset_argument(parser, ".json array or .jsonl of samples")
    parser.add_argument(
        "--out_root", metavar="FOLDER", type=Path, help="folder to write the chosen cells to"
    )
    parser.add_argument(
        "--shard_dataset_out_dir",
        metavar="FOLDER",
        type=Path,
        help="folder for the data set split into --num_shards files; nothing else is done",
    )
    add_fail_argument(parser)
    add_selection_arguments(parser)
    add_run_arguments(parser, log_every=1000, num_workers=8)
    refuse(parser, {"--unsupported_txt": "refused codecs are listed in the failure file"})
    return parser


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what decides which cells of a sample are kept."""
    add_size_arguments(parser)
    add_budget_arguments(parser, is_first_frame_whole=False)
    add_scoring_arguments(parser)
    add_mean_argument(parser)
    parser.add_argument(
        "--check_codec",
        action="store_true",
        help="fail samples whose video has a codec not in --allowed_codecs",
    )
    parser.add_argument(
        "--allowed_codecs",
        default="h264,hevc,h265,avc1",
        help="codecs that --check_codec accepts, separated by commas",
    )


def stage1_from(args: argparse.Namespace, out_root: Path) -> Stage1:
    """Return the stage that a command's arguments describe."""
    remote = remote_reading(args)
    check_places([args.dataset_path, args.video_root], out_root)
    local, store = local_output(args, out_root)
    codecs = tuple(args.allowed_codecs.split(",")) if args.check_codec else ()
    return Stage1(
        config=config_from(args),
        options=replace(read_options_from(args), allowed_codecs=codecs),
        data_file=args.dataset_path,
        video_root=args.video_root,
        out_root=local,
        overwrite=args.overwrite,
        remote=remote,
        store=store,
    )


def with_price(stage: Stage1, args: argparse.Namespace) -> Stage1:
    """Return a stage whose price meets ``--mean_num_images`` over the data set."""
    from cv_reader.pricing import priced_config

    every = read_samples(args.dataset_path, max_samples=args.max_samples)
    videos = (stage.video(sample) for sample in every if isinstance(sample, VideoSample))
    config = priced_config(
        stage.config, args.mean_num_images, videos, stage.options, stage.out_root
    )
    return replace(stage, config=config)


def _run(args: argparse.Namespace) -> int:
    check_shards(args)
    check_engine(args)
    if args.out_root is None:
        raise SettingsError("--out_root is required")
    stage = with_price(stage1_from(args, args.out_root), args)
    if args.dry_run:
        state, trial = partial(_state, stage), partial(_trial, stage)
        return dry_run("stage1", samples_of(args), state, trial, args)
    total = check_selections(stage, args)
    stage = replace(stage, options=with_threads(stage.options, args, total))
    suffix = shard_suffix(args)
    out_root = stage.out_root
    fail_path = args.fail_txt or out_root / f"stage1_failed.{suffix}.txt"
    summary_path = out_root / f"stage1_summary.{suffix}.json"
    check_writable(out_root)
    with (
        claimed_output(out_root, suffix, out_root),
        Ledger(ledger_path(out_root, suffix), stage.asked) as ledger,
        Report("stage1", fail_path, args.log_every, total) as report,
    ):
        announce("stage1", total, args)
        function = partial(make_selection, stage)
        places = partial(_place, stage, is_trusted=args.trust_ledger)
        for outcome in run_unfinished(function, samples_of(args), args, ledger, places):
            if outcome.failure:
                report.fail(outcome.failure, **describe_sample(outcome.task))
            else:
                report.count(str(outcome.value))
        code = report.finish(summary_path, stage.config)
    if stage.store is not None:
        put_reports([summary_path, fail_path], stage.store)
        say(f"stage1: files and reports are at {stage.store}")
    return code


def samples_of(args: argparse.Namespace) -> Iterator[VideoSample | BadRow]:
    """Return this shard's samples."""
    return read_samples(
        args.dataset_path,
        num_shards=args.num_shards,
        shard_id=args.shard_id,
        max_samples=args.max_samples,
    )


def check_selections(stage: Stage1, args: argparse.Namespace) -> int:
    """Refuse to start where existing output was made with other settings.

    Returns:
        Number of samples of this shard.

    Raises:
        StaleAssetError: naming the first output made with other settings.
        SettingsError, SampleError: if the data set cannot be read.
    """
    total = 0
    path = ledger_path(stage.out_root, shard_suffix(args))
    with Ledger(path, stage.asked, is_read_only=True) as known:
        for sample in looked_over("stage1", samples_of(args)):
            total += 1
            if not isinstance(sample, VideoSample) or stage.overwrite:
                continue
            is_asked = stage.store is None or total <= ASKED_OF_STORE
            if is_asked and not known.is_known(stage.name(sample)):
                refuse_other_settings(partial(usable_selection, stage, sample))
    return total


def _place(stage: Stage1, sample: VideoSample | BadRow, *, is_trusted: bool) -> Place | None:
    if isinstance(sample, BadRow):
        return None
    if stage.store is not None or is_address(stage.video(sample)):
        # The ledger looks at files of this machine; without it a worker asks the store.
        return Place(stage.name(sample), [], []) if is_trusted else None
    return Place(stage.name(sample), [str(stage.video(sample))], stage.files(sample))


def _state(stage: Stage1, sample: VideoSample | BadRow) -> str:
    if isinstance(sample, BadRow):
        raise SampleError(sample.reason)
    check_video(stage.video(sample))
    return "kept" if is_selected(stage, sample) else "make"


def _trial(stage: Stage1, folder: Path, sample: VideoSample) -> None:
    make_selection(replace(stage, out_root=folder, store=None, overwrite=True), sample)


def _split(args: argparse.Namespace) -> int:
    """Write each shard's rows to a file of its own, with ``_row_idx`` and all their fields."""
    folder, total = args.shard_dataset_out_dir, args.num_shards
    if total < 1:
        raise SettingsError(f"--num_shards must be at least 1, got {total}")
    stem, bad = args.dataset_path.stem, 0
    names = [f"{stem}.shard{shard:02d}of{total:02d}.jsonl" for shard in range(total)]
    with contextlib.ExitStack() as stack:
        try:
            paths = [stack.enter_context(new_file(folder / name)) for name in names]
            streams = [
                stack.enter_context(path.open("w", encoding="utf-8", errors="backslashreplace"))
                for path in paths
            ]
        except OSError as error:
            raise SettingsError(f"{folder}: cannot be written ({error.strerror})") from error
        for sample in read_samples(args.dataset_path, max_samples=args.max_samples):
            if isinstance(sample, BadRow):
                bad += 1
                say(f"stage1: left out: {sample.reason}")
                continue
            row = {**sample.row, "_row_idx": sample.row_index}
            try:
                line = json.dumps(row, ensure_ascii=False)
            except RecursionError:
                bad += 1
                say(f"stage1: left out: {sample.where}: nested too deeply; remove the row")
                continue
            streams[sample.shard(total)].write(line + "\n")
    say(f"stage1: {total} shards in {folder}; pass --video_root where videos are relative paths")
    return FAILED_SAMPLES if bad else OK
