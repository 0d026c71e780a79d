"""Codec assets for the tests of the plug-in."""

from pathlib import Path

import pytest

from cv_reader.assets import AssetConfig
from cv_reader.assets.make import write_evaluation_asset
from support.media import moving_square, write_video


@pytest.fixture(scope="session")
def codec_asset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two mosaics of 8 x 8 cells, in blocks that a merging projector takes, too."""
    folder = tmp_path_factory.mktemp("asset")
    clip = write_video(folder / "a.mp4", moving_square(12, 48, 64, (2, 1)))
    config = AssetConfig(square_size=128, num_images=2, sequence_length=8, block_cells=2)
    return write_evaluation_asset(clip, key="k", out_root=folder, config=config).folder
