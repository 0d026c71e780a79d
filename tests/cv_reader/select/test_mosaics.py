"""Mosaics: every slot holds the cell that its position names."""

from pathlib import Path

import numpy as np
import pytest
from av import VideoFrame
from PIL import Image

from cv_reader.backends.pixels import AvPicture
from cv_reader.media.conversion import Colors
from cv_reader.select.geometry import letterbox
from cv_reader.select.mosaics import (
    MosaicPacker,
    Square,
    black_squares,
    sort_rows,
    square_frame,
    to_image,
    write_mosaics,
)
from support.media import texture


def _random_rows(seed: int, slots: int, grid: int, count: int) -> np.ndarray:
    cells = np.random.default_rng(seed).permutation(slots * grid**2)[:count]
    return np.stack(np.unravel_index(cells, (slots, grid, grid)), axis=1).astype(np.int32)


COLORS = Colors.named("yuv420p", 5, 2)


def _random_squares(seed: int, count: int, patch_px: int) -> list[Square]:
    random = np.random.default_rng(seed)
    planes = black_squares(count, 4 * patch_px, patch_px)
    for plane in planes:
        plane[:] = random.integers(0, 256, plane.shape)
    return [Square(*one, COLORS) for one in zip(*planes, strict=True)]


def _pack(
    rows: np.ndarray, squares: list[Square], num_images: int, patch_px: int
) -> list[np.ndarray]:
    packer = MosaicPacker(rows, square_px=4 * patch_px, patch_px=patch_px)
    images = [image for slot, square in enumerate(squares) for image in packer.add(slot, square)]
    assert len(images) == num_images
    return [np.asarray(image) for image in images]


@pytest.mark.parametrize("patch", [8, 7])
@pytest.mark.parametrize("order", ["raster", "zigzag"])
def test_every_slot_holds_the_cell_of_its_position(order: str, patch: int) -> None:
    squares = _random_squares(0, 5, patch)
    sources = [np.asarray(to_image(square)) for square in squares]
    rows = sort_rows(_random_rows(1, 5, 4, 48), order)
    mosaics = _pack(rows, squares, 3, patch)
    for number, (t, h, w) in enumerate(rows.tolist()):
        row, column = (part * patch for part in divmod(number % 16, 4))
        cell = mosaics[number // 16][row : row + patch, column : column + patch]
        source = sources[t][h * patch : (h + 1) * patch, w * patch : (w + 1) * patch]
        np.testing.assert_array_equal(cell, source)


def test_mosaics_come_as_soon_as_they_are_complete_and_in_order() -> None:
    squares = _random_squares(7, 6, 8)
    rows = sort_rows(_random_rows(8, 6, 4, 64), "raster")
    expected = _pack(rows, squares, 4, 8)
    last = rows[15::16, 0].tolist()
    packer = MosaicPacker(rows, square_px=32, patch_px=8)
    given = [len(packer.add(slot, square)) for slot, square in enumerate(squares)]
    assert given == [last.count(slot) for slot in range(6)]
    packer = MosaicPacker(rows, square_px=32, patch_px=8)
    backwards = [image for slot in range(5, -1, -1) for image in packer.add(slot, squares[slot])]
    for found, image in zip(backwards, expected, strict=True):
        np.testing.assert_array_equal(found, image)


def test_cells_keep_their_colours_where_these_change_within_a_video() -> None:
    first, second = _random_squares(5, 2, 8)
    second = second._replace(colors=Colors.named("yuv420p", 1, 1))
    rows = sort_rows(_random_rows(6, 2, 4, 32), "raster")
    mosaics = np.stack(_pack(rows, [first, second], 2, 8)).reshape(2, 4, 8, 4, 8, 3)
    for square, cells in zip((first, second), mosaics, strict=True):
        np.testing.assert_array_equal(cells.reshape(32, 32, 3), np.asarray(to_image(square)))


def test_raster_is_lexicographic() -> None:
    rows = sort_rows(_random_rows(2, 5, 4, 60), "raster")
    assert rows.tolist() == sorted(rows.tolist())


def test_zigzag_turns_odd_rows_around() -> None:
    rows = np.array([(0, 1, 0), (0, 0, 1), (0, 1, 1), (0, 0, 0), (1, 1, 0), (1, 1, 1)], np.int32)
    assert sort_rows(rows, "zigzag").tolist() == [
        [0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0], [1, 1, 1], [1, 1, 0],
    ]  # fmt: skip


def test_a_whole_frame_packs_into_itself() -> None:
    (square,) = _random_squares(3, 1, 8)
    (mosaic,) = _pack(sort_rows(_random_rows(4, 1, 4, 16), "raster"), [square], 1, 8)
    np.testing.assert_array_equal(mosaic, np.asarray(to_image(square)))


@pytest.mark.parametrize("size", [(20, 40), (19, 40), (21, 40), (40, 17), (1, 40)])
def test_a_frame_is_centred_on_black(size: tuple[int, int]) -> None:
    box = letterbox(*size, square_px=40, patch_px=4)
    frame = VideoFrame.from_ndarray(np.full((*size, 3), 200, np.uint8))
    square = np.asarray(to_image(square_frame(AvPicture(frame), box)).convert("RGB"))
    content = np.zeros((40, 40), bool)
    content[box.content] = True
    assert np.abs(square[content].astype(int) - 200).max() <= 1
    assert not square[~content].any()


@pytest.mark.parametrize("size", [(36, 64), (35, 63), (90, 47)])
@pytest.mark.parametrize("patch", [8, 7])
def test_a_frame_keeps_its_colours(size: tuple[int, int], patch: int) -> None:
    smooth = Image.fromarray(texture(6, 8)).resize(size[::-1], Image.Resampling.BICUBIC)
    # As JPEG files mean it: BT.601, all of 0..255.
    planes = np.moveaxis(np.asarray(smooth.convert("YCbCr")), 2, 0)
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(planes), "yuv444p")
    frame.color_range = 2
    box = letterbox(*size, square_px=56, patch_px=patch)
    found = np.asarray(to_image(square_frame(AvPicture(frame), box)))[box.content]
    for number, plane in enumerate(planes):
        whole = Image.fromarray(np.ascontiguousarray(plane))
        whole = whole.resize((box.width_px, box.height_px), Image.Resampling.BICUBIC)
        error = found[..., number].astype(int) - np.asarray(whole)
        assert np.abs(error).mean() < (2 if number else 0.5)
        assert abs(error.mean()) < (0.8 if number else 0.25)


def test_mosaics_are_written_as_420_jpegs(tmp_path: Path) -> None:
    mosaics = [Image.new("YCbCr", (32, 32), (90, 128, 128))] * 2
    paths = write_mosaics(mosaics, tmp_path, stem="clip", quality=95)
    assert [path.name for path in paths] == ["clip_000.jpg", "clip_001.jpg"]
    with Image.open(paths[1]) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (32, 32), "RGB")
        assert image.layer[0][1:3] == (2, 2)  # luma sampled twice as densely as chroma
        assert abs(int(np.asarray(image).mean()) - 90) <= 1
