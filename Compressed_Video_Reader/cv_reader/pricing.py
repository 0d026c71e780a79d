"""One price of a kept cell for a data set, so that its clips need so many mosaics on average.

Still clips then get few mosaics and busy ones many. The price is found on up to 32 clips spread
evenly over the data set, and recorded next to the output: later runs and other shards take it from
there.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.assets.files import write_json
from cv_reader.errors import CvReaderError, SettingsError
from cv_reader.reader import ReadOptions
from cv_reader.remote.addresses import address_of
from cv_reader.remote.videos import RemoteReading
from cv_reader.select.cheap import sampled_frames
from cv_reader.select.chooser import Chooser, video_box
from cv_reader.select.config import MAX_TOKEN_PRICE, AssetConfig

PRICE_FILE = "token_price.json"

_SAMPLED_CLIPS = 32
_PRICES: NDArray[np.float64] = np.geomspace(1e-4, 1e14, 361)


def priced_config(
    config: AssetConfig,
    mean_num_images: float,
    videos: Iterable[Path],
    options: ReadOptions,
    out_root: Path,
) -> AssetConfig:
    """Return the settings with the price that a data set needs for a mean number of mosaics.

    Args:
        config: settings without a price or a quality; ``num_images`` bounds every clip.
        mean_num_images: mosaics per clip, on average; 0 returns ``config`` as it is.
        videos: videos of the data set, in order; those that cannot be read are passed over.
        options: how to read.
        out_root: where the price is, or is to be, recorded.

    Raises:
        SettingsError: if other settings must change, no clip can be read, or the recorded price was
            found for other settings.
    """
    if not mean_num_images:
        return config
    if config.select != "rate_distortion" or config.has_free_length:
        raise SettingsError(
            "--mean_num_images needs --select rate_distortion, and neither --quality_db nor "
            "--token_price"
        )
    if not 1 <= mean_num_images <= config.num_images:
        raise SettingsError(
            f"--mean_num_images must be in 1..{config.num_images}, the most that one clip may "
            f"need, got {mean_num_images}"
        )
    path = out_root / PRICE_FILE
    asked = {"mean_num_images": mean_num_images, "fingerprint": config.fingerprint}
    if path.exists():
        return replace(config, token_price=_recorded(path, asked))
    every = list(videos)
    count = min(_SAMPLED_CLIPS, len(every))
    sampled = [every[number * len(every) // count] for number in range(count)]
    curves: list[NDArray[np.float64]] = []
    used: list[str] = []
    for video in dict.fromkeys(sampled):
        try:
            curves.append(_mosaics_needed(video, config, options))
        except (CvReaderError, OSError):
            continue
        used.append(address_of(video) or str(video))
    if not curves:
        raise SettingsError("--mean_num_images: no sampled video can be read; run validate first")
    price = price_for(np.mean(curves, axis=0), mean_num_images)
    out_root.mkdir(parents=True, exist_ok=True)
    write_json(path, {**asked, "token_price": price, "videos": used})
    return replace(config, token_price=price)


def price_for(means: NDArray[np.float64], wanted: float) -> float:
    """Return the lowest price of the table whose mean number of mosaics is at most ``wanted``.

    Args:
        means: float64 (prices,), never rising.
        wanted: mosaics per clip.
    """
    fits = np.flatnonzero(means <= wanted)
    return float(_PRICES[fits[0] if len(fits) else -1])


def _recorded(path: Path, asked: dict[str, Any]) -> float:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = {name: content[name] for name in asked}
        price = float(content["token_price"])
        if not 0 < price <= MAX_TOKEN_PRICE:
            raise ValueError(f"token_price {price}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path}: not a recorded price ({error!r}); remove it") from error
    if found != asked:
        raise SettingsError(
            f"{path}: a price for {found} is recorded where {asked} is asked for; use another "
            "output folder, or remove the file to find a new price"
        )
    return price


def _mosaics_needed(path: Path, config: AssetConfig, options: ReadOptions) -> NDArray[np.float64]:
    """Return how many mosaics a clip needs at each price of the table: float64 (prices,)."""
    with RemoteReading().local_video(path) as local, options.open(local) as video:
        index = video.index
        for field, needed_by in config.needs_exact.items():
            video.check_exact(field, needed_by)
        box = video_box(index, config)
        chooser = Chooser(box, config, sampled_frames(index, config)[0])
        frames = video.frames(chooser.wanted_frames(), signals=chooser.needs_signals)
        for slot, frame in chooser.at_slots(frames):
            chooser.add(slot, frame)
    return chooser.mosaics_needed(_PRICES)
