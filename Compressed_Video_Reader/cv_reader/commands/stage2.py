"""``cv_reader stage2``: pack what stage 1 chose into mosaics, and write the training JSONL.

Writes per sample ``sample_{id}__{stem}__{hash}/`` with ``{stem}_000.jpg`` and so on,
``positions_thw.npy``, ``frame_ids.npy`` and ``meta.json``. Lines of the JSONL stand in the order of
the data set. ``--mode rewrite`` decodes nothing and lists the samples whose folder is complete.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cv_reader.asset_config import AssetConfig
from cv_reader.asset_names import image_stem, sample_folder_name, stage1_prefix
from cv_reader.assets import META, POSITIONS, load_array, read_asset, read_meta
from cv_reader.commands.batch import (
    Report,
    add_packing_arguments,
    add_run_arguments,
    check_shards,
    check_writable,
    or_overwrite,
    read_options_from,
    refuse,
    run_command,
    run_tasks,
    shard_suffix,
)
from cv_reader.commands.stage1 import FRAME_IDS_SUFFIX, META_SUFFIX, ROWS_SUFFIX, describe
from cv_reader.errors import AssetError, SampleError, SettingsError, StaleAssetError
from cv_reader.files import new_file
from cv_reader.freshness import existing_meta, same_source, selection_hash
from cv_reader.packing import sort_rows
from cv_reader.precompute import ReadOptions, build_meta, collect_squares, write_asset
from cv_reader.samples import (
    BadSample,
    Sample,
    read_samples,
    resolve_video,
    rewrite_conversations,
)


@dataclass(frozen=True, kw_only=True)
class Stage2:
    """Everything a worker needs to know beside the sample.

    ``shape`` holds the settings that name stage 1's files; the others are read from these.
    """

    shape: AssetConfig
    options: ReadOptions
    data_file: Path
    video_root: Path | None
    visidx_root: Path
    out_image_root: Path
    first_full: bool
    overwrite: bool
    skip_missing: bool

    def stage1_file(self, sample: Sample, suffix: str) -> Path:
        """One of stage 1's three files."""
        name = stage1_prefix(sample.sample_id, sample.video, sample.key, self.shape)
        return self.visidx_root / (name + suffix)

    def folder(self, sample: Sample) -> Path:
        """The sample's asset."""
        return self.out_image_root / sample_folder_name(sample.sample_id, sample.video)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("stage2", description=__doc__)
    parser.add_argument("--mode", choices=("pack", "rewrite"), default="pack")
    parser.add_argument("--input_dataset", type=Path, required=True, help=".json array or .jsonl")
    parser.add_argument("--out_jsonl", type=Path, required=True)
    parser.add_argument("--visidx_root", type=Path, help="stage 1's output folder")
    parser.add_argument("--out_image_root", type=Path, required=True, help="written as given")
    parser.add_argument("--num_images", type=int, default=8)
    parser.add_argument("--square_size", type=int, default=576)
    parser.add_argument("--T", type=int, default=64, help="frames sampled by stage 1")
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--layout", choices=("time_spatial", "spatial"), default="time_spatial")
    parser.add_argument(
        "--first_full", action="store_true", help="the first mosaic must be the first frame"
    )
    parser.add_argument("--skip_missing", action="store_true", help="pass over: no stage 1 output")
    parser.add_argument("--write_positions", action="store_true", help="name them in the JSONL")
    parser.add_argument("--include_positions", action="store_true", help="the same for rewrite")
    parser.add_argument("--skip_missing_packs", action="store_true", help="rewrite: pass over")
    parser.add_argument("--force_shard_out", action="store_true", help="always add the suffix")
    parser.add_argument("--fail_txt", type=Path, help="one JSON line per failed sample")
    add_packing_arguments(parser)
    add_run_arguments(parser, log_every=200, num_workers=1)
    refuse(parser, {"--export_patches": "single patches are no input of the model"})
    return parser


def _run(args: argparse.Namespace) -> int:
    check_shards(args)
    if args.layout == "spatial":
        raise SettingsError(
            "--layout spatial is not supported: cells that share a place overwrite each other, so "
            "positions would not describe the images; use time_spatial"
        )
    if args.mode == "pack" and args.visidx_root is None:
        raise SettingsError("--visidx_root is required to pack")
    stage = Stage2(
        shape=AssetConfig(
            sequence_length=args.T,
            num_images=args.num_images,
            square_size=args.square_size,
            patch_size=args.patch,
            order=args.order,
            jpg_quality=args.jpg_quality,
        ),
        options=read_options_from(args),
        data_file=args.input_dataset,
        video_root=args.video_root,
        visidx_root=args.visidx_root or Path(),
        out_image_root=args.out_image_root,
        first_full=args.first_full,
        overwrite=args.overwrite,
        skip_missing=args.skip_missing if args.mode == "pack" else args.skip_missing_packs,
    )
    for sample in _samples(args):
        if args.mode == "pack" and isinstance(sample, Sample):
            _check_standing(stage, sample)
    check_writable(args.out_image_root)
    return _write_jsonl(stage, args)


def _write_jsonl(stage: Stage2, args: argparse.Namespace) -> int:
    out_jsonl: Path = args.out_jsonl
    if args.num_shards > 1 or args.force_shard_out:
        out_jsonl = Path(f"{out_jsonl}.{shard_suffix(args)}.jsonl")
    check_writable(out_jsonl.parent)
    with_positions = args.write_positions or args.include_positions
    work = partial(pack_sample if args.mode == "pack" else find_packed, stage)
    fail_path = args.fail_txt or Path(f"{out_jsonl}.fail.txt")
    with Report("stage2", fail_path, args.log_every) as report:
        with (
            new_file(out_jsonl) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace") as lines,
        ):
            for outcome in run_tasks(work, _samples(args), args):
                if outcome.failure:
                    report.fail(outcome.failure, **describe(outcome.task))
                    continue
                if outcome.value != "skipped":
                    record = _record(stage, outcome.task, with_positions)
                    lines.write(json.dumps(record, ensure_ascii=False) + "\n")
                report.count(str(outcome.value))
        return report.finish(Path(f"{out_jsonl}.summary.json"))


