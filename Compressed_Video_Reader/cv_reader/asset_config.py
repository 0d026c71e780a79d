"""Former path of ``cv_reader.select.config``, for code that imports it."""

from cv_reader.select.config import ALGORITHM_VERSION, AssetConfig

__all__ = ["ALGORITHM_VERSION", "AssetConfig"]
