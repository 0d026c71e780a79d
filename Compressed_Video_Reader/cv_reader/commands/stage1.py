"""``cv_reader stage1``: choose the cells of every video of a data set.

Writes per sample ``<name>.visidx_thw.npy`` int32 (K, 3), ``<name>.frame_ids.npy`` int32 (T,) and,
last, ``<name>.meta.json``; see ``asset_names.stage1_prefix`` for the name. Stage 2 packs them.
"""

import argparse
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cv_reader.asset_config import AssetConfig
from cv_reader.asset_names import stage1_prefix
from cv_reader.commands.batch import (
    EXIT_DONE,
    EXIT_SOME_FAILED,
    Report,
    add_run_arguments,
    add_scoring_arguments,
    check_shards,
    check_writable,
    config_from,
    or_overwrite,
    read_options_from,
    refuse,
    run_command,
    run_tasks,
    say,
    shard_suffix,
)
from cv_reader.errors import AssetError, SampleError, SettingsError
from cv_reader.files import new_file, write_array, write_json
from cv_reader.freshness import existing_meta, same_source
from cv_reader.precompute import ReadOptions, build_meta, select_from_video
from cv_reader.samples import BadSample, Sample, read_samples, resolve_video

FRAME_IDS_SUFFIX = ".frame_ids.npy"
META_SUFFIX = ".meta.json"
ROWS_SUFFIX = ".visidx_thw.npy"


@dataclass(frozen=True, kw_only=True)
class Stage1:
    """Everything a worker needs to know beside the sample."""

    config: AssetConfig
    options: ReadOptions
    data_file: Path
    video_root: Path | None
    out_root: Path
    overwrite: bool

    def file(self, sample: Sample, suffix: str) -> Path:
        """One of the three files of a sample."""
        name = stage1_prefix(sample.sample_id, sample.video, sample.key, self.config)
        return self.out_root / (name + suffix)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = _parser().parse_args(argv)
    return run_command(_split if args.shard_dataset_out_dir else _run, args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("stage1", description=__doc__)
    parser.add_argument("--dataset_path", type=Path, required=True, help=".json array or .jsonl")
    parser.add_argument("--out_root", type=Path, help="output folder")
    parser.add_argument(
        "--shard_dataset_out_dir", type=Path, help="only split the data set into --num_shards files"
    )
    parser.add_argument("--sequence_length", type=int, default=64, help="frames sampled per video")
    parser.add_argument("--sample_start_offset", type=int, default=0, help="first frame to sample")
    parser.add_argument(
        "--keep_frames_equiv", dest="num_images", type=int, default=8, help="budget in full frames"
    )
    parser.add_argument("--keep_first_full_frame", action="store_true")
    parser.add_argument("--keep_uniform_first", action="store_true")
    parser.add_argument("--check_codec", action="store_true", help="refuse other codecs")
    parser.add_argument("--allowed_codecs", default="h264,hevc,h265,avc1")
    parser.add_argument("--fail_txt", type=Path, help="one JSON line per failed sample")
    add_scoring_arguments(parser)
    add_run_arguments(parser, log_every=1000, num_workers=8)
    refuse(parser, {"--unsupported_txt": "refused codecs are listed in the failure file"})
    return parser


def _run(args: argparse.Namespace) -> int:
    check_shards(args)
    if args.out_root is None:
        raise SettingsError("--out_root is required")
    codecs = tuple(args.allowed_codecs.split(",")) if args.check_codec else ()
    stage = Stage1(
        config=config_from(args),
        options=replace(read_options_from(args), allowed_codecs=codecs),
        data_file=args.dataset_path,
        video_root=args.video_root,
        out_root=args.out_root,
        overwrite=args.overwrite,
    )
    _check_standing(stage, args)
    suffix = shard_suffix(args)
    fail_path = args.fail_txt or args.out_root / f"stage1_failed.{suffix}.txt"
    check_writable(args.out_root)
    with Report("stage1", fail_path, args.log_every) as report:
        for outcome in run_tasks(partial(make_selection, stage), _samples(args), args):
            sample: Sample | BadSample = outcome.task
            if outcome.failure:
                report.fail(outcome.failure, **describe(sample))
            else:
                report.count(str(outcome.value))
        return report.finish(args.out_root / f"stage1_summary.{suffix}.json")


def _samples(args: argparse.Namespace) -> Iterator[Sample | BadSample]:
    return read_samples(
        args.dataset_path,
        num_shards=args.num_shards,
        shard_id=args.shard_id,
        max_samples=args.max_samples,
    )


def _check_standing(stage: Stage1, args: argparse.Namespace) -> None:
    """Refuse to start where output made otherwise is in the way, or the data set is broken."""
    for sample in _samples(args):
        if isinstance(sample, Sample) and not stage.overwrite:
            _standing(stage, sample)


def _standing(stage: Stage1, sample: Sample) -> dict[str, Any] | None:
    try:
        return existing_meta(
            stage.file(sample, META_SUFFIX),
            stage.config,
            backend=stage.options.backend,
            require_exact=stage.options.require_exact,
        )
    except AssetError as error:
        raise or_overwrite(error) from error


def describe(sample: Sample | BadSample) -> dict[str, object]:
    """A sample in a failure file."""
    if isinstance(sample, Sample):
        return {"id": sample.sample_id, "video": sample.video, "where": sample.where}
    return {"id": sample.row.get("id"), "video": sample.row.get("video"), "where": sample.where}


def make_selection(stage: Stage1, sample: Sample | BadSample) -> str:
    """Make one sample's files; returns ``made``, or ``kept`` where they are up to date."""
    if isinstance(sample, BadSample):
        raise SampleError(sample.reason)
    path = resolve_video(sample.video, data_file=stage.data_file, video_root=stage.video_root)
    meta_path = stage.file(sample, META_SUFFIX)
    if not stage.overwrite and path.exists():
        meta = _standing(stage, sample)
        if meta is not None and same_source(meta["source"], path):
            return "kept"
    selection = select_from_video(path, stage.config, stage.options)
    meta_path.unlink(missing_ok=True)
    write_array(stage.file(sample, ROWS_SUFFIX), selection.rows)
    write_array(stage.file(sample, FRAME_IDS_SUFFIX), selection.frame_ids)
    config = stage.config
    meta = build_meta(config, selection.facts, key=sample.key, video=sample.video)
    meta |= {
        "sample_id": sample.sample_id,
        "sample_key": sample.key,
        "frame_ids": None,
        "preprocess": f"square{config.square_size}",
        "keep_frames_equiv": config.num_images,
        "padding_policy": config.padding_policy,
        "keep_uniform_first": config.keep_uniform_first,
        "keep_first_full_frame": config.keep_first_full_frame,
    }
    write_json(meta_path, meta)
    return "made"


def _split(args: argparse.Namespace) -> int:
    """Write each shard's rows to a file of its own, with ``_row_idx``, all fields kept."""
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
            if isinstance(sample, BadSample):
                bad += 1
                say(f"stage1: left out: {sample.reason}")
                continue
            row = {**sample.row, "_row_idx": sample.row_index}
            streams[sample.shard(total)].write(json.dumps(row, ensure_ascii=False) + "\n")
    say(f"stage1: {total} shards in {folder}; pass --video_root where videos are relative paths")
    return EXIT_SOME_FAILED if bad else EXIT_DONE
