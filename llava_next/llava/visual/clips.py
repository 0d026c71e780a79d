"""A video, as a conversation asks for it, to what the model takes.

The one way from a video of any kind to a segment for the processor, ``llava.ask``, chat and server:
a file as codec input or as whole frames, a folder that holds an asset or frames, or pictures.
"""

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from PIL import Image

from cv_reader.assets import META, AssetConfig, evaluation_key
from cv_reader.cores import available_cores
from cv_reader.remote.addresses import is_address
from cv_reader.remote.videos import RemoteReading
from cv_reader.shards import is_file, is_in_shard, is_plain
from llava.visual.batch import VisualSegment
from llava.visual.config import VisualConfig
from llava.visual.fetch import fetch, is_url
from llava.visual.loading import load_asset, load_frame_folder, load_kept, load_video
from llava.visual.pictures import load_image, to_rgb
from llava.visual.segments import frames_visual
from llava.visual.video_process import make_asset_within, shown_seconds_within
from onevision_encoder.patches import uniform_slots

VIDEO_INPUTS = ("codec", "frames")
CELL_PX = 16
"""Side of a mosaic's cell in pixels; the encoder sees each cell as one patch."""

_DOWNLOAD_SECONDS = 600.0
_INDEX_SECONDS = 600.0
_ALIASES = {"num_frames": "num_images", "video_input": "input"}
_ASSET_SETTINGS = frozenset(item.name for item in fields(AssetConfig)) - {"num_images"}


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """How a video is shown, and at which budget.

    Attributes:
        input: ``codec`` for selected patches of 64 frames, ``frames`` for whole frames.
        num_images: mosaics or frames; the visual tokens grow with it.
        max_patches: budget in patches instead of ``num_images``; 0 leaves that as it is.
        cache: folder that keeps computed assets, ``assets/KEY`` below a folder per settings, as
            evaluation does, up to the size of ``CV_READER_CACHE_GB``; None computes them again in
            each call.
        num_threads: threads that decode; 0 takes every core.
        time_limit_seconds: end the reading of a video after this time; 0 sets no limit.
        asset: further settings of ``cv_reader.assets.AssetConfig``, such as ``quality_db``.
    """

    input: str = "codec"
    num_images: int = 8
    max_patches: int = 0
    cache: Path | None = None
    num_threads: int = 0
    time_limit_seconds: float = 0.0
    asset: Mapping[str, Any]

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "ClipSettings":
        """Read settings by name: those of this class and those of assets.

        ``num_frames`` is another name of ``num_images``, ``video_input`` of ``input``.

        Raises:
            ValueError: A name is unknown, or a value is of another kind or out of range.
        """
        named = {_ALIASES.get(name, name): value for name, value in values.items()}
        asset = {name: value for name, value in named.items() if name in _ASSET_SETTINGS}
        own = {name: value for name, value in named.items() if name not in asset}
        unknown = sorted(own.keys() - {item.name for item in fields(cls)} | own.keys() & {"asset"})
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)} is no setting of a video; accepted are input, num_images, "
                "max_patches, cache, num_threads, time_limit_seconds and "
                f"{', '.join(sorted(_ASSET_SETTINGS))}"
            )
        if own.get("input", "codec") not in VIDEO_INPUTS:
            raise ValueError(f"video_input must be codec or frames, got {own['input']!r}")
        for name, least in (("num_images", 1), ("max_patches", 0), ("num_threads", 0)):
            value = own.get(name, least)
            if isinstance(value, str) and value.isascii() and value.isdecimal():
                value = own[name] = int(value[:9])
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number from {least}, got {value!r}")
        own["time_limit_seconds"] = float(own.get("time_limit_seconds", 0))
        if own.get("cache") is not None:
            own["cache"] = Path(own["cache"])
        parsed = {name: AssetConfig.parse(name, value) for name, value in asset.items()}
        return cls(**own, asset=parsed)

    def images(self, visual: VisualConfig) -> int:
        """Return the number of mosaics or frames of one checkpoint.

        Raises:
            ValueError: The budget is smaller than one of them.
        """
        if not self.max_patches:
            return self.num_images
        cells = visual.patches_per_side**2
        if self.max_patches < cells:
            raise ValueError(
                f"max_patches must be at least {cells}, one image of this checkpoint, got "
                f"{self.max_patches}"
            )
        return self.max_patches // cells

    def asset_config(self, visual: VisualConfig) -> AssetConfig:
        """Return the settings of the asset that a video becomes.

        A quality or a price of tokens, without a selector, is for ``rate_distortion``.

        Raises:
            ValueError: if settings cannot go together.
        """
        values: dict[str, Any] = {
            "square_size": CELL_PX * visual.patches_per_side,
            "patch_size": CELL_PX,
            "block_cells": visual.merge_side_patches,
            **self.asset,
        }
        if values.get("quality_db") or values.get("token_price"):
            values.setdefault("select", "rate_distortion")
        return AssetConfig(**values, num_images=self.images(visual))


