"""From a video to an asset: score and select in one decode pass, pack, write.

Training runs ``select_from_video`` and ``write_asset`` as stage 1 and stage 2, with a pixels-only
pass between; evaluation runs both on one pass. Memory holds 128 MiB of square frames at most; where
there are more, they wait in a file.

Axis letters: T slots, N rows, g cells along a side.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cv_reader.assets.claims import shared_output
from cv_reader.assets.contract import (
    META,
    MOSAIC_STEM,
    Asset,
    read_asset,
    write_asset,
)
from cv_reader.assets.freshness import (
    asked_for,
    same_source,
    selection_hash,
    usable_meta,
    video_facts,
)
from cv_reader.assets.metadata import build_meta
from cv_reader.assets.names import asset_key
from cv_reader.errors import AssetError, SampleError
from cv_reader.media.frames import frames_at_once
from cv_reader.reader import ReadOptions
from cv_reader.remote.addresses import is_address, joined
from cv_reader.remote.cache import choose_cache
from cv_reader.remote.output import has_files, move_folder
from cv_reader.remote.transfer import Counted, traffic
from cv_reader.remote.videos import RemoteReading
from cv_reader.select.cheap import sampled_frames
from cv_reader.select.chooser import Chooser, video_box
from cv_reader.select.config import AssetConfig
from cv_reader.select.geometry import Letterbox
from cv_reader.select.mosaics import (
    MosaicPacker,
    Square,
    arrange_rows,
    square_frame,
)
from cv_reader.select.squares import MAX_FILE_BYTES, SquareStore, square_bytes
from cv_reader.shards import has_sizes, is_in_shard


class _NamesVideo(Protocol):
    @property
    def video(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of a run that are the same for all of its samples.

    Attributes:
        config: settings of the assets.
        options: how videos are read.
        data_file: the data set.
        video_root: folder that relative video paths start from; None = that of ``data_file``.
        out_root: folder that is written to.
        overwrite: whether sound output is made again.
        remote: how videos of object stores and servers are read.
        store: address that finished output is moved to; None = it stays in ``out_root``.
    """

    config: AssetConfig
    options: ReadOptions
    data_file: Path
    video_root: Path | None
    out_root: Path
    overwrite: bool
    remote: RemoteReading = field(default_factory=RemoteReading)
    store: str | None = None

    @property
    def asked(self) -> str:
        """Return what decides whether finished output is what this run would make."""
        return asked_for(self.config, self.options.backend, self.options.require_exact)

    def video(self, sample: _NamesVideo) -> Path:
        """Return the path or address of a sample's video."""
        return joined(self.video_root or self.data_file.parent, sample.video)

    def local_video(self, sample: _NamesVideo) -> AbstractContextManager[Path]:
        """Give the path of a sample's video on this disk; see ``RemoteReading.local_video``."""
        # What frames cost to reach is in their packets.
        may_skim = self.config.frames != "cheap"
        return self.remote.local_video(self.video(sample), may_skim=may_skim)