def _samples(args: argparse.Namespace) -> Iterator[Sample | BadSample]:
    return read_samples(
        args.input_dataset,
        num_shards=args.num_shards,
        shard_id=args.shard_id,
        max_samples=args.max_samples,
    )


def _record(stage: Stage2, sample: Sample, with_positions: bool) -> dict[str, Any]:
    """A line of the training JSONL."""
    folder, stem = stage.folder(sample), image_stem(sample.video)
    count = stage.shape.num_images
    record: dict[str, Any] = {
        "id": sample.sample_id,
        "conversations": rewrite_conversations(sample, count),
        "image": [str(folder / f"{stem}_{index:03d}.jpg") for index in range(count)],
    }
    if with_positions:
        record["positions_thw"] = str(folder / POSITIONS)
    return record


def _check_standing(stage: Stage2, sample: Sample) -> None:
    """Refuse to start on a stage 1, or over an output, that was made otherwise."""
    path = stage.stage1_file(sample, META_SUFFIX)
    if not path.exists():
        return
    chosen = read_meta(path)
    config = _config_of(stage, sample, chosen, path)
    if stage.first_full and not config.keep_first_full_frame:
        raise SettingsError(
            f"{path}: --first_full needs a first frame that is kept whole; "
            "run stage 1 with --keep_first_full_frame, or drop --first_full"
        )
    if not stage.overwrite:
        _standing(stage, sample, config)


def _standing(stage: Stage2, sample: Sample, config: AssetConfig) -> dict[str, Any] | None:
    try:
        return existing_meta(stage.folder(sample) / META, config)
    except AssetError as error:
        raise or_overwrite(error) from error


def _config_of(stage: Stage2, sample: Sample, chosen: dict[str, Any], path: Path) -> AssetConfig:
    """Stage 1's settings with this stage's order and quality.

    Raises:
        StaleAssetError: if stage 1 belongs to another sample or another version.
    """
    config = AssetConfig.from_dict(chosen["cfg"], path)
    if chosen["fingerprint"] != config.fingerprint:
        raise StaleAssetError(
            f"{path}: fingerprint {chosen['fingerprint']} where its settings and this version give "
            f"{config.fingerprint}; run stage 1 again with --overwrite"
        )
    if chosen["key"] != sample.key:
        raise StaleAssetError(
            f"{path}: made for {chosen['key']!r} where {sample.key!r} is asked for; "
            "run stage 1 again on this data set with --overwrite"
        )
    return replace(config, order=stage.shape.order, jpg_quality=stage.shape.jpg_quality)


def pack_sample(stage: Stage2, sample: Sample | BadSample) -> str:
    """Make one sample's folder; returns ``made``, ``kept`` (up to date) or ``skipped``."""
    if isinstance(sample, BadSample):
        raise SampleError(sample.reason)
    rewrite_conversations(sample, stage.shape.num_images)
    meta_path = stage.stage1_file(sample, META_SUFFIX)
    if not meta_path.exists():
        if stage.skip_missing:
            return "skipped"
        raise AssetError(
            f"{meta_path}: stage 1 made nothing for this sample and these sizes; "
            "run stage 1 with the same data set, T, square, patch and number of images"
        )
    chosen = read_meta(meta_path)
    config = _config_of(stage, sample, chosen, meta_path)
    path = resolve_video(sample.video, data_file=stage.data_file, video_root=stage.video_root)
    if path.exists() and not same_source(chosen["source"], path):
        raise StaleAssetError(f"{path}: changed since stage 1 read it; run stage 1 again")
    folder = stage.folder(sample)
    standing = None if stage.overwrite else _standing(stage, sample, config)
    if standing is not None and standing["selection_hash"] == chosen["selection_hash"]:
        return "kept"
    chosen_rows = load_array(stage.stage1_file(sample, ROWS_SUFFIX))
    frame_ids = load_array(stage.stage1_file(sample, FRAME_IDS_SUFFIX))
    if (
        chosen_rows.dtype != np.int32
        or chosen_rows.shape != (config.num_rows, 3)
        or selection_hash(chosen_rows, frame_ids) != chosen["selection_hash"]
    ):
        raise AssetError(f"{meta_path}: its arrays are damaged; run stage 1 with --overwrite")
    rows = sort_rows(chosen_rows, config.order)
    mosaics = collect_squares(path, rows, frame_ids, config, stage.options)
    facts = {name: value for name, value in chosen.items() if name not in ("cfg", "order")}
    meta = facts | build_meta(config, {}, key=sample.key, video=sample.video)
    write_asset(folder, meta | {"image_stem": image_stem(sample.video)}, rows, frame_ids, mosaics)
    return "made"


def find_packed(stage: Stage2, sample: Sample | BadSample) -> str:
    """Check that one sample's folder is complete; returns ``kept`` or ``skipped``."""
    if isinstance(sample, BadSample):
        raise SampleError(sample.reason)
    rewrite_conversations(sample, stage.shape.num_images)
    folder = stage.folder(sample)
    if stage.skip_missing and not folder.exists():
        return "skipped"
    asset = read_asset(folder)
    if len(asset.images) != stage.shape.num_images:
        raise AssetError(
            f"{folder}: holds {len(asset.images)} images where --num_images is "
            f"{stage.shape.num_images}"
        )
    return "kept"
