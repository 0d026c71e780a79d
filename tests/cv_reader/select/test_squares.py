"""Squares of many slots: the file holds what memory would."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av import VideoFrame
from PIL import Image

from cv_reader.backends.pixels import AvPicture
from cv_reader.errors import AssetError, OutputError
from cv_reader.select import squares
from cv_reader.select.geometry import Letterbox, letterbox
from cv_reader.select.mosaics import square_frame
from cv_reader.select.rate_distortion.clip import empty_clip, put_square
from cv_reader.select.squares import SquareStore
from support.media import texture

SIZES = [(36, 64, 8), (64, 36, 8), (35, 63, 7), (56, 56, 8)]


def _filled(box: Letterbox, folder: Path | None = None, count: int = 5) -> SquareStore:
    store = SquareStore(box, count, folder)
    for slot in range(count):
        pixels = texture(box.source_height_px, box.source_width_px, seed=slot)
        picture = AvPicture(VideoFrame.from_ndarray(pixels))
        store.put(3 * slot, square_frame(picture, box, store.planes()))
    return store


@pytest.mark.parametrize(("height", "width", "patch"), SIZES)
def test_a_file_holds_what_memory_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int, width: int, patch: int
) -> None:
    box = letterbox(height, width, square_px=8 * patch, patch_px=patch)
    expected = _filled(box)
    monkeypatch.setattr(squares, "MAX_MEMORY_BYTES", 0)
    found = _filled(box, tmp_path)
    assert list(found) == list(expected) == [0, 3, 6, 9, 12] and 1 not in found
    for slot in (12, 0, 6):
        for mine, other in zip(found[slot][:2], expected[slot][:2], strict=True):
            np.testing.assert_array_equal(mine, other)
        assert found[slot].colors == expected[slot].colors
    assert list(tmp_path.iterdir()) == []


def test_the_file_goes_with_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squares, "MAX_MEMORY_BYTES", 0)
    store = _filled(letterbox(36, 64, square_px=64, patch_px=8), tmp_path)
    number = store._file.fileno()
    os.fstat(number)
    del store
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squares, "MAX_MEMORY_BYTES", 0)
    store = SquareStore(letterbox(36, 64, square_px=64, patch_px=8), 1, tmp_path)

    class Full:
        def seek(self, place: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    store._file = Full()
    picture = AvPicture(VideoFrame.from_ndarray(texture(36, 64)))
    with pytest.raises(OutputError, match=rf"temporary file in {tmp_path}: .*make room"):
        store.put(0, square_frame(picture, store._box, store.planes()))


def test_a_clip_that_needs_too_much_memory_is_refused() -> None:
    with pytest.raises(AssetError, match=r"9000 slots of 36 x 36 cells need .* use fewer slots"):
        empty_clip(letterbox(576, 576, square_px=576, patch_px=16), 9000)


@pytest.mark.parametrize("patch", [14, 16])
def test_content_is_reduced_as_pillow_reduces_by_area(patch: int) -> None:
    """Cells of 16 pixels are halved by a short cut; those of 14 are not."""
    box = letterbox(96, 160, square_px=12 * patch, patch_px=patch)
    clip, square = empty_clip(box, 1), _filled(box, count=1)[0]
    # Colours as JPEG files have them, so that nothing else is converted; black is 0 there.
    full = square._replace(colors=square.colors._replace(matrix=5, is_full=True))
    put_square(clip, 0, full)
    for plane, found, offset in (
        (square.luma[0], clip.luma[0], 0),
        (square.chroma[0], clip.chroma[0, 0], 128),
        (square.chroma[1], clip.chroma[0, 1], 128),
    ):
        side = len(plane) // 12
        inside = plane[clip.rows.start * side : clip.rows.stop * side] + np.uint8(offset)
        image = Image.fromarray(inside[:, clip.columns.start * side : clip.columns.stop * side])
        expected = image.resize(found.shape[::-1], Image.Resampling.BOX)
        assert np.ptp(found) > 20
        assert np.array_equal(found, np.asarray(expected))
