"""Segments of a stream as assets on disk, as training and evaluation read them."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cv_reader.assets.contract import MOSAIC_STEM, write_asset
from cv_reader.assets.freshness import selection_hash
from cv_reader.assets.metadata import build_meta
from cv_reader.errors import SettingsError
from cv_reader.select.config import AssetConfig
from cv_reader.select.mosaics import arrange_rows
from cv_reader.streams.windows import StreamWindow

_EXACTNESS = {"motion": "none", "residual_y": "none", "pts": "exact"}


class SegmentWriter:
    """Writes ``<root>/assets/segment_000000`` and so on, each when its segment is over.

    Args:
        root: a folder without such assets.
        config: settings of the selection.
        name: what ``meta.json`` calls the stream.

    Raises:
        SettingsError: there are assets already.
    """

    def __init__(self, root: Path, config: AssetConfig, name: str) -> None:
        self._folder, self._config, self._name = root / "assets", config, name
        self._windows: list[StreamWindow] = []
        if self._folder.is_dir() and any(self._folder.iterdir()):
            raise SettingsError(f"{self._folder}: holds assets already; name another folder")

    def add(self, window: StreamWindow) -> None:
        """Take a window; writes the segment before it, if it begins a new one."""
        if window.break_before:
            self.finish()
        self._windows.append(window)

    def finish(self) -> None:
        """Write the segment that is under way."""
        windows, self._windows = self._windows, []
        if not sum(len(window.rows) for window in windows):
            return
        config, first = self._config, windows[0]
        rows = np.concatenate([window.rows for window in windows])
        patches = np.concatenate([window.patches for window in windows])
        count = len(rows)
        rows, patches = _filled(rows, patches, config)
        ids = np.concatenate([window.frame_ids for window in windows])
        times = np.concatenate([window.times_seconds for window in windows])
        frame_ids = np.pad(ids, (0, config.sequence_length - len(ids)), "edge").astype(np.int32)
        key = f"segment_{first.segment:06d}"
        facts: dict[str, Any] = {
            "source": _source_facts(self._name, first.segment, windows),
            "backend": "pyav",
            "exactness": _EXACTNESS,
            "num_frames": int(ids[-1]) + 1,
            "num_images": len(rows) // config.grid**2,
            "padding_patch_filtered": int((~first.box.valid_cells()[rows[:, 1], rows[:, 2]]).sum()),
            "K": len(rows),
            "num_chosen": count,
            "token_price": config.token_price,
            "break_before": first.break_before,
            "times_seconds": times.tolist(),
            "selection_hash": selection_hash(rows, frame_ids),
            **first.box.facts(),
        }
        meta = build_meta(config, facts, key=key, video=f"{self._name}#{key}")
        meta["image_stem"] = MOSAIC_STEM
        self._folder.mkdir(parents=True, exist_ok=True)
        mosaics = _mosaics(patches, config)
        write_asset(self._folder / key, meta, rows, frame_ids, mosaics)


def _source_facts(name: str, segment: int, windows: list[StreamWindow]) -> dict[str, Any]:
    """Return the record that replaces a file's facts, because a stream cannot be read again."""
    digest = hashlib.sha256()
    for window in windows:
        digest.update(window.patches.tobytes())
    size = sum(window.patches.nbytes for window in windows)
    facts = {"size_bytes": size, "mtime_ns": 0, "sha256": digest.hexdigest()}
    return facts | {"stream": name, "segment": segment}


def _filled(
    rows: NDArray[np.int32], patches: NDArray[np.uint8], config: AssetConfig
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Repeat the last block to the end of its mosaic, and put all into the order of mosaics."""
    cells, block = config.grid**2, config.block_cells
    flat = np.array([cells, config.grid, 1])
    places = np.argsort(rows @ flat)
    last = rows[-1] // (1, block, block)
    same = rows[(rows // (1, block, block) == last).all(axis=1)]
    missing = (-len(rows) % cells) // block**2
    ordered = arrange_rows(np.concatenate([rows, *[same] * missing]), config)
    found = np.searchsorted((rows @ flat)[places], ordered @ flat)
    return ordered, patches[places[found]]


def _mosaics(patches: NDArray[np.uint8], config: AssetConfig) -> list[Image.Image]:
    grid, side, size = config.grid, config.patch_size, config.square_size
    placed = patches.reshape(-1, grid, grid, side, side, 3).transpose(0, 1, 3, 2, 4, 5)
    mosaics = np.ascontiguousarray(placed).reshape(-1, size, size, 3)
    return [Image.fromarray(mosaic, mode="YCbCr") for mosaic in mosaics]
