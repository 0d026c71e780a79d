"""The pictures of one video: original frames, uniform sample, energy, kept patches, mosaics."""

from pathlib import Path

from PIL import Image

from cv_reader.assets import Asset, AssetConfig
from cv_reader.reader import ReadOptions
from cv_reader.views.visualize import show_video, strips


def video_panels(video: str, asset: Asset) -> list[tuple[str, Image.Image]]:
    """Captions and pictures, in the order of the line."""
    config = AssetConfig.from_dict(asset.meta["cfg"], asset.folder)
    options = ReadOptions(backend=asset.meta["backend"])
    return strips(show_video(Path(video), config, options))
