"""``cv_reader stage2``: pack what stage 1 chose into mosaics, and write the training JSONL.

Writes per sample ``sample_{id}__{stem}__{hash}/`` with ``{stem}_000.jpg`` and so on,
``positions_thw.npy``, ``frame_ids.npy`` and ``meta.json``. The lines of the JSONL are in the order
of the data set. ``--mode rewrite`` decodes nothing and lists the samples whose folder is complete.
``precompute --stage 1,2``, both stages in one pass, is ``main_of_both``.
"""

import argparse
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from cv_reader.assets.claims import claimed_file, claimed_output
from cv_reader.assets.freshness import refuse_other_settings, usable_meta
from cv_reader.assets.metadata import META
from cv_reader.assets.names import META_SUFFIX
from cv_reader.assets.samples import BadRow, VideoSample, describe_sample
from cv_reader.assets.stage1 import Stage1, is_selected
from cv_reader.assets.stage2 import (
    Stage2,
    check_existing,
    find_packed,
    is_packed,
    make_both,
    pack_sample,
    packing_state,
    read_stage1_meta,
    state_of_both,
    training_record,
    try_both,
    try_packing,
)
from cv_reader.commands.arguments import (
    add_dataset_argument,
    add_fail_argument,
    add_packing_arguments,
    add_run_arguments,
    add_size_arguments,
    check_shards,
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
from cv_reader.commands.stage1 import (
    add_selection_arguments,
    check_selections,
    samples_of,
    stage1_from,
    with_price,
)
from cv_reader.engines.choice import check_engine
from cv_reader.engines.tasks import Failure
from cv_reader.errors import SettingsError
from cv_reader.exits import run_command, say
from cv_reader.ledger import Ledger, Place, ledger_path
from cv_reader.remote.addresses import address_of, is_address
from cv_reader.remote.choice import ASKED_OF_STORE, check_places, local_output, remote_reading
from cv_reader.remote.output import put_reports
from cv_reader.select.config import ALGORITHM_VERSION, AssetConfig

_BOTH_TEXT = """``cv_reader precompute --stage 1,2``: both stages, one decode pass per video.

Writes what ``stage1`` and ``stage2`` write, byte for byte: the chosen cells in ``--visidx_root``,
the folders in ``--out_image_root``, and the training JSONL.
"""

Work = Callable[[Stage2, VideoSample | BadRow], str]


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("cv_reader stage2", __doc__)
    parser.add_argument(
        "--mode",
        choices=("pack", "rewrite"),
        default="pack",
        help="make the samples' folders (pack), or only list complete ones in the JSONL (rewrite)",
    )
    add_dataset_argument(parser, ".json array or .jsonl, as stage 1 read it")
    parser.add_argument(
        "--visidx_root", metavar="FOLDER", type=Path, help="output folder of stage 1"
    )
    parser.add_argument(
        "--layout",
        choices=("time_spatial", "spatial"),
        default="time_spatial",
        help="accepted for compatibility; only time_spatial: cells in the order of slot, row"
        " and column",
    )
    parser.add_argument(
        "--first_full",
        action="store_true",
        help="fail samples whose first mosaic is not the whole first frame",
    )
    parser.add_argument(
        "--skip_missing",
        "--skip_missing_packs",
        action="store_true",
        help="leave out samples without output of stage 1 (with --mode rewrite: without a "
        "folder) instead of failing them",
    )
    add_output_arguments(parser)
    add_size_arguments(parser)
    add_packing_arguments(parser)
    add_run_arguments(parser, log_every=200, num_workers=1)
    refuse(parser, {"--export_patches": "single patches are no input of the model"})
    return parser


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where folders and lines are written."""
    parser.add_argument(
        "--out_jsonl", metavar="FILE", type=Path, required=True, help="training JSONL to write"
    )
    parser.add_argument(
        "--out_image_root",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="folder for the samples' folders; the JSONL names them with this prefix, as given",
    )
    parser.add_argument(
        "--shard_dirs",
        action="store_true",
        help="put the samples' folders into shardNN folders of --out_image_root",
    )
    parser.add_argument(
        "--write_positions",
        "--include_positions",
        action="store_true",
        help="name positions_thw.npy in the JSONL; codec training needs it",
    )
    parser.add_argument(
        "--force_shard_out",
        action="store_true",
        help="add the shard's suffix to the name of --out_jsonl even if there is only one shard",
    )
    add_output_choice(parser)
    add_fail_argument(parser)


def _run(args: argparse.Namespace) -> int:
    check_shards(args)
    check_engine(args)
    if args.layout == "spatial":
        raise SettingsError(
            "--layout spatial is not supported: cells of one row and column overwrite each other, "
            "so positions would not describe the images; use time_spatial"
        )
    is_packing = args.mode == "pack"
    if is_packing and args.visidx_root is None:
        raise SettingsError("--visidx_root is required to pack")
    if args.output == "tar" and not is_packing:
        raise SettingsError("--mode rewrite lists folders; drop --output tar")
    if args.dry_run and not is_packing:
        raise SettingsError("--dry_run counts what there is to pack; drop --mode rewrite")
    first = Stage1(
        config=AssetConfig(
            sequence_length=args.sequence_length,
            num_images=args.num_images,
            square_size=args.square_size,
            patch_size=args.patch_size,
        ),
        options=read_options_from(args),
        data_file=args.dataset_path,
        video_root=args.video_root,
        out_root=args.visidx_root or Path(),
        overwrite=False,
        remote=remote_reading(args),
        store=args.visidx_root and address_of(args.visidx_root),
    )
    if is_packing and first.store is None and not first.out_root.is_dir():
        raise SettingsError(f"--visidx_root {first.out_root}: no such folder; run stage 1 first")
    check_places([args.visidx_root])
    stage = stage2_from(args, first, first_full=args.first_full, skip_missing=args.skip_missing)
    if args.dry_run:
        state, trial = partial(packing_state, stage), partial(try_packing, stage)
        return dry_run("stage2", samples_of(args), state, trial, args)
    total = 0
    path = ledger_path(stage.out_image_root, shard_suffix(args))
    with Ledger(path, _asked(stage, pack_sample), is_read_only=True) as known:
        for sample in looked_over("stage2", samples_of(args)):
            total += 1
            if not is_packing or not isinstance(sample, VideoSample):
                continue
            is_asked = not stage.is_in_store or total <= ASKED_OF_STORE
            if is_asked and not known.is_known(stage.folder(sample).name):
                refuse_other_settings(partial(check_existing, stage, sample))
    return write_jsonl("stage2", stage, pack_sample if is_packing else find_packed, args, total)


def stage2_from(
    args: argparse.Namespace, first: Stage1, *, first_full: bool, skip_missing: bool
) -> Stage2:
    """Return the stage that a command's arguments describe."""
    check_places([args.dataset_path, args.video_root], args.out_image_root)
    check_places([], args.out_jsonl.parent)
    local, store = local_output(args, args.out_image_root)
    is_tar = args.output == "tar"
    if is_tar:
        # Shards are packed on this disk: engines must see the folder.
        args.out_image_root = local
    return Stage2(
        first=first,
        order=args.order,
        jpg_quality=args.jpg_quality,
        out_image_root=local,
        first_full=first_full,
        overwrite=args.overwrite,
        skip_missing=skip_missing,
        shard_folder=f"shard{args.shard_id:02d}" if args.shard_dirs else "",
        store=None if is_tar else store,
        shards=store if is_tar else None,
    )


def write_jsonl(name: str, stage: Stage2, work: Work, args: argparse.Namespace, total: int) -> int:
    """Make every sample's folder, and write the lines of those that are complete.

    Args:
        name: name of the command.
        stage: settings of the folders.
        work: makes one folder.
        args: arguments of the command.
        total: number of samples of this shard.

    Returns:
        The exit code.
    """
    check_writable(stage.out_image_root)
    options = with_threads(stage.first.options, args, total)
    stage = replace(stage, first=replace(stage.first, options=options))
    folder, store = local_output(args, args.out_jsonl.parent)
    out_jsonl, suffix = folder / args.out_jsonl.name, shard_suffix(args)
    if args.num_shards > 1 or args.force_shard_out:
        out_jsonl = Path(f"{out_jsonl}.{suffix}.jsonl")
    check_writable(out_jsonl.parent)
    fail_path = args.fail_txt or Path(f"{out_jsonl}.fail.txt")
    summary_path = Path(f"{out_jsonl}.summary.json")
    folders = stage.out_image_root / stage.shard_folder
    with (
        claimed_output(stage.out_image_root, suffix, folders),
        Ledger(ledger_path(stage.out_image_root, suffix), _asked(stage, work)) as ledger,
        Report(name, fail_path, args.log_every, total) as report,
        _shards(stage, work, args, ledger) as shards,
    ):
        announce(name, total, args)
        with claimed_file(out_jsonl) as lines:
            is_tar = shards is not None
            places = partial(_place, stage, work, is_tar=is_tar, is_trusted=args.trust_ledger)
            for outcome in run_unfinished(
                partial(work, stage), samples_of(args), args, ledger, places, shards
            ):
                failure, line = outcome.failure, ""
                if failure is None and outcome.value != "skipped":
                    line, failure = _line_of(stage, outcome.task, args, shards)
                if failure:
                    report.fail(failure, **describe_sample(outcome.task))
                    continue
                lines.write(line)
                report.count(str(outcome.value))
            if shards:
                shards.close()
        code = report.finish(summary_path, stage.packing(stage.first.config))
    if store is not None:
        put_reports([out_jsonl, summary_path, fail_path], store)
        say(f"{name}: lines and reports are at {store}")
    return code


def _asked(stage: Stage2, work: Work) -> str:
    """Return what decides whether a finished folder is what this run would make."""
    asked = f"{ALGORITHM_VERSION} {stage.order} {stage.jpg_quality} {stage.first_full}"
    return f"{asked} {stage.first.asked}" if work is make_both else asked


def _place(
    stage: Stage2,
    work: Work,
    sample: VideoSample | BadRow,
    *,
    is_tar: bool,
    is_trusted: bool,
) -> Place | None:
    if isinstance(sample, BadRow) or work is find_packed:
        return None
    first, folder = stage.first, stage.folder(sample)
    video = first.video(sample)
    inputs = [str(video), str(first.file(sample, META_SUFFIX))]
    if stage.is_in_store or is_address(video):
        # The ledger looks at files of this machine; see ``precompute``.
        if is_trusted:
            return Place(folder.name, [], [])
        return Place(folder.name, inputs, []) if is_tar else None
    if work is make_both:
        outputs = [f"{folder}/", *first.files(sample)]
        return Place(folder.name, [str(video)], outputs)
    return Place(folder.name, inputs, [f"{folder}/"])


def _shards(
    stage: Stage2, work: Work, args: argparse.Namespace, ledger: Ledger
) -> AbstractContextManager[TarOutput | None]:
    if args.output == "folder":
        refuse_shards(Path(stage.store or stage.out_image_root) / stage.shard_folder)
        return nullcontext()
    is_current = partial(_is_current, stage, work)
    store = stage.shards and "/".join(filter(None, (stage.shards, stage.shard_folder)))
    folder = stage.out_image_root / stage.shard_folder
    return TarOutput(folder, args, ledger, is_current, store)


def _is_current(stage: Stage2, work: Work, sample: VideoSample, folder: Path) -> bool:
    if work is make_both and not is_selected(stage.first, sample):
        return False
    return is_packed(stage, sample, read_stage1_meta(stage, sample), folder)


def _line_of(
    stage: Stage2, sample: VideoSample, args: argparse.Namespace, shards: TarOutput | None
) -> tuple[str, Failure | None]:
    folder = shards.path(stage.folder(sample).name) if shards else None
    try:
        record = training_record(stage, sample, with_positions=args.write_positions, folder=folder)
        return json.dumps(record, ensure_ascii=False) + "\n", None
    except RecursionError:
        reason = f"{sample.where}: the conversation is nested too deeply; remove what is extra"
        return "", Failure("SampleError", reason)


def main_of_both(argv: list[str] | None = None) -> int:
    """Run both stages in one decode pass per video, as ``precompute --stage 1,2``.

    Writes what ``stage1`` and ``stage2`` write, byte for byte.

    Returns:
        The exit code.
    """
    return run_command(_run_both, _parser_of_both().parse_args(argv))


def _parser_of_both() -> argparse.ArgumentParser:
    parser = new_parser("cv_reader precompute --stage 1,2", _BOTH_TEXT)
    add_dataset_argument(parser, ".json array or .jsonl of samples")
    parser.add_argument(
        "--visidx_root", metavar="FOLDER", type=Path, required=True, help="output folder of stage 1"
    )
    add_output_arguments(parser)
    add_selection_arguments(parser)
    add_packing_arguments(parser)
    add_run_arguments(parser, log_every=200, num_workers=8)
    return parser


def _run_both(args: argparse.Namespace) -> int:
    check_shards(args)
    check_engine(args)
    first = with_price(stage1_from(args, args.visidx_root), args)
    plain = AssetConfig()
    # Stage 1 does not know how stage 2 will pack; its files record the defaults.
    config = replace(first.config, order=plain.order, jpg_quality=plain.jpg_quality)
    first = replace(first, config=config)
    stage = stage2_from(args, first, first_full=False, skip_missing=False)
    if args.dry_run:
        state, trial = partial(state_of_both, stage), partial(try_both, stage)
        return dry_run("precompute", samples_of(args), state, trial, args)
    total = check_selections(first, args)
    path = ledger_path(stage.out_image_root, shard_suffix(args))
    known = Ledger(path, _asked(stage, make_both), is_read_only=True)
    if not args.overwrite:
        packing = stage.packing(config)
        for number, sample in enumerate(looked_over("precompute", samples_of(args))):
            is_asked = not stage.is_in_store or number < ASKED_OF_STORE
            if not is_asked or not isinstance(sample, VideoSample):
                continue
            if not known.is_known(stage.folder(sample).name):
                refuse_other_settings(partial(usable_meta, stage.place(sample) / META, packing))
    known.close()
    check_writable(first.out_root)
    with claimed_output(first.out_root, shard_suffix(args), first.out_root):
        return write_jsonl("precompute", stage, make_both, args, total)
