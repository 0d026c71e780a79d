"""``cv_reader precompute``: make the evaluation assets of a list of videos, one decode pass each.

Reads JSONL lines with ``video`` and, optionally, ``key``; writes ``<out_root>/assets/<key>/``. A
line without a key gets the one that the evaluator derives from the path.

``--stage 1``, ``--stage 2`` and ``--stage 1,2`` make training data instead, with the flags of
``cv_reader stage1`` and ``cv_reader stage2``; ``1,2`` decodes every video once.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from cv_reader.assets.claims import claimed_output
from cv_reader.assets.freshness import refuse_other_settings, usable_meta
from cv_reader.assets.make import (
    EvaluationRun,
    EvaluationVideo,
    is_made,
    is_up_to_date,
    make_evaluation_asset,
)
from cv_reader.assets.metadata import META
from cv_reader.assets.names import asset_key, evaluation_key
from cv_reader.assets.rows import Row, read_rows
from cv_reader.assets.samples import check_video, video_fault
from cv_reader.commands.arguments import (
    add_budget_arguments,
    add_dataset_argument,
    add_fail_argument,
    add_mean_argument,
    add_packing_arguments,
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
from cv_reader.commands.convert.output import TarOutput, add_output_choice, refuse_shards
from cv_reader.commands.progress import (
    Report,
    announce,
    check_writable,
    dry_run,
    looked_over,
    run_unfinished,
)
from cv_reader.engines.choice import check_engine
from cv_reader.errors import AssetError, SampleError, SettingsError
from cv_reader.exits import run_command, say
from cv_reader.ledger import Ledger, Place, ledger_path
from cv_reader.remote.addresses import check_scheme, is_address, joined
from cv_reader.remote.choice import ASKED_OF_STORE, check_places, local_output, remote_reading
from cv_reader.remote.output import put_reports


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    choice = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    choice.add_argument("--stage", choices=_STAGES)
    chosen, rest = choice.parse_known_args(argv)
    if chosen.stage:
        # Imported here: evaluation assets need neither.
        from cv_reader.commands import stage1, stage2

        main_of = {"1": stage1.main, "2": stage2.main, "1,2": stage2.main_of_both}
        return main_of[chosen.stage](rest)
    return run_command(_run, _parser().parse_args(rest))


_STAGES = ("1", "2", "1,2")


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("cv_reader precompute", __doc__)
    parser.add_argument(
        "--stage",
        choices=_STAGES,
        metavar="STAGE",
        help="make training data instead of evaluation assets: 1, 2, or both as 1,2; --stage"
        " 1 --help lists its arguments",
    )
    add_dataset_argument(parser, ".jsonl of lines with video and, optionally, key")
    parser.add_argument(
        "--out_root", metavar="FOLDER", type=Path, required=True, help="folder to write assets to"
    )
    parser.add_argument(
        "--only_exists",
        action="store_true",
        default=True,
        help="accepted for compatibility; lines with exists=false are always left out",
    )
    add_fail_argument(parser)
    add_size_arguments(parser)
    add_budget_arguments(parser, is_first_frame_whole=True)
    add_scoring_arguments(parser)
    add_mean_argument(parser)
    add_packing_arguments(parser)
    add_output_choice(parser)
    add_run_arguments(parser, log_every=20, num_workers=8)
    refuse(
        parser,
        {
            "--chunksize": "videos are handed out one at a time",
            "--opencv_threads": "OpenCV is not used",
        },
    )
    return parser


def _run(args: argparse.Namespace) -> int:
    from cv_reader.pricing import priced_config

    check_shards(args)
    check_engine(args)
    remote = remote_reading(args)
    check_places([args.dataset_path, args.video_root], args.out_root)
    out_root, store = local_output(args, args.out_root)
    is_tar = args.output == "tar"
    if is_tar:
        # Shards are packed on this disk: engines must see the folder.
        args.out_root = out_root
    work = EvaluationRun(
        config=config_from(args),
        options=read_options_from(args),
        data_file=args.dataset_path,
        video_root=args.video_root,
        out_root=out_root,
        overwrite=args.overwrite,
        remote=remote,
        # Folders that become shards stay on this disk.
        store=None if is_tar else store,
    )
    videos = (work.video(line) for line in _lines(args) if line.key)
    config = priced_config(work.config, args.mean_num_images, videos, work.options, work.out_root)
    work = replace(work, config=config)
    if args.dry_run:
        state, trial = partial(_state, work), partial(_trial, work)
        return dry_run("precompute", _shard(args), state, trial, args)
    total = _check_lines(work, args)
    work = replace(work, options=with_threads(work.options, args, total))
    check_writable(out_root)
    suffix = shard_suffix(args)
    fail_path = args.fail_txt or out_root / f"precompute_failed.{suffix}.txt"
    summary_path = out_root / f"summary.{suffix}.json"
    folders = (out_root, out_root / "assets")
    with (
        claimed_output(out_root, suffix, *folders),
        Ledger(ledger_path(out_root, suffix), work.asked) as ledger,
        Report("precompute", fail_path, args.log_every, total) as report,
        _shards(work, args, ledger, store) as shards,
    ):
        announce("precompute", total, args)
        function = partial(make_evaluation_asset, work)
        places = _places(work, is_tar=is_tar, is_trusted=args.trust_ledger)
        for outcome in run_unfinished(function, _shard(args), args, ledger, places, shards):
            line: EvaluationVideo = outcome.task
            if outcome.failure:
                report.fail(outcome.failure, key=line.key, video=line.video, where=line.where)
            else:
                report.count(cast(str, outcome.value))
        if shards:
            shards.close()
        code = report.finish(summary_path, work.config)
    if store is not None:
        put_reports([summary_path, fail_path], store)
        say(f"precompute: assets and reports are at {store}")
    return code


def _shards(
    work: EvaluationRun, args: argparse.Namespace, ledger: Ledger, store: str | None
) -> AbstractContextManager[TarOutput | None]:
    if args.output == "folder":
        refuse_shards(Path(store or work.out_root) / "assets")
        return nullcontext()
    is_current = partial(_is_current, work)
    shards = None if store is None else f"{store}/assets"
    return TarOutput(work.out_root / "assets", args, ledger, is_current, shards)


def _is_current(work: EvaluationRun, line: EvaluationVideo, folder: Path) -> bool:
    return is_up_to_date(folder, work.video(line), work.config, work.options)


def _lines(args: argparse.Namespace) -> Iterator[EvaluationVideo]:
    """Return every line of the file, those of other shards too."""
    for number, (where, row) in enumerate(read_rows(args.dataset_path)):
        if args.max_samples and number >= args.max_samples:
            return
        yield _line(row, where, args.video_root)


def _line(row: Row | SampleError, where: str, video_root: Path | None) -> EvaluationVideo:
    if isinstance(row, SampleError):
        return EvaluationVideo(where, "", "", str(row))
    video, key = row.get("video"), row.get("key")
    if fault := video_fault(video):
        return EvaluationVideo(where, "", "", f"{where}: {fault}")
    video = str(video)
    if row.get("exists") is False:
        return EvaluationVideo(where, "", video)
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    if key is not None and (not isinstance(key, str) or not key):
        reason = f"{where}: key must be a string or a number, got {key!r}; leave it out"
        return EvaluationVideo(where, "", video, reason)
    try:
        return EvaluationVideo(
            where, asset_key(key) if key else evaluation_key(video, video_root), video
        )
    except AssetError as error:
        return EvaluationVideo(where, "", video, f"{where}: {error}")


def _shard(args: argparse.Namespace) -> Iterator[EvaluationVideo]:
    """Return this shard's lines: one per key, without those that say their video is missing."""
    done: set[int] = set()
    for number, line in enumerate(_lines(args)):
        if number % args.num_shards != args.shard_id or (not line.key and not line.reason):
            continue
        if line.reason:
            yield line
        elif hash(line.key) not in done:
            done.add(hash(line.key))
            yield line


