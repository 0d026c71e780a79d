"""Write labelled images or videos as a shard set for training.

    python -m encoder_training.pretrain.data.write SOURCE SET --labels LABELS
    python -m encoder_training.pretrain.data.write LIST SET --num_centres 365187 --bank words-1

SOURCE is a folder, a JSONL list or tar shards. LABELS come from the concept bank; without them each
line of LIST must carry its own (text images: the words).

``--codec`` selects the codec patches of each video once, through ``cv_reader``; ``--asset_folder``
takes them from assets that ``cv_reader precompute`` has made, ``--index_folder`` from files
``KEY.visidx.npy`` of the reference's tools. Shards as SOURCE keep the patches they have: a set is
labelled again without selecting again.

A set whose writing was stopped continues after its last finished shard.

Exit codes: 0 done; 1 done but for bad samples; 2 usage or settings; 130
interrupted.
"""

import argparse
import io
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from cv_reader.assets import evaluation_key, read_asset
from cv_reader.assets.make import ReadOptions, select_from_video
from encoder_training.pretrain.data.labels import read_label_info, read_labels
from encoder_training.pretrain.data.samples import BadSampleError, Kind
from encoder_training.pretrain.data.set_info import SetInfo
from encoder_training.pretrain.data.shard_set import OnBad
from encoder_training.pretrain.data.sources import SourceItem, read_source
from encoder_training.pretrain.data.tar_shards import (
    FRAMES,
    INDICES,
    LABELS,
    VIDEO_PATH,
    SetWriter,
    WriteProgress,
    load_integers,
    npy_bytes,
    read_member,
)
from encoder_training.pretrain.data.videos import (
    VideoView,
    bad_video,
    check_codec_indices,
    selection_settings,
)
from run_kit.arguments import command_parser
from run_kit.exits import FAILED_SAMPLES, OK, USAGE, ExitOnError, say

Labelled = tuple[SourceItem, Sequence[int]]


def write_samples(
    pairs: Iterator[Labelled],
    folder: Path,
    info: SetInfo,
    *,
    view: VideoView | None = None,
    index_folder: Path | None = None,
    asset_folder: Path | None = None,
    video_paths: bool = False,
    on_bad: OnBad = "stop",
    samples_per_shard: int = 10_000,
) -> Counter[str]:
    """Write a shard set; return how many bad samples were left out, by rule.

    Continues after the last finished shard of a run with the same settings.

    Args:
        pairs: items with their labels, nearest first.
        folder: output.
        info: what ``set.json`` says, without shards.
        view: select the codec patches of videos for this view.
        index_folder: take codec patches from ``KEY.visidx.npy`` here.
        asset_folder: take codec patches from assets here, by their key.
        video_paths: store the paths of videos instead of their bytes.
        on_bad: ``stop`` at the first bad sample, or ``skip`` them.
        samples_per_shard: a shard ends after so many samples.

    Raises:
        BadSampleError: A sample is bad, and bad ones are not skipped.
        ValueError: if the folder already holds a set, or shards of other settings or samples.
    """
    settings = {
        "codec patches": asdict(view) if view else "none",
        "index_folder": str(index_folder),
        "asset_folder": str(asset_folder),
        "video_paths": video_paths,
        "on_bad": on_bad,
    }
    with SetWriter(folder, info, samples_per_shard=samples_per_shard, settings=settings) as writer:
        done = writer.progress
        skipped: Counter[str] = Counter(done.skipped)
        if done.items:
            say(f"continuing after {done.items} samples, {done.last_key} the last")
        for number, (item, labels) in enumerate(pairs, start=1):
            if number == done.items and item.key != done.last_key:
                raise ValueError(
                    f"{folder} was begun with other samples: number {number} was {done.last_key!r} "
                    f"and is {item.key!r}; write to another folder, or remove it"
                )
            if number <= done.items:
                continue
            writer.progress = WriteProgress(items=number, last_key=item.key, skipped=dict(skipped))
            try:
                members = _members(item, labels, info, video_paths)
                if item.kind == "video":
                    members |= _codec(item, info, view, index_folder, asset_folder)
            except BadSampleError as error:
                if on_bad == "stop":
                    raise
                skipped[error.rule] += 1
                say(f"left out: {error}")
                continue
            writer.add(item.key, members)
    return skipped


