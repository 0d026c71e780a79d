"""``cv_reader precompute``: make the evaluation assets of a list of videos, one decode pass each.

Reads JSONL lines with ``video`` and, optionally, ``key``; writes ``<out_root>/assets/<key>/``. A
line without a key gets the one that the evaluator derives from the path.

``--stage 1``, ``--stage 2`` and ``--stage 1,2`` make training data instead, with the flags of
``cv_reader stage1`` and ``cv_reader stage2``; ``1,2`` decodes every video once.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cv_reader.assets.contract import META, is_sound
from cv_reader.assets.files import claimed_output
from cv_reader.assets.freshness import same_source, standing_meta
from cv_reader.assets.make import write_evaluation_asset
from cv_reader.assets.names import asset_key, evaluation_key
from cv_reader.assets.samples import Row, check_video, read_rows, resolve_video
from cv_reader.commands import both, stage1, stage2
from cv_reader.commands.arguments import (
    add_budget_arguments,
    add_packing_arguments,
    add_run_arguments,
    add_scoring_arguments,
    check_shards,
    check_writable,
    config_from,
    refuse,
    run_command,
    run_tasks,
    say,
    shard_suffix,
)
from cv_reader.commands.progress import Report, dry_run, looked_over
from cv_reader.errors import AssetError, SampleError, SettingsError
from cv_reader.select.config import AssetConfig


@dataclass(frozen=True)
class Line:
    """One video to do; ``reason`` says why it cannot be done, where it cannot."""

    where: str
    key: str
    video: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Precompute:
    """Everything a worker needs to know beside the line."""

    config: AssetConfig
    backend: str
    require_exact: bool
    data_file: Path
    video_root: Path | None
    out_root: Path
    overwrite: bool

    def meta_path(self, key: str) -> Path:
        """Of the asset of a key."""
        return self.out_root / "assets" / key / META


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    choice = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    choice.add_argument("--stage", choices=_STAGES)
    chosen, rest = choice.parse_known_args(argv)
    if chosen.stage:
        return _STAGES[chosen.stage](rest)
    return run_command(_run, _parser().parse_args(rest))


_STAGES = {"1": stage1.main, "2": stage2.main, "1,2": both.main}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("precompute", description=__doc__)
    parser.add_argument("--stage", choices=_STAGES, help="training data; takes other flags")
    parser.add_argument("--jsonl", type=Path, required=True)
    parser.add_argument("--out_root", type=Path, required=True)
    parser.add_argument("--seq_len_frames", dest="sequence_length", type=int, default=64)
    parser.add_argument("--num_images", type=int, default=8)
    add_budget_arguments(parser)
    parser.add_argument(
        "--only_exists", action="store_true", default=True, help="always: skip exists=false"
    )
    parser.add_argument("--fail_txt", type=Path, help="one JSON line per failed video")
    add_packing_arguments(parser)
    add_scoring_arguments(parser)
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
    check_shards(args)
    work = Precompute(
        config=config_from(args),
        backend=args.backend,
        require_exact=args.require_exact,
        data_file=args.jsonl,
        video_root=args.video_root,
        out_root=args.out_root,
        overwrite=args.overwrite,
    )
    if args.dry_run:
        state, trial = partial(_state, work), partial(_trial, work)
        return dry_run("precompute", _shard(args), state, trial, args)
    total = _check_lines(work, args)
    check_writable(args.out_root)
    suffix = shard_suffix(args)
    fail_path = args.fail_txt or args.out_root / f"precompute_failed.{suffix}.txt"
    folders = (args.out_root, args.out_root / "assets")
    with (
        claimed_output(args.out_root, suffix, *folders),
        Report("precompute", fail_path, args.log_every, total) as report,
    ):
        for outcome in run_tasks(partial(make_asset, work), _shard(args), args):
            line: Line = outcome.task
            if outcome.failure:
                report.fail(outcome.failure, key=line.key, video=line.video, where=line.where)
            else:
                report.count(str(outcome.value))
        return report.finish(args.out_root / f"summary.{suffix}.json", work.config)


def _lines(args: argparse.Namespace) -> Iterator[Line]:
    """Every line of the file, those of other shards too."""
    for number, (where, row) in enumerate(read_rows(args.jsonl)):
        if args.max_samples and number >= args.max_samples:
            return
        yield _line(row, where, args.video_root)


def _line(row: Row | SampleError, where: str, video_root: Path | None) -> Line:
    if isinstance(row, SampleError):
        return Line(where, "", "", str(row))
    video, key = row.get("video"), row.get("key")
    if not isinstance(video, str) or not video:
        return Line(where, "", "", f"{where}: video must be a path, got {video!r}; add one")
    if row.get("exists") is False:
        return Line(where, "", video)
    if key is not None and (not isinstance(key, str) or not key):
        return Line(where, "", video, f"{where}: key must be a string, got {key!r}; leave it out")
    try:
        return Line(where, asset_key(key) if key else evaluation_key(video, video_root), video)
    except AssetError as error:
        return Line(where, "", video, f"{where}: {error}")


def _shard(args: argparse.Namespace) -> Iterator[Line]:
    """This shard's lines: one per key, without those that say that their video is missing."""
    done: set[str] = set()
    for number, line in enumerate(_lines(args)):
        if number % args.num_shards != args.shard_id or (not line.key and not line.reason):
            continue
        if line.reason or line.key not in done:
            done.add(line.key)
            yield line


