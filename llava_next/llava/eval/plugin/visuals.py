"""What a task shows the model, as visual segments: codec assets, uniform frames, images.

A string is a path: of a video, of an image (by its suffix), or of a folder that holds the frames of
a video as images. Such a folder has no stream to read codec signals from: it is always shown as
uniform frames, and counted apart. Anything else must be a PIL image.
"""

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from loguru import logger
from PIL import Image

from cv_reader.assets import check_files, read_asset
from cv_reader.assets.make import write_evaluation_asset
from llava.eval.plugin.asset_index import AssetEntry, AssetIndex, asset_config
from llava.eval.settings import EvalSettings
from llava.visual.batch import VisualSegment
from llava.visual.pictures import load_image
from llava.visual.positions import uniform_slots
from llava.visual.segments import VisualConfig, codec_segment, frames_segment, image_segment
from llava.visual.videos import read_uniform_frames

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

Source = Literal["codec", "online", "frames", "frame_folder", "image"]


class Visual(NamedTuple):
    """One visual of a sample.

    Attributes:
        segment: ready for the model.
        source: how it was made; ``online`` and ``codec`` hold the same bytes.
        asset: the asset it was read from, if any.
        missed: whether a codec asset was wanted and absent.
    """

    segment: VisualSegment
    source: Source
    asset: AssetEntry | None = None
    missed: bool = False


class VisualLoader:
    """Turns a sample's visuals into segments as the settings say."""

    def __init__(self, settings: EvalSettings, visual_config: VisualConfig, rank: int = 0) -> None:
        if settings.num_frames > visual_config.virtual_frames:
            raise ValueError(
                f"num_frames must be at most {visual_config.virtual_frames}, the length of the "
                f"checkpoint's virtual time line, got {settings.num_frames}"
            )
        self._settings = settings
        self._visual_config = visual_config
        self._log = settings.codec_debug == "all" or (settings.codec_debug == "main" and rank == 0)
        self._config = asset_config(settings)
        self._cache = settings.codec_cache / self._config.fingerprint
        roots = list(settings.codec_root) if settings.video_input == "codec" else []
        if settings.video_input == "codec" and settings.codec_miss == "online":
            roots.append(self._cache / "assets")
        self.index = AssetIndex(settings, roots)
        self._last: tuple[str, Visual] | None = None

    def missing(self, videos: Sequence[str]) -> list[str]:
        """Those of the videos that have no asset, in order, each once.

        Raises:
            ValueError: for an asset that does not fit the run or its video, or that another
                version made.
        """
        found = {video: self.index.find(video) for video in dict.fromkeys(videos)}
        entries = [entry for entry in found.values() if entry is not None]
        for entry in entries:
            check_files(entry.folder, {"files": entry.files})
        if entries:
            read_asset(entries[0].folder)  # the contract of one settings: one stands for all
        return [video for video, entry in found.items() if entry is None]

    @property
    def asset_fingerprint(self) -> str | None:
        """Of the assets in use; before the first, of those that this run would compute."""
        computes = (self._settings.video_input, self._settings.codec_miss) == ("codec", "online")
        return self.index.fingerprint or (self._config.fingerprint if computes else None)

    def load(self, visuals: Sequence[object]) -> list[Visual]:
        """Segments of one sample, in the order of its visuals.

        Raises:
            ValueError: for something that is neither a path nor an image, an unreadable file, or
                an asset that cannot be used.
        """
        return [self._load_one(visual) for visual in visuals]

    def _load_one(self, visual: object) -> Visual:
        if isinstance(visual, Image.Image):
            return Visual(image_segment(visual, self._visual_config), "image")
        if not isinstance(visual, str):
            raise ValueError(
                f"a visual must be a PIL image or a path, got {type(visual).__name__}; "
                "audio and other media have no meaning for this model"
            )
        if self._last is not None and self._last[0] == visual:
            return _seen(self._last[1])
        loaded = self._load_path(visual)
        # Questions on one video follow each other in most tasks: the last visual is kept, no more.
        self._last = visual, loaded
        return loaded

    def _load_path(self, visual: str) -> Visual:
        if os.path.isdir(visual):
            return Visual(self._folder_frames(Path(visual)), "frame_folder")
        if not is_video(visual):
            return Visual(image_segment(load_image(visual), self._visual_config), "image")
        if self._settings.video_input == "frames":
            return Visual(self._frames(visual), "frames")
        return self._codec(visual)

    def _codec(self, video: str) -> Visual:
        entry = self.index.find(video)
        missed = entry is None
        if self._log:
            logger.info(f"codec asset {'MISS' if entry is None else 'HIT'}: {video}")
        if entry is None:
            if self._settings.codec_miss == "frames":
                return Visual(self._frames(video), "frames", missed=True)
            if self._settings.codec_miss == "error":
                raise ValueError(f"{video} has no codec asset, although it was there at the start")
            entry = self._compute(video)
        asset = read_asset(entry.folder)
        mosaics = [load_image(path) for path in asset.images]
        segment = codec_segment(mosaics, asset.positions, self._visual_config)
        return Visual(segment, "online" if missed else "codec", entry, missed)

    def _compute(self, video: str) -> AssetEntry:
        """Make the asset now, as the offline command would."""
        started = time.perf_counter()
        asset = write_evaluation_asset(
            video, key=self.index.key_of(video, root="/"), out_root=self._cache, config=self._config
        )
        logger.info(f"computed codec asset of {video} in {time.perf_counter() - started:.1f} s")
        return self.index.add(asset.folder)

    def _frames(self, video: str) -> VisualSegment:
        images = read_uniform_frames(video, self._settings.num_frames)
        return frames_segment(images, self._visual_config)

    def _folder_frames(self, folder: Path) -> VisualSegment:
        names = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
        if not names:
            raise ValueError(f"{folder} holds no images, so it is no folder of a video's frames")
        paths = sorted(names, key=_natural)
        slots = uniform_slots(self._settings.num_frames, len(paths)).tolist()
        images = {slot: load_image(paths[slot]) for slot in sorted(set(slots))}
        return frames_segment([images[slot] for slot in slots], self._visual_config)


def is_video(path: str) -> bool:
    """Whether a path names a video file: neither an image by its suffix nor a folder."""
    return Path(path).suffix.lower() not in IMAGE_SUFFIXES and not os.path.isdir(path)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts frame_2 before frame_10, with and without leading zeros."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _seen(visual: Visual) -> Visual:
    """A visual that is used again: what was made in the run is found now."""
    return visual._replace(
        source="codec" if visual.source == "online" else visual.source,
        missed=visual.missed and visual.source != "online",
    )
