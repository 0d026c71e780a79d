"""Merged patches: true 2x2 blocks within each image, with counts that the prompt can know."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from llava.visual.batch import VisualSegment, pack_segments
from llava.visual.config import VisualConfig
from llava.visual.loading import count_mosaics
from llava.visual.segments import block_order, codec_visual, frames_visual, image_visual
from support.image_grids import image_grid

MERGED = VisualConfig(patch_size_px=2, patches_per_side=4, merge_side_patches=2)
PLAIN = VisualConfig(patch_size_px=2, patches_per_side=4)


def _picture(width: int = 8, height: int = 8) -> Image.Image:
    return Image.fromarray(np.random.randint(0, 256, (height, width, 3), dtype=np.uint8))


def test_blocks_of_two_images_by_hand() -> None:
    assert block_order(2, 2, 4, 2).tolist() == [0, 1, 4, 5, 2, 3, 6, 7] + [
        8, 9, 12, 13, 10, 11, 14, 15,
    ]  # fmt: skip


def _by_position(segment: VisualSegment) -> dict[tuple[int, ...], torch.Tensor]:
    rows = zip(segment.positions.tolist(), segment.patches, strict=True)
    return {tuple(position): patch for position, patch in rows}


@pytest.mark.parametrize("make", [image_visual, lambda image, c: frames_visual([image] * 3, c)])
def test_each_token_is_a_block_of_neighbours_and_no_patch_changes(make: Any) -> None:
    image = _picture()
    merged, plain = make(image, MERGED), make(image, PLAIN)
    for block in merged.positions.view(-1, 4, 3):
        t, h, w = block[0].tolist()
        assert h % 2 == w % 2 == 0
        assert block.tolist() == [[t, h, w], [t, h, w + 1], [t, h + 1, w], [t, h + 1, w + 1]]
    found, expected = _by_position(merged), _by_position(plain)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert merged.placeholder_tokens == tuple(n // 4 for n in plain.placeholder_tokens)


def _block_positions() -> np.ndarray:
    """Two mosaics of 4 x 4 cells: each 2 x 2 block is a block of a frame of its own."""
    positions = np.zeros((2, 4, 4, 3), np.int32)
    for block in range(8):
        mosaic, row, column = block // 4, block % 4 // 2 * 2, block % 2 * 2
        for inner_row, inner_column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            place = (mosaic, row + inner_row, column + inner_column)
            place_in_frame = (2 * (block % 2) + inner_row, 2 * (block // 2 % 2) + inner_column)
            positions[place] = [7 * block, *place_in_frame]
    return positions.reshape(-1, 3)


def test_mosaics_merge_cells_that_are_neighbours_in_their_frame() -> None:
    positions = _block_positions()
    segment = codec_visual([_picture(), _picture()], positions, MERGED)
    for block in range(8):
        merged = segment.positions[4 * block : 4 * block + 4].tolist()
        _, top, left = merged[0]
        cells = [(top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)]
        assert merged == [[7 * block, *cell] for cell in cells]
    assert segment.placeholder_tokens == (4, 4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mosaics_whose_merged_cells_are_strangers_are_refused(axis: int, tmp_path: Path) -> None:
    positions = _block_positions()
    positions[19, axis] += 1  # row 0, column 3 of mosaic 1: of its block 1
    message = "spatial_merge.*1 of 8 blocks are not: block 1 of mosaic 1 has.*block_cells = 2"
    with pytest.raises(ValueError, match=message):
        codec_visual([_picture(), _picture()], positions, MERGED)
    codec_visual([_picture(), _picture()], positions, PLAIN)
    np.save(tmp_path / "positions_thw.npy", positions)
    _picture().save(tmp_path / "mosaic.png")
    images = [tmp_path / "mosaic.png"] * 2
    assert count_mosaics(images, tmp_path / "positions_thw.npy", PLAIN) == [16, 16]
    with pytest.raises(ValueError, match=message):
        count_mosaics(images, tmp_path / "positions_thw.npy", MERGED)


def test_a_mosaic_with_an_odd_grid_is_refused() -> None:
    positions = np.zeros((9, 3), np.int32)
    with pytest.raises(ValueError, match="grid of a mosaic must be a multiple of the 2 patches"):
        codec_visual([_picture(6, 6)], positions, MERGED)


def test_grids_are_whole_blocks_in_every_mode() -> None:
    wide = {"patch_size_px": 14, "merge_side_patches": 2, "patches_per_side": 36}
    anyres = VisualConfig(
        **wide, image_aspect_ratio="anyres", image_grid_pinpoints=((574, 1120), (1694, 574))
    )
    assert image_grid(600, 1200, anyres) == (80, 42)
    assert image_grid(3000, 1000, anyres) == (42, 122)
    native = VisualConfig(**wide, image_aspect_ratio="native")
    assert image_grid(14 * 7, 14 * 9, native) == (8, 6)
    assert image_visual(_picture(98, 126), native).placeholder_tokens == (12,)


def test_a_grid_that_cannot_be_merged_is_refused() -> None:
    with pytest.raises(ValueError, match="patches_per_side must be a multiple of the 2 patches"):
        VisualConfig(patches_per_side=5, merge_side_patches=2)


def test_a_batch_counts_language_tokens_and_does_not_mix() -> None:
    merged, plain = image_visual(_picture(), MERGED), image_visual(_picture(), PLAIN)
    assert pack_segments([[], [merged, merged]]).tokens_per_sample(2).tolist() == [0, 8]
    with pytest.raises(ValueError, match="one number of patches per token"):
        pack_segments([[merged], [plain]])
