"""Codec assets on disk: the contract, and the steps that write, find and check them.

This face is what other packages may import, together with ``cv_reader.assets.make``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cv_reader.assets.contract import (
        FRAME_IDS,
        META,
        MOSAIC_STEM,
        POSITIONS,
        SCHEMA_VERSION,
        VISIBLE_INDICES,
        Asset,
        check_files,
        check_settings,
        load_array,
        read_asset,
        read_meta,
        read_positions,
    )
    from cv_reader.assets.names import evaluation_key
    from cv_reader.assets.validation import is_sound
    from cv_reader.select.cheap import sampled_frames
    from cv_reader.select.config import ALGORITHM_VERSION, AssetConfig

__all__ = [
    "ALGORITHM_VERSION",
    "FRAME_IDS",
    "META",
    "MOSAIC_STEM",
    "POSITIONS",
    "SCHEMA_VERSION",
    "VISIBLE_INDICES",
    "Asset",
    "AssetConfig",
    "check_files",
    "check_settings",
    "evaluation_key",
    "is_sound",
    "load_array",
    "read_asset",
    "read_meta",
    "read_positions",
    "sampled_frames",
]


def __getattr__(name: str) -> Any:
    """Import the contract on first use: workers that need only a file helper start sooner."""
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    others = {"is_sound": "cv_reader.assets.validation", "sampled_frames": "cv_reader.select.cheap"}
    return getattr(import_module(others.get(name, "cv_reader.assets.contract")), name)
