"""``cv_reader index``: write which patches of each video of a list are kept, as one file.

Reads JSONL lines with ``video``, or a list of labelled videos (``path,label``, ``path label`` or
``path::label``), and writes one line per video in the order of the list. The file is the same for
any number of workers. A run that was stopped continues, and videos that have changed are made
again.

``--pickles FILE`` converts selections that the reference implementation cached: its lines are
``video,pickle``, and the pickles are parsed as data; nothing in them is executed.
"""

import argparse
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from cv_reader.assets.claims import claimed_output
from cv_reader.assets.files import flush, make_folders, new_file, writing
from cv_reader.assets.freshness import source_facts
from cv_reader.assets.make import select_from_video
from cv_reader.assets.rows import read_rows
from cv_reader.assets.samples import check_video, video_fault
from cv_reader.codec_index import (
    MAX_LINE_BYTES,
    CodecIndex,
    IndexEntry,
    IndexHeader,
    check_suffix,
    index_line,
    write_index,
)
from cv_reader.commands.arguments import (
    add_budget_arguments,
    add_dataset_argument,
    add_fail_argument,
    add_run_arguments,
    add_scoring_arguments,
    add_size_arguments,
    config_from,
    read_options_from,
    refuse_mean_argument,
)
from cv_reader.commands.arguments.parser import new_parser, refuse
from cv_reader.commands.index.pickles import read_pickle
from cv_reader.commands.progress import Report, announce, run_samples
from cv_reader.engines.choice import check_engine
from cv_reader.errors import AssetError, SampleError, SettingsError, StaleAssetError
from cv_reader.exits import run_command, say
from cv_reader.reader import ReadOptions
from cv_reader.remote.choice import check_places, local_output, remote_reading
from cv_reader.remote.output import put_reports
from cv_reader.remote.videos import RemoteReading, local_list
from cv_reader.select.config import AssetConfig
from cv_reader.select.selection import sample_frame_ids
from cv_reader.video_lists import read_list

_REPAIR = "choose another --out, or pass --overwrite to make it again"


@dataclass(frozen=True)
class Work:
    """Settings that are the same for all entries.

    Attributes:
        header: settings and budget.
        options: how videos are read.
        root: folder that the paths start from.
        pickles: video to the pickle to convert; empty = choose here.
        remote: how videos of object stores and servers are read.
    """

    header: IndexHeader
    options: ReadOptions
    root: Path
    pickles: dict[str, Path]
    remote: RemoteReading


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("cv_reader index", __doc__)
    add_dataset_argument(parser, ".jsonl of lines with video, or a list of labelled videos")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, required=True, help="index to write: .jsonl[.zst]"
    )
    parser.add_argument(
        "--keep",
        "--K_keep",
        metavar="K",
        type=int,
        default=0,
        help="number of cells to keep of each video, as many as whole frames hold unless "
        "--select is topk; 0 = --num_images whole frames",
    )
    parser.add_argument(
        "--pickles", metavar="FILE", type=Path, help="convert pickles: lines video,pickle"
    )
    add_fail_argument(parser)
    add_size_arguments(parser)
    add_budget_arguments(parser, is_first_frame_whole=True)
    add_scoring_arguments(parser)
    refuse_mean_argument(parser)
    add_run_arguments(parser, log_every=100, num_workers=8, is_shared=False)
    alone = "one run writes one file, which says what is finished"
    names = ("max_tries", "trust_ledger", "num_shards", "shard_id", "dry_run")
    refuse(parser, {f"--{name}": alone for name in names})
    # The encoder's patches of 14 pixels in squares of 224: the 64 x 256 cells of the probe.
    parser.set_defaults(square_size=224, patch_size=14)
    return parser