class EvaluationVideo(NamedTuple):
    """A video of a list, whose asset is to be made.

    Attributes:
        where: file and line.
        key: name of its asset's folder; "" where the line is left out or has a fault.
        video: path as written.
        reason: the fault, where it has one.
    """

    where: str
    key: str
    video: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class EvaluationRun(RunSettings):
    """Settings that are the same for all assets of a list."""

    def folder(self, line: EvaluationVideo) -> Path:
        """Return the path of a line's asset, on this disk."""
        return self.out_root / "assets" / line.key

    def place(self, line: EvaluationVideo) -> Path:
        """Return the path or address where a line's finished asset is."""
        return Path(self.store or self.out_root) / "assets" / line.key


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is kept of one video.

    Attributes:
        rows: int32 (N, 3), (t, h, w): forced cells in raster order, then from the best down.
        frame_ids: int32 (T,).
        squares: pixels of each distinct frame, keyed by its first slot; empty where only the rows
            were asked for.
        scores: float32 (T, g, g), what the choice went by: energies of the cells, or changes in
            grey levels; 0 for slots that repeat the frame before.
        box: place of the picture in the square.
        facts: what ``meta.json`` records of the video, the backend and the geometry.
    """

    rows: NDArray[np.int32]
    frame_ids: NDArray[np.int32]
    squares: Mapping[int, Square]
    scores: NDArray[np.float32]
    box: Letterbox
    facts: dict[str, Any]


def select_from_video(
    path: Path,
    config: AssetConfig,
    options: ReadOptions,
    *,
    keep_pictures: bool = False,
    scratch: Path | None = None,
) -> Selection:
    """Score the sampled frames of a video in one pass and choose the cells to keep.

    Args:
        path: the video.
        config: all settings.
        options: how to read it.
        keep_pictures: also keep the squares.
        scratch: folder for the file that holds many squares; None = the system's.

    Raises:
        VideoError: if the video cannot be read or lacks what the signal needs.
        AssetError: if nothing may be kept.
    """
    with replace(options, hdr=config.hdr).open(path) as video:
        index = video.index
        for field, needed_by in config.needs_exact.items():
            video.check_exact(field, needed_by)
        box = video_box(index, config)
        frame_ids, sampling_facts = sampled_frames(index, config)
        chooser = Chooser(box, config, frame_ids)
        slots = chooser.slots if chooser.needs_frames or keep_pictures else []
        squares = SquareStore(box, len(slots) * keep_pictures, scratch)
        wanted = chooser.wanted_frames() if slots else []
        frames = options.watched(video.frames(wanted, signals=chooser.needs_signals), len(wanted))
        work = chooser.at_slots(frames)
        while batch := list(islice(work, frames_at_once(index.width_px, index.height_px))):
            if not chooser.needs_squares:
                for slot, frame in batch:
                    chooser.add(slot, frame)
            for slot, frame in batch[: len(batch) * keep_pictures]:
                squares.put(slot, square_frame(frame, box, squares.planes()))
            if chooser.needs_squares:
                for slot, frame in batch:
                    chooser.add(slot, frame, squares.get(slot))
        facts = video_facts(video, path) | box.facts() | sampling_facts
    chosen = chooser.choose()
    facts |= chosen.facts
    facts["selection_hash"] = selection_hash(chosen.rows, frame_ids)
    return Selection(
        rows=chosen.rows,
        frame_ids=frame_ids,
        squares=squares,
        scores=chosen.scores,
        box=box,
        facts=facts,
    )


def select_and_pack(
    path: Path, config: AssetConfig, options: ReadOptions, *, scratch: Path | None = None
) -> tuple[Selection, NDArray[np.int32], Iterator[Image.Image]]:
    """Select from a video and pack what is kept: the selection, sorted rows, and mosaics.

    One decode pass; a second one for the pixels where the squares would take more than 4 GiB.

    Raises:
        VideoError, AssetError: as ``select_from_video``.
    """
    size = config.sequence_length * square_bytes(config.square_size, config.patch_size)
    keeps = size <= MAX_FILE_BYTES
    selection = select_from_video(path, config, options, keep_pictures=keeps, scratch=scratch)
    rows = arrange_rows(selection.rows, config)
    if keeps:
        return selection, rows, pack_pictures(selection, rows, config)
    return selection, rows, collect_mosaics(path, rows, selection.frame_ids, config, options)


def collect_mosaics(
    path: Path,
    rows: NDArray[np.int32],
    frame_ids: NDArray[np.int32],
    config: AssetConfig,
    options: ReadOptions,
) -> Iterator[Image.Image]:
    """Yield the mosaics of rows that were selected before, from a pass that reads pixels only.

    Args:
        path: video to read.
        rows: int32 (N, 3), sorted.
        frame_ids: int32 (T,).
        config: sizes.
        options: how to read.

    Raises:
        VideoError: if the video cannot be read.
        AssetError: if it has fewer frames than were selected from.
    """
    packer = MosaicPacker(rows, square_px=config.square_size, patch_px=config.patch_size)
    slots = np.unique(rows[:, 0])
    ids: list[int] = frame_ids[slots].tolist()
    with replace(options, hdr=config.hdr).open(path) as video:
        box = video_box(video.index, config)
        if max(ids) >= len(video):
            raise AssetError(
                f"{path}: frame {max(ids)} was selected but the last one is {len(video) - 1}; "
                "the video changed, run stage 1 again"
            )
        previous, square = -1, None
        for slot, frame in zip(slots.tolist(), video.at(ids, signals=False), strict=True):
            if square is None or frame.index != previous:
                previous, square = frame.index, square_frame(frame, box)
            yield from packer.add(slot, square)


def pack_pictures(
    selection: Selection, rows: NDArray[np.int32], config: AssetConfig
) -> Iterator[Image.Image]:
    """Yield the mosaics from the pictures that the selection kept; ``rows`` are sorted."""
    packer = MosaicPacker(rows, square_px=config.square_size, patch_px=config.patch_size)
    used, latest = set(rows[:, 0].tolist()), 0
    for slot in range(config.sequence_length):
        # A slot that repeats the frame before has no picture of its own.
        if slot in selection.squares:
            latest = slot
        if slot in used:
            yield from packer.add(slot, selection.squares[latest])


def is_made(run: EvaluationRun, line: EvaluationVideo) -> bool:
    """Return whether a line's asset need not be made."""
    if run.overwrite:
        return False
    return is_up_to_date(run.place(line), run.video(line), run.config, run.options)