def clip_moments(
    path: Path, visual: VisualConfig, settings: ClipSettings
) -> tuple[list[int], list[float]]:
    """Return the moments that ``load_clip`` takes from a video file.

    Args:
        path: a local video file.
        visual: the preprocessing settings.
        settings: how it is shown.

    Returns:
        The t of each moment in the positions of the segment, ascending, and its time in seconds
        from the first frame of the video.

    Raises:
        ValueError: if the video cannot be read.
    """
    if settings.input == "frames":
        count = settings.images(visual)
        config = AssetConfig(sequence_length=count, num_images=1)
        slots = uniform_slots(count, visual.virtual_frames).tolist()
    else:
        config = settings.asset_config(visual)
        slots = list(range(config.sequence_length))
    limit = settings.time_limit_seconds or _INDEX_SECONDS
    return slots, shown_seconds_within(path, config, limit)


def load_clip(source: Any, visual: VisualConfig, settings: ClipSettings) -> VisualSegment:
    """Read a video as one segment.

    Args:
        source: path or web address of a video file, path of an asset folder or of a folder of
            frames; or the frames themselves, in order: PIL images or paths of images.
        visual: the preprocessing settings.
        settings: how it is shown. An asset folder is shown as it is, and frames that are given
            one by one are all shown.

    Raises:
        ValueError: if the source cannot be read, or the settings do not fit it.
    """
    if isinstance(source, Sequence) and not isinstance(source, str | bytes):
        return frames_visual([_picture(item) for item in source], visual)
    if not isinstance(source, str | os.PathLike):
        raise ValueError(
            "a video must be a path or a list of pictures, got "
            f"{type(source).__name__}; write decoded frames as PIL images"
        )
    if is_url(source):
        with tempfile.TemporaryDirectory(prefix="llava_clip_") as folder:
            target = Path(folder) / "video"
            fetch(str(source), target, limit_seconds=_DOWNLOAD_SECONDS)
            return load_clip(target, visual, replace(settings, cache=None))
    path = Path(source)
    if is_in_shard(path) or (not is_plain(path) and is_file(path / META)):
        return load_asset(path, visual)
    if path.is_dir():
        if (path / META).is_file():
            return load_asset(path, visual)
        return load_frame_folder(path, settings.images(visual), visual)
    if settings.input == "frames":
        limit = settings.time_limit_seconds or None
        return load_video(path, settings.images(visual), visual, time_limit_seconds=limit)
    return _load_codec(path, visual, settings)


def _picture(item: Any) -> Image.Image:
    return to_rgb(item) if isinstance(item, Image.Image) else load_image(item)


def _load_codec(path: Path, visual: VisualConfig, settings: ClipSettings) -> VisualSegment:
    """Make the asset of a video, or take it from the cache, and read it."""
    config = settings.asset_config(visual)
    with ExitStack() as stack:
        if settings.cache is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="llava_clip_"))
            out_root, key = Path(folder), "video"
        else:
            out_root = settings.cache / config.fingerprint
            key = evaluation_key(path if is_address(path) else os.path.abspath(path), "/")
        # Whole, as the process that works with a limit of time sees no other file.
        path = stack.enter_context(RemoteReading(whole_mib=math.inf).local_video(path))
        target: dict[str, Any] = {
            "key": key,
            "out_root": out_root,
            "config": config,
            "num_threads": settings.num_threads or available_cores(),
        }

        def make() -> None:
            if settings.time_limit_seconds:
                make_asset_within(path, settings.time_limit_seconds, **target)
                return
            from cv_reader.assets.make import write_evaluation_asset  # needs PyAV

            write_evaluation_asset(path, **target)

        folder = out_root / "assets" / key
        if settings.cache is None:
            make()
            return load_asset(folder, visual)
        return load_kept(folder, make, visual, settings.cache)