def _members(
    item: SourceItem, labels: Sequence[int], info: SetInfo, video_paths: bool
) -> dict[str, bytes]:
    numbers = np.asarray(labels, np.int64)
    if len(numbers) != info.labels_per_sample:
        raise BadSampleError(
            item.place,
            "wrong number of labels",
            f"must have {info.labels_per_sample} labels, got {len(numbers)}",
        )
    if numbers.min() < 0 or numbers.max() >= info.num_centres:
        raise BadSampleError(
            item.place,
            "label outside the bank",
            f"labels must be in [0, {info.num_centres}), got {numbers.min()} to {numbers.max()}",
        )
    members = {LABELS: npy_bytes(numbers.astype(np.int32))}
    if item.kind == "image":
        return members | _image(item)
    if video_paths and item.member is None:
        members[VIDEO_PATH] = str(item.path.resolve()).encode()
    else:
        members[item.extension] = item.read()
    return members


def _codec(
    item: SourceItem,
    info: SetInfo,
    view: VideoView | None,
    index_folder: Path | None,
    asset_folder: Path | None,
) -> dict[str, bytes]:
    """Return the members that hold a video's codec patches; none where no source is given."""
    if asset_folder is not None:
        return _of_asset(asset_folder / evaluation_key(f"{item.key}.mp4", "."), info, item)
    if index_folder is not None:
        return {INDICES: _stored_indices(index_folder / f"{item.key}.visidx.npy", info, item)}
    if view is not None:
        return _selected(item, view)
    return {name: read_member(item.path, at, item.place) for name, at in item.codec}


def _of_asset(folder: Path, info: SetInfo, item: SourceItem) -> dict[str, bytes]:
    try:
        asset = read_asset(folder)
    except (ValueError, OSError) as error:
        raise BadSampleError(item.place, "no codec asset", f"{folder}: {error}") from error
    sizes = (len(asset.frame_ids), asset.meta["hb"])
    if sizes != (info.clip_frames, info.grid):
        raise BadSampleError(
            item.place,
            "other grid",
            f"{folder} has {sizes[0]} frame slots and {sizes[1]} cells along a side, the set "
            f"{info.clip_frames} and {info.grid}",
        )
    indices = asset.positions.astype(np.int64) @ np.array([info.grid**2, info.grid, 1])
    return {
        INDICES: npy_bytes(np.sort(indices).astype(np.int32)),
        FRAMES: npy_bytes(asset.frame_ids),
    }


def _image(item: SourceItem) -> dict[str, bytes]:
    data = item.read()
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        detail = f"cannot be decoded: {error}"
        raise BadSampleError(item.place, "broken image", detail) from error
    return {item.extension: data}


def _selected(item: SourceItem, view: VideoView) -> dict[str, bytes]:
    """Select the codec patches of a video, and keep the frames they were selected from."""
    settings = selection_settings(view)
    with bad_video(item.place), item.opened() as path:
        selection = select_from_video(path, settings, ReadOptions(num_threads=view.threads))
    num_frames = int(selection.frame_ids[-1]) + 1
    if num_frames < view.clip_frames and view.short_videos == "refuse":
        raise BadSampleError(
            item.place,
            "video too short",
            f"must have at least {view.clip_frames} frames, got {num_frames}",
        )
    grid = view.grid
    indices = np.sort(selection.rows.astype(np.int64) @ np.array([grid * grid, grid, 1]))
    return {
        INDICES: npy_bytes(indices.astype(np.int32)),
        FRAMES: npy_bytes(selection.frame_ids.astype(np.int32)),
    }


def _stored_indices(path: Path, info: SetInfo, item: SourceItem) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadSampleError(item.place, "no codec indices", f"{path}: {error}") from error
    view = VideoView(patch_size=1, size_px=info.grid, clip_frames=info.clip_frames, num_frames=1)
    indices = load_integers(data, str(path), "broken indices")
    check_codec_indices(indices, view, info.grid, str(path))
    return npy_bytes(indices.astype(np.int32))


