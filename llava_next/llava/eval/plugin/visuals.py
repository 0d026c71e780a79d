"""Turn what a task shows into visual segments: codec assets, uniform frames, images.

A string is a path: of a video, of an image (by its suffix), or of a folder that holds the frames of
a video as images. Such a folder has no stream to read codec signals from: it is always shown as
uniform frames, and counted apart. Anything else must be a PIL image.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from loguru import logger
from PIL import Image

from cv_reader.assets import AssetConfig, check_files, read_asset
from cv_reader.assets.make import write_evaluation_asset
from cv_reader.cores import available_cores
from llava.eval.plugin.asset_index import AssetEntry, AssetIndex
from llava.eval.settings import EvalSettings
from llava.visual.batch import VisualSegment
from llava.visual.config import VisualConfig
from llava.visual.loading import (
    is_video,
    load_asset,
    load_frame_folder,
    load_kept,
    load_video,
)
from llava.visual.pictures import load_image, to_rgb
from llava.visual.segments import check_blocks, image_visuals
from llava.visual.time_marks import slot_seconds
from run_kit.pages.text import duration_text
from run_kit.ranks import ranks_of_this_machine

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


class BlocksError(ValueError):
    """Assets were made cell by cell where the checkpoint merges blocks of cells.

    Attributes:
        config: settings that make assets of blocks, otherwise those of the assets.
        out_root: folder that the assets are to be made in again.
    """

    def __init__(self, text: str, config: AssetConfig, out_root: Path) -> None:
        super().__init__(text)
        self.config = config
        self.out_root = out_root


class VisualLoader:
    """Turns a sample's visuals into segments as the settings say.

    Attributes:
        config: the settings of assets that the run makes itself.
        index: finds the asset of a video.
    """

    def __init__(self, settings: EvalSettings, visual_config: VisualConfig, rank: int = 0) -> None:
        if settings.num_frames > visual_config.virtual_frames:
            raise ValueError(
                f"num_frames must be at most {visual_config.virtual_frames}, the length of the "
                f"checkpoint's virtual time line, got {settings.num_frames}"
            )
        self._settings = settings
        self._visual_config = visual_config
        self._log = settings.codec_debug == "all" or (settings.codec_debug == "main" and rank == 0)
        merge = visual_config.merge_side_patches
        self.config = settings.asset_config(merge_side_patches=merge)
        merges_strangers = self.config.block_cells % merge and self.config.select != "uniform"
        if self._computes(settings) and merges_strangers:
            raise ValueError(
                f"codec_block_cells must be {merge}, or not be given: the projector of this "
                f"checkpoint joins {merge} x {merge} cells, got {self.config.block_cells}"
            )
        self._cache = settings.codec_cache / self.config.fingerprint
        roots = list(settings.codec_root) if settings.video_input == "codec" else []
        if self._computes(settings):
            roots.append(self._cache / "assets")
        self.index = AssetIndex(settings, roots)
        self._last: tuple[str, Visual] | None = None

    @staticmethod
    def _computes(settings: EvalSettings) -> bool:
        """Return whether the run makes the assets that it lacks."""
        return (settings.video_input, settings.codec_miss) == ("codec", "online")

    def missing(self, videos: Sequence[str]) -> list[str]:
        """Return the videos that have no asset, in order, each once.

        Raises:
            BlocksError: The checkpoint merges cells, and assets were not made in blocks.
            ValueError: An asset does not fit the run or its video, or another version made it, or
                the run would make assets of other settings.
        """
        found = {video: self.index.find(video) for video in dict.fromkeys(videos)}
        entries = [entry for entry in found.values() if entry is not None]
        for entry in entries:
            check_files(entry.folder, {"files": entry.files})
        missing = [video for video, entry in found.items() if entry is None]
        if entries:
            self._check_settings(entries[0], makes_others=bool(missing))
        return missing

    def _check_settings(self, entry: AssetEntry, *, makes_others: bool) -> None:
        """Check one asset for all: those of a run have the same settings."""
        ours = self.config.to_dict()
        differ = makes_others and self._computes(self._settings) and entry.config != ours
        if differ:
            others = [
                f"{name}={found} where {ours[name]} is asked for"
                for name, found in entry.config.items()
                if found != ours[name]
            ]
            raise ValueError(
                f"{entry.folder}: made with {', '.join(others)}, and the run would make the "
                "assets that are missing with what is asked for; give model_args codec_<name>= "
                "the values of the assets, or leave out codec_root"
            )
        asset = read_asset(entry.folder)
        if self._visual_config.time_marks:
            slot_seconds(entry.folder)
        try:
            check_blocks(asset.positions, len(asset.images), self._visual_config)
        except ValueError as error:
            recorded = AssetConfig.from_dict(entry.config, entry.folder)
            cells = self._visual_config.merge_side_patches
            raise BlocksError(
                f"{asset.folder}: {error}",
                replace(recorded, block_cells=cells),
                out_root_of(entry.folder.parent),
            ) from error

    @property
    def asset_fingerprint(self) -> str | None:
        """Return that of the assets in use; before the first, of those the run would make."""
        computed = self.config.fingerprint if self._computes(self._settings) else None
        return self.index.fingerprint or computed

    def load(self, visuals: Sequence[object]) -> list[Visual]:
        """Return the segments of one sample, in the order of its visuals.

        The images of a sample are sized together, as in training.

        Raises:
            ValueError: An item is neither a path nor an image, a file is unreadable, or an asset
                cannot be used.
        """
        images = {index: image for index, item in enumerate(visuals) if (image := _image(item))}
        segments = image_visuals(list(images.values()), self._visual_config)
        shown = {
            index: Visual(segment, "image") for index, segment in zip(images, segments, strict=True)
        }
        return [shown.get(index) or self._video(item) for index, item in enumerate(visuals)]

    def _video(self, visual: object) -> Visual:
        if not isinstance(visual, str):
            raise ValueError(
                f"a visual must be a PIL image or a path, got {type(visual).__name__}; "
                "audio and other media have no meaning for this model"
            )
        if self._last is not None and self._last[0] == visual:
            return _seen(self._last[1])
        loaded = self._load_video(visual)
        # Questions on one video follow each other in most tasks: keep the last one, and no more.
        self._last = visual, loaded
        return loaded

    def _load_video(self, visual: str) -> Visual:
        num_frames = self._settings.num_frames
        if os.path.isdir(visual):
            segment = load_frame_folder(Path(visual), num_frames, self._visual_config)
            return Visual(segment, "frame_folder")
        if self._settings.video_input == "frames":
            return Visual(load_video(visual, num_frames, self._visual_config), "frames")
        return self._codec(visual)

    def _codec(self, video: str) -> Visual:
        entry = self.index.find(video)
        missed = entry is None
        if self._log:
            logger.info(f"codec asset {'MISS' if entry is None else 'HIT'}: {video}")
        if entry is None:
            if self._settings.codec_miss == "frames":
                segment = load_video(video, self._settings.num_frames, self._visual_config)
                return Visual(segment, "frames", missed=True)
            if self._settings.codec_miss == "error":
                raise ValueError(f"{video} has no codec asset, although it was there at the start")
        if entry is None or self._cache in entry.folder.parents:
            entry, segment = self._kept(video, entry)
        else:
            segment = load_asset(entry.folder, self._visual_config)
        return Visual(segment, "online" if missed else "codec", entry, missed)

    def _kept(self, video: str, entry: AssetEntry | None) -> tuple[AssetEntry, VisualSegment]:
        """Return an asset that this run or another one has computed; it may be gone by now."""
        key = self.index.key_of(video, root="/") if entry is None else entry.key
        folder = self._cache / "assets" / key
        computed: list[AssetEntry] = [] if entry is None else [entry]

        def make() -> None:
            if not computed or not folder.is_dir():
                computed[:] = [self._compute(video, key)]

        segment = load_kept(folder, make, self._visual_config, self._settings.codec_cache)
        return computed[0], segment

    def _compute(self, video: str, key: str) -> AssetEntry:
        """Make the asset now, as the offline command would."""
        started = time.perf_counter()
        asset = write_evaluation_asset(
            video,
            key=key,
            out_root=self._cache,
            config=self.config,
            num_threads=max(1, available_cores() // ranks_of_this_machine()),
        )
        taken = duration_text(time.perf_counter() - started)
        logger.info(f"computed codec asset of {video} in {taken}")
        return self.index.add(asset.folder)


def out_root_of(root: Path) -> Path:
    """Return ``--out_root`` of the asset tool for a folder of assets."""
    return root.parent if root.name == "assets" else root


def _image(visual: object) -> Image.Image | None:
    """Return a visual that is an image, or the path of one, as upright RGB; None for others."""
    if isinstance(visual, Image.Image):
        return to_rgb(visual)
    if isinstance(visual, str) and not is_video(visual) and not os.path.isdir(visual):
        return load_image(visual)
    return None


def _seen(visual: Visual) -> Visual:
    """Return a visual for its second use: an asset made in the run is found by then."""
    return visual._replace(
        source="codec" if visual.source == "online" else visual.source,
        missed=visual.missed and visual.source != "online",
    )