def _check_lines(work: Precompute, args: argparse.Namespace) -> int:
    """Refuse to start where keys collide or output made otherwise is in the way.

    Returns:
        Videos of this shard.
    """
    # Hashes in place of names: a list may be long, and only its collisions need to be read again.
    videos: dict[int, int] = {}
    left_out = 0
    for line in looked_over("precompute", _lines(args)):
        left_out += not line.key and not line.reason
        if not line.key:
            continue
        key, video = hash(line.key), hash(line.video)
        if key not in videos:
            videos[key] = video
            if not work.overwrite:
                _standing(work, line.key)
        elif videos[key] != video:
            _refuse_shared_key(line, args)
    if left_out:
        say(f"precompute: left out {left_out} lines that say that their video does not exist")
    return sum(1 for _ in _shard(args))


def _refuse_shared_key(line: Line, args: argparse.Namespace) -> None:
    for first in _lines(args):
        if first.key == line.key and first.video != line.video:
            raise SettingsError(
                f"{line.where}: {line.video} has the key {line.key!r} of {first.video} "
                f"({first.where}); give them different keys, or pass --video_root"
            )


def _standing(work: Precompute, key: str) -> dict[str, Any] | None:
    return standing_meta(
        work.meta_path(key), work.config, backend=work.backend, require_exact=work.require_exact
    )


def _state(work: Precompute, line: Line) -> str:
    if line.reason:
        raise SampleError(line.reason)
    path = resolve_video(line.video, data_file=work.data_file, video_root=work.video_root)
    check_video(path)
    return "kept" if _is_done(work, line, path) else "make"


def _trial(work: Precompute, folder: Path, line: Line) -> None:
    make_asset(replace(work, out_root=folder, overwrite=True), line)


def _is_done(work: Precompute, line: Line, path: Path) -> bool:
    if work.overwrite or not path.exists():
        return False
    meta = _standing(work, line.key)
    is_fresh = meta is not None and same_source(meta["source"], path)
    return is_fresh and is_sound(work.meta_path(line.key).parent)


def make_asset(work: Precompute, line: Line) -> str:
    """Make one video's asset; returns ``made``, or ``kept`` where it is up to date."""
    if line.reason:
        raise SampleError(line.reason)
    path = resolve_video(line.video, data_file=work.data_file, video_root=work.video_root)
    if _is_done(work, line, path):
        return "kept"
    write_evaluation_asset(
        path,
        key=line.key,
        out_root=work.out_root,
        config=work.config,
        backend=work.backend,
        require_exact=work.require_exact,
        video=line.video,
        overwrite=True,
    )
    return "made"