def _check_lines(work: EvaluationRun, args: argparse.Namespace) -> int:
    """Refuse to start where keys collide, or where output was made with other settings.

    Returns:
        Number of videos of this shard.

    Raises:
        SettingsError: naming two lines with one key and different videos.
        StaleAssetError: naming the first output made with other settings.
    """
    # Hashes in place of names: a list may be long, and only its collisions need to be read again.
    videos: dict[int, int] = {}
    mine: set[int] = set()
    left_out = faults = 0
    path = ledger_path(work.out_root, shard_suffix(args))
    with Ledger(path, work.asked, is_read_only=True) as known:
        lines = looked_over("precompute", _lines(args))
        for number, (line, is_known) in enumerate(known.marked(lines, _key)):
            is_mine = number % args.num_shards == args.shard_id
            if not line.key:
                faults += bool(line.reason) and is_mine
                left_out += not line.reason
                continue
            check_scheme(line.video)
            key, video = hash(line.key), hash(line.video)
            if is_mine:
                mine.add(key)
            if key not in videos:
                videos[key] = video
                is_asked = work.store is None or len(videos) <= ASKED_OF_STORE
                if is_asked and not work.overwrite and not is_known:
                    refuse_other_settings(partial(_usable, work, line))
            elif videos[key] != video:
                _refuse_shared_key(line, args)
    if left_out:
        say(f"precompute: left out {left_out} lines that say that their video does not exist")
    return len(mine) + faults


def _key(line: EvaluationVideo) -> str:
    return line.key


def _refuse_shared_key(line: EvaluationVideo, args: argparse.Namespace) -> None:
    for first in _lines(args):
        if first.key == line.key and first.video != line.video:
            raise SettingsError(
                f"{line.where}: {line.video} has the key {line.key!r} of {first.video} "
                f"({first.where}); give them different keys, or pass --video_root"
            )


def _usable(work: EvaluationRun, line: EvaluationVideo) -> object:
    options = work.options
    return usable_meta(
        work.place(line) / META,
        work.config,
        backend=options.backend,
        require_exact=options.require_exact,
    )


def _state(work: EvaluationRun, line: EvaluationVideo) -> str:
    if line.reason:
        raise SampleError(line.reason)
    check_video(work.video(line))
    return "kept" if is_made(work, line) else "make"


def _places(
    work: EvaluationRun, *, is_tar: bool, is_trusted: bool
) -> Callable[[EvaluationVideo], Place | None]:
    """Return what says where the ledger looks for the video of a line and its asset."""
    root = work.video_root or work.data_file.parent
    is_far = work.store is not None or is_address(root)
    videos, assets = os.path.join(root, ""), f"{work.out_root}/assets/"

    def place(line: EvaluationVideo) -> Place | None:
        if line.reason:
            return None
        if is_far or is_address(line.video):
            # The ledger looks at files of this machine; without it the store is asked, by a worker
            # or, of a sample in a shard, by the run.
            if is_trusted:
                return Place(line.key, [], [])
            return Place(line.key, [str(joined(root, line.video))], []) if is_tar else None
        video = line.video if line.video.startswith("/") else videos + line.video
        return Place(line.key, [video], [f"{assets}{line.key}/"])

    return place


def _trial(work: EvaluationRun, folder: Path, line: EvaluationVideo) -> None:
    make_evaluation_asset(replace(work, out_root=folder, store=None, overwrite=True), line)