def with_bank_labels(items: Sequence[SourceItem], labels: Path) -> Iterator[Labelled]:
    """Pair items with the labels of the bank, which must be of the same source.

    Bad samples of the features, whose labels are -1, are left out.

    Raises:
        ValueError: if keys differ.
    """
    rows = read_labels(labels)
    for item in items:
        key, row = next(rows, ("nothing", None))
        if key != item.key:
            raise ValueError(
                f"{labels} must label the same samples in the same order, got {key!r} where the "
                f"source has {item.key!r}; make features and labels of this source"
            )
        if row is not None and row[0] >= 0:
            yield item, row.tolist()


def _own_labels(items: Sequence[SourceItem]) -> Iterator[Labelled]:
    for item in items:
        if item.labels is None:
            raise ValueError(
                f"{item.place} has no labels; give each line of the list its own, or --labels"
            )
        yield item, item.labels


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    with ExitOnError(USAGE) as exit_on_error:
        try:
            skipped = _run(arguments)
        except BadSampleError:
            exit_on_error.code = FAILED_SAMPLES
            raise
    for rule, count in sorted(skipped.items()):
        say(f"left out {count} samples: {rule}")
    return FAILED_SAMPLES if skipped else OK


def _run(arguments: argparse.Namespace) -> Counter[str]:
    items = read_source(arguments.source, "video" if arguments.kind == "video" else "image")
    kind: Kind = arguments.kind
    view = VideoView(
        patch_size=arguments.patch_size,
        size_px=arguments.size_px,
        clip_frames=arguments.clip_frames,
        num_frames=arguments.num_frames,
        short_videos=arguments.short_videos,
        select=arguments.select,
    )
    if arguments.labels:
        facts = read_label_info(arguments.labels)
        pairs = with_bank_labels(items, arguments.labels)
        bank = (facts.bank_fingerprint, facts.num_centres, facts.feature_size)
        per_sample = facts.labels_per_sample
    else:
        if not (arguments.num_centres and arguments.bank):
            raise ValueError("give --labels, or --num_centres and --bank for a list with labels")
        pairs = _own_labels(items)
        bank = (arguments.bank, arguments.num_centres, 1)
        per_sample = len(items[0].labels or ())
    info = SetInfo(
        kind=kind,
        labels_per_sample=per_sample,
        bank_fingerprint=bank[0],
        num_centres=bank[1],
        feature_size=bank[2],
        clip_frames=view.clip_frames,
        grid=view.grid,
    )
    return write_samples(
        pairs,
        arguments.set,
        info,
        view=view if arguments.codec and kind == "video" else None,
        index_folder=arguments.index_folder,
        asset_folder=arguments.asset_folder,
        video_paths=arguments.video_paths,
        on_bad=arguments.on_bad,
        samples_per_shard=arguments.samples_per_shard,
    )


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("encoder_training.pretrain.data.write", __doc__)
    add = parser.add_argument
    add("source", help="folder, JSONL list or tar shards")
    add("set", type=Path, help="folder to write")
    add("--kind", choices=["image", "ocr", "video"], default="image", help="kind of samples")
    add("--labels", type=Path, help="labels of the concept bank for this source")
    add("--num_centres", type=int, default=0, help="size of the bank of a list's own labels")
    add("--bank", help="name and version of the bank of a list's own labels")
    add("--codec", action="store_true", help="select codec patches of videos now")
    add("--select", default="", help="selection of --codec, such as rate_distortion")
    add("--index_folder", type=Path, help="folder of KEY.visidx.npy files of the reference's tools")
    add("--asset_folder", type=Path, help="folder of codec assets, such as OUT/assets")
    add("--video_paths", action="store_true", help="store paths of videos instead of their bytes")
    add("--patch_size", type=int, default=14, help="side of a patch, in pixels")
    add("--size_px", type=int, default=224, help="side of a video's padded square, in pixels")
    add("--clip_frames", type=int, default=64, help="number of frame slots of a clip")
    add("--num_frames", type=int, default=8, help="budget of codec patches, in whole frames")
    add(
        "--short_videos",
        choices=["refuse", "repeat"],
        default="refuse",
        help="refuse a video of fewer frames than slots, or repeat its frames",
    )
    add("--samples_per_shard", type=int, default=10_000, help="number of samples that end a shard")
    add(
        "--on_bad",
        choices=["stop", "skip"],
        default="stop",
        help="stop at a bad sample, or skip it",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