def _run(args: argparse.Namespace) -> int:
    check_suffix(args.out)
    check_engine(args)
    check_places([args.dataset_path, args.video_root])
    folder, store = _local_folder(args)
    videos = _videos(args)
    config = config_from(args)
    if args.keep > 0:
        # As many whole frames as hold the budget; what is over is cut off the end of the choice.
        config = replace(config, num_images=-(-args.keep // config.grid**2))
        _check_keep(config, args.keep)
    header = IndexHeader(config, args.keep or config.num_rows)
    root = args.video_root or args.dataset_path.parent
    pickles = _pickle_paths(args.pickles) if args.pickles else {}
    work = Work(header, read_options_from(args), root, pickles, remote_reading(args))
    out = folder / args.out.name
    journal = out.with_name(out.name + ".partial.jsonl")
    fail_path = args.fail_txt or out.with_name(out.name + ".failed.txt")
    summary_path = out.with_name(out.name + ".summary.json")
    make_folders(folder)
    with claimed_output(folder, out.name, folder):
        if store is not None:
            _fetch_earlier(f"{store}/{out.name}", out)
        old = [] if args.overwrite else _earlier(out, journal, header)
        known = {name: index for index in old for name in index.videos()}
        fresh = {v for v in videos if v in known and known[v].is_fresh(v, root / v)}
        with Report("index", fail_path, args.log_every, len(videos)) as report:
            announce("index", len(videos), args)
            for _ in fresh:
                report.count("kept")
            missing = [v for v in videos if v not in fresh]
            _start_journal(journal, header, old, set(missing))
            _make(work, missing, journal, args, report, set(known))
            made = CodecIndex(journal)
            sources = {v: known[v] for v in fresh} | dict.fromkeys(made.videos(), made)
            write_index(out, header, (sources[v].line(v) for v in videos if v in sources))
            for index in (*old, made):
                index.close()
            journal.unlink()
            code = report.finish(summary_path, config)
        if store is not None:
            put_reports([out, summary_path, fail_path], store)
            say(f"index: the file and its reports are at {store}")
        return code


def _local_folder(args: argparse.Namespace) -> tuple[Path, str | None]:
    """Return the folder of this disk that is written to, and the address it stands for."""
    check_places([], args.out.parent)
    return local_output(args, args.out.parent)


def _fetch_earlier(address: str, out: Path) -> None:
    """Have the finished index of a store on this disk, in place of an older copy.

    Raises:
        SettingsError: The store cannot be asked.
    """
    out.unlink(missing_ok=True)
    try:
        with local_list(Path(address)) as earlier, new_file(out) as temporary:
            shutil.copyfile(earlier, temporary)
    except SettingsError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise


def _start_journal(
    journal: Path, header: IndexHeader, old: list[CodecIndex], missing: set[str]
) -> None:
    """Write this run's journal: the earlier entries, without those that are made again."""
    kept = (
        index.line(video)
        for index in old
        if index.path == journal
        for video in index.videos()
        if video not in missing
    )
    write_index(journal, header, kept)


def _make(
    work: Work,
    missing: list[str],
    journal: Path,
    args: argparse.Namespace,
    report: Report,
    known: set[str],
) -> None:
    """Append the missing entries to the journal, which a stopped run continues."""
    with writing(journal), journal.open("ab") as stream:
        for outcome in run_samples(partial(make_line, work), missing, args):
            if outcome.failure:
                report.fail(outcome.failure, video=outcome.task)
                continue
            stream.write(outcome.value or b"")
            stream.flush()
            report.count("remade" if outcome.task in known else "made")
    flush(journal)


def make_line(work: Work, video: str) -> bytes:
    """Return the line of one video."""
    check_video(work.root / video)
    config, keep = work.header.config, work.header.keep
    may_skim = config.frames != "cheap"
    with work.remote.local_video(work.root / video, may_skim=may_skim) as path:
        if work.pickles:
            return index_line(_converted(work, video, path), config.grid)
        chosen = select_from_video(path, config, work.options)
    entry = IndexEntry(
        video=video,
        source=chosen.facts["source"],
        backend=chosen.facts["backend"],
        num_frames=chosen.facts["num_frames"],
        frame_ids=chosen.frame_ids,
        rows=chosen.rows[:keep],
    )
    return index_line(entry, config.grid)


def _converted(work: Work, video: str, path: Path) -> IndexEntry:
    if video not in work.pickles:
        raise SampleError(f"{video}: --pickles names no pickle for it; add a line video,pickle")
    config, keep = work.header.config, work.header.keep
    flat, area = np.sort(read_pickle(work.pickles[video])), config.grid**2
    if len(flat) != keep or flat[0] < 0 or flat[-1] >= config.sequence_length * area:
        raise AssetError(
            f"{work.pickles[video]}: must hold {keep} indices in [0, "
            f"{config.sequence_length * area}), got {len(flat)} from {flat[0]} to {flat[-1]}"
        )
    with work.options.open(path) as opened:
        num_frames = len(opened)
    rows = np.stack((flat // area, flat // config.grid % config.grid, flat % config.grid), axis=-1)
    ids = sample_frame_ids(num_frames, config.sequence_length)
    return IndexEntry(
        video, source_facts(path), "reference", num_frames, ids, rows.astype(np.int32)
    )


def _videos(args: argparse.Namespace) -> list[str]:
    videos = list(dict.fromkeys(_listed(args.dataset_path)))
    for video in videos:
        if fault := video_fault(video):
            raise SampleError(f"{args.dataset_path}: {fault}")
        if Path(video).is_absolute() or ".." in Path(video).parts:
            raise SampleError(
                f"{args.dataset_path}: {video!r} must be relative to --video_root and inside it"
            )
    return videos[: args.max_samples] if args.max_samples else videos


def _listed(path: Path) -> Iterator[str]:
    if path.suffix not in (".jsonl", ".json"):
        yield from (row.video for row in read_list(path)[1])
        return
    for where, row in read_rows(path):
        if isinstance(row, SampleError):
            raise row
        if not isinstance(row.get("video"), str):
            raise SampleError(f"{where}: video must be a path, got {row.get('video')!r}")
        yield row["video"]


def _pickle_paths(path: Path) -> dict[str, Path]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read ({error})") from error
    pairs = [line.rpartition(",") for line in lines if line.strip()]
    if not pairs or not all(video and name for video, _, name in pairs):
        raise SettingsError(f"{path}: lines must be video,pickle")
    return {video.strip(): path.parent / name.strip() for video, _, name in pairs}


def _earlier(out: Path, journal: Path, header: IndexHeader) -> list[CodecIndex]:
    """Return the finished index and the journal of a stopped run, where they are of these settings.

    Raises:
        StaleAssetError: if one was made with other settings.
    """
    found: list[CodecIndex] = []
    if out.exists():
        found.append(CodecIndex(out))
    if journal.exists():
        _drop_cut_line(journal)
        found.append(CodecIndex(journal))
    for index in found:
        if index.header != header:
            theirs, ours = index.header.to_json(), header.to_json()
            names = [n for n in ("keep", "settings") if theirs[n] != ours[n]]
            changed = {
                n: (theirs["settings"].get(n), value)
                for n, value in ours["settings"].items()
                if theirs["settings"].get(n) != value
            }
            raise StaleAssetError(
                f"{index.path}: was made with other {' and '.join(names)} ({changed or ''} keep "
                f"{theirs['keep']} against {ours['keep']}); {_REPAIR}"
            )
    return found


def _drop_cut_line(journal: Path) -> None:
    """Cut off the beginning of a line that a run which was killed had written."""
    with journal.open("rb+") as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(size - MAX_LINE_BYTES, 0))
        tail = stream.read()
        stream.truncate(size - len(tail) + tail.rfind(b"\n") + 1)


def _check_keep(config: AssetConfig, keep: int) -> None:
    """Refuse a budget whose cells would not be the first ones of the whole choice.

    ``topk`` orders all cells but those of whole frames by score. Every other choice belongs to its
    budget in whole frames: a beginning of it would be its first slots.
    """
    area = config.grid**2
    is_ordered = config.select == "topk" and config.topk_mode != "time_bucket"
    step = config.block_cells**2 if is_ordered else area
    whole = config.num_whole_slots
    if keep % step or keep < whole * area:
        raise SettingsError(
            f"--keep must be a multiple of {step} from {max(whole * area, step)} with "
            f"--select {config.select} and {whole} whole frames of {area} cells, got {keep}"
        )
