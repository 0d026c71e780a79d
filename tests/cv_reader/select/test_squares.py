"""Squares of many slots: the file holds what memory would."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av import VideoFrame

from cv_reader.backends.pixels import AvPicture
from cv_reader.errors import OutputError
from cv_reader.select import squares
from cv_reader.select.geometry import Letterbox, letterbox
from cv_reader.select.mosaics import square_frame
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