def make_evaluation_asset(run: EvaluationRun, line: EvaluationVideo) -> str:
    """Make one video's asset.

    Returns:
        ``made``, ``remade`` (damaged or outdated before) or ``kept`` (up to date); where bytes were
        moved, with their number.
    """
    if line.reason:
        raise SampleError(line.reason)
    choose_cache(run.remote.cache)
    before = traffic.copy()
    if is_made(run, line):
        return Counted.since(before, "kept", 0)
    place = run.place(line)
    was_there = not run.overwrite and (is_address(place) or place.exists())
    with run.local_video(line) as path:
        size = path.stat().st_size if is_address(run.video(line)) else 0
        write_evaluation_asset(
            path,
            key=line.key,
            out_root=run.out_root,
            config=run.config,
            backend=run.options.backend,
            require_exact=run.options.require_exact,
            num_threads=run.options.num_threads,
            video=line.video,
            overwrite=True,
        )
    if run.store is not None:
        was_there = move_folder(run.folder(line), place, META) and was_there
    return Counted.since(before, "remade" if was_there else "made", size)


def write_evaluation_asset(
    video_path: str | Path,
    *,
    key: str,
    out_root: str | Path,
    config: AssetConfig,
    backend: str = "auto",
    require_exact: bool = False,
    num_threads: int = 1,
    video: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Asset:
    """Make ``<out_root>/assets/<key>/`` in one decode pass, or read it where it is up to date.

    A damaged asset, or one whose video has changed, is made again.

    Args:
        video_path: file to read.
        key: name of the folder, made safe by ``asset_key``.
        out_root: folder that holds ``assets``.
        config: all settings.
        backend: backend of the reader; ``auto`` takes the best.
        require_exact: refuse estimates.
        num_threads: threads for decoding.
        video: what ``meta.json`` calls the video; None = ``video_path``.
        overwrite: make it even where it is up to date.
        progress: see ``ReadOptions``.

    Raises:
        VideoError: if the video cannot be read.
        StaleAssetError: if the folder holds an asset made with other settings.
        AssetError: if the folder holds files that are no part of an asset.
        OutputError: if the output cannot be written.
    """
    path = Path(video_path)
    options = ReadOptions(
        backend=backend, require_exact=require_exact, num_threads=num_threads, progress=progress
    )
    folder = Path(out_root) / "assets" / asset_key(key)
    if not overwrite and is_up_to_date(folder, path, config, options):
        return read_asset(folder, expected=config)
    with shared_output(Path(out_root)):
        selection, rows, mosaics = select_and_pack(path, config, options, scratch=Path(out_root))
        meta = build_meta(config, selection.facts, key=folder.name, video=video or str(video_path))
        meta["image_stem"] = MOSAIC_STEM
        write_asset(folder, meta, rows, selection.frame_ids, mosaics)
    return read_asset(folder, expected=config)


def is_up_to_date(folder: Path, video: Path, config: AssetConfig, options: ReadOptions) -> bool:
    """Return whether an asset is the one that would be made of a video, content included.

    Raises:
        StaleAssetError: if it was made with other settings.
    """
    meta = usable_meta(
        folder / META, config, backend=options.backend, require_exact=options.require_exact
    )
    if meta is None or not same_source(meta["source"], video):
        return False
    return is_whole(folder, meta)


def is_whole(folder: Path, meta: dict[str, Any]) -> bool:
    """Return whether the files of an asset are those that its metadata names.

    Of an asset in a store names and sizes are compared: its content would have to be fetched.
    """
    if is_address(folder):
        sizes = {name: facts["size_bytes"] for name, facts in meta["files"].items()}
        return has_sizes(folder, sizes) if is_in_shard(folder) else has_files(folder, sizes)
    # Imported here: each worker imports this module, and most assets are not there yet.
    from cv_reader.assets.validation import is_sound

    return is_sound(folder)
