"""Mosaics: every slot holds the cell that its position names."""

import numpy as np
import pytest
from av import VideoFrame
from PIL import Image

from cv_reader.backends.pixels import AvPicture
from cv_reader.geometry import letterbox
from cv_reader.packing import MosaicPacker, sort_rows, square_frame, write_mosaics


def _random_rows(seed, slots, grid, count):
    cells = np.random.default_rng(seed).permutation(slots * grid**2)[:count]
    return np.stack(np.unravel_index(cells, (slots, grid, grid)), axis=1).astype(np.int32)


@pytest.mark.parametrize("order", ["raster", "zigzag"])
def test_every_slot_holds_the_cell_of_its_position(order):
    squares = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 4)).astype(np.uint8)
    rows = sort_rows(_random_rows(1, 5, 4, 48), order)
    packer = MosaicPacker(rows, square_px=32, patch_px=8, num_images=3)
    for slot in range(5):
        packer.add(slot, squares[slot])
    for number, (t, h, w) in enumerate(rows.tolist()):
        image, (row, column) = number // 16, divmod(number % 16, 4)
        cell = packer.mosaics[image, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
        source = squares[t, h * 8 : h * 8 + 8, w * 8 : w * 8 + 8]
        np.testing.assert_array_equal(cell, source)


def test_raster_is_lexicographic():
    rows = sort_rows(_random_rows(2, 5, 4, 60), "raster")
    assert rows.tolist() == sorted(rows.tolist())


def test_zigzag_turns_odd_rows_around():
    rows = np.array([(0, 1, 0), (0, 0, 1), (0, 1, 1), (0, 0, 0), (1, 1, 0), (1, 1, 1)], np.int32)
    assert sort_rows(rows, "zigzag").tolist() == [
        [0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0], [1, 1, 1], [1, 1, 0],
    ]  # fmt: skip


def test_a_whole_frame_packs_into_itself():
    square = np.random.default_rng(3).integers(0, 256, (32, 32, 4)).astype(np.uint8)
    rows = _random_rows(4, 1, 4, 16)
    packer = MosaicPacker(sort_rows(rows, "raster"), square_px=32, patch_px=8, num_images=1)
    packer.add(0, square)
    np.testing.assert_array_equal(packer.mosaics[0], square)


def test_a_frame_is_centred_on_black():
    box = letterbox(20, 40, square_px=40, patch_px=4)
    picture = AvPicture(VideoFrame.from_ndarray(np.full((20, 40, 3), 200, np.uint8)), 0)
    square = square_frame(picture, box)
    assert (square[10:30, :, :3] == 200).all()
    assert not square[:10].any()
    assert not square[30:].any()


def test_mosaics_are_written_as_420_jpegs(tmp_path):
    mosaics = np.full((2, 32, 32, 4), 90, np.uint8)
    paths = write_mosaics(mosaics, tmp_path, stem="clip", quality=95)
    assert [path.name for path in paths] == ["clip_000.jpg", "clip_001.jpg"]
    with Image.open(paths[1]) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (32, 32), "RGB")
        assert image.layer[0][1:3] == (2, 2)  # luma sampled twice as densely as chroma
        assert abs(int(np.asarray(image).mean()) - 90) <= 1
