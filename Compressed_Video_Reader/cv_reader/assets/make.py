"""From a video to an asset: score and select in one decode pass, pack, write.

Training runs ``select_from_video`` and ``write_asset`` as stage 1 and stage 2, with a pixels-only
pass between; evaluation runs both on one pass. Memory holds T square frames at most.

Axis letters: T slots, N rows, g cells along a side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cv_reader.assets.claims import shared_output
from cv_reader.assets.contract import (
    FRAME_IDS,
    META,
    MOSAIC_STEM,
    POSITIONS,
    VISIBLE_INDICES,
    Asset,
    file_facts,
    is_asset_file,
    read_asset,
)
from cv_reader.assets.files import array_bytes, json_bytes, new_folder
from cv_reader.assets.freshness import same_source, selection_hash, usable_meta, video_facts
from cv_reader.assets.metadata import build_meta
from cv_reader.assets.names import asset_key
from cv_reader.assets.validation import is_sound
from cv_reader.errors import AssetError
from cv_reader.media.frames import frames_at_once
from cv_reader.reader import ReadOptions
from cv_reader.select.chooser import Chooser, video_box
from cv_reader.select.config import AssetConfig
from cv_reader.select.geometry import Letterbox
from cv_reader.select.mosaics import (
    MosaicPacker,
    Square,
    arrange_rows,
    black_squares,
    square_frame,
    write_mosaics,
)
from cv_reader.select.selection import choose_frame_ids

_MAX_PICTURES_BYTES = 128 << 20


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
    squares: dict[int, Square]
    scores: NDArray[np.float32]
    box: Letterbox
    facts: dict[str, Any]


def select_from_video(
    path: Path, config: AssetConfig, options: ReadOptions, *, keep_pictures: bool = False
) -> Selection:
    """Score the sampled frames of a video in one pass and choose the cells to keep.

    Raises:
        VideoError: if the video cannot be read or lacks what the signal needs.
        AssetError: if nothing may be kept.
    """
    with replace(options, hdr=config.hdr).open(path) as video:
        index = video.index
        box = video_box(index, config)
        frame_ids = choose_frame_ids(index.packet_bytes, config)
        chooser = Chooser(box, config, frame_ids)
        squares: dict[int, Square] = {}
        slots = chooser.slots if chooser.needs_frames or keep_pictures else []
        # One piece of memory for all: the system clears large pages much faster than small ones.
        count = len(slots) * keep_pictures
        memory = zip(*black_squares(count, box.square_px, box.patch_px), strict=True)
        wanted = chooser.wanted_frames() if slots else []
        frames = video.frames(wanted, signals=chooser.needs_signals)
        work = chooser.at_slots(frames)
        while batch := list(islice(work, frames_at_once(index.width_px, index.height_px))):
            if not chooser.needs_squares:
                for slot, frame in batch:
                    chooser.add(slot, frame)
            for slot, frame in batch[: len(batch) * keep_pictures]:
                squares[slot] = square_frame(frame, box, next(memory))
            if chooser.needs_squares:
                for slot, frame in batch:
                    chooser.add(slot, frame, squares.get(slot))
        facts = video_facts(video, path) | box.facts()
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
    path: Path, config: AssetConfig, options: ReadOptions
) -> tuple[Selection, NDArray[np.int32], list[Image.Image]]:
    """Select from a video and pack what is kept: the selection, sorted rows, and mosaics.

    One decode pass where the pictures of all slots fit into memory (64 slots of 576 pixels need 32
    MB), otherwise a second one for the pixels.

    Raises:
        VideoError, AssetError: as ``select_from_video``.
    """
    fits = config.sequence_length * config.square_size**2 * 3 // 2 <= _MAX_PICTURES_BYTES
    selection = select_from_video(path, config, options, keep_pictures=fits)
    rows = arrange_rows(selection.rows, config)
    if fits:
        return selection, rows, pack_pictures(selection, rows, config)
    return selection, rows, collect_mosaics(path, rows, selection.frame_ids, config, options)


def collect_mosaics(
    path: Path,
    rows: NDArray[np.int32],
    frame_ids: NDArray[np.int32],
    config: AssetConfig,
    options: ReadOptions,
) -> list[Image.Image]:
    """Return the mosaics of rows that were selected before, from a pass that reads pixels only.

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
    packer = _packer(rows, config)
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
            packer.add(slot, square)
    return packer.images()


def pack_pictures(
    selection: Selection, rows: NDArray[np.int32], config: AssetConfig
) -> list[Image.Image]:
    """Return the mosaics from the pictures that the selection kept; ``rows`` are sorted."""
    packer = _packer(rows, config)
    square = selection.squares[0]
    for slot in range(config.sequence_length):
        # A slot that repeats the frame before has no picture of its own.
        square = selection.squares.get(slot, square)
        packer.add(slot, square)
    return packer.images()


def _packer(rows: NDArray[np.int32], config: AssetConfig) -> MosaicPacker:
    return MosaicPacker(
        rows,
        square_px=config.square_size,
        patch_px=config.patch_size,
        num_images=len(rows) // config.grid**2,
    )


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

    Raises:
        VideoError: if the video cannot be read.
        StaleAssetError: if the folder holds an asset made with other settings.
        AssetError: if the folder holds files that are no part of an asset.
        OutputError: if the output cannot be written.
    """
    path = Path(video_path)
    options = ReadOptions(backend=backend, require_exact=require_exact, num_threads=num_threads)
    folder = Path(out_root) / "assets" / asset_key(key)
    if not overwrite and is_up_to_date(folder, path, config, options):
        return read_asset(folder, expected=config)
    with shared_output(Path(out_root)):
        selection, rows, mosaics = select_and_pack(path, config, options)
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
    is_same = meta is not None and video.exists() and same_source(meta["source"], video)
    return is_same and is_sound(folder)


def write_asset(
    folder: Path,
    meta: dict[str, Any],
    rows: NDArray[np.int32],
    frame_ids: NDArray[np.int32],
    mosaics: Sequence[Image.Image],
) -> None:
    """Write an asset folder that appears whole; an asset of that name is replaced.

    Args:
        folder: path of the asset.
        meta: content of ``meta.json``; names the settings and the image stem.
        rows: int32 (N, 3), sorted.
        frame_ids: int32 (T,).
        mosaics: G images.

    Raises:
        AssetError, OutputError: as ``new_folder``.
    """
    stem: str = meta["image_stem"]
    arrays: dict[str, NDArray[Any]] = {POSITIONS: rows, FRAME_IDS: frame_ids}
    if stem == MOSAIC_STEM:
        grid = int(meta["hb"])
        arrays[VISIBLE_INDICES] = rows.astype(np.int64) @ np.array([grid * grid, grid, 1])
    with new_folder(folder, is_replaceable=is_asset_file) as temporary:
        write_mosaics(mosaics, temporary, stem=stem, quality=meta["cfg"]["jpg_quality"])
        for name, array in arrays.items():
            (temporary / name).write_bytes(array_bytes(array))
        content = json_bytes(meta | {"files": file_facts(temporary)})
        (temporary / META).write_bytes(content)
