"""What windows hold: the offline choice, no later than promised, within the budget."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cv_reader
from cv_reader import StreamSettings, StreamWindow
from cv_reader.errors import SettingsError
from cv_reader.select.chooser import video_box
from cv_reader.select.config import AssetConfig
from cv_reader.select.geometry import Letterbox
from cv_reader.select.mosaics import square_frame, to_image
from cv_reader.select.rate_distortion.choice import choose_units
from cv_reader.select.rate_distortion.clip import empty_clip, put_square
from support.media import moving_square, write_video

from .conftest import RATE, recorded, small


def _windows(source: str | Path, settings: StreamSettings) -> list[StreamWindow]:
    with cv_reader.stream(source, settings) as live:
        return list(live)


def _offline(path: Path, config: AssetConfig, ids: Any) -> tuple[Any, ...]:
    """Squares and the choice of the offline selection."""
    with cv_reader.open_video(path) as video:
        box: Letterbox = video_box(video.index, config)
        squares = [square_frame(frame, box) for frame in video.frames(ids, signals=False)]
    clip = empty_clip(box, len(squares))
    for slot, square in enumerate(squares):
        put_square(clip, slot, square)
    return squares, choose_units(clip, np.ones(len(squares), np.intp), config)


@pytest.mark.parametrize("settings", [{}, {"predict": "search"}, {"block_cells": 2}], ids=str)
def test_windows_are_the_offline_hold_selection_byte_for_byte(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """128 slots in windows of 64, which is how the offline selection solves long clips."""
    path = recorded(tmp_path / "a.mp4", 128, key_every=40)
    wanted = {"sequence_length": 128, "num_images": 128, "token_price": 50.0, "square_size": 32}
    wanted |= settings
    live = small(config=wanted, slots_per_second=0, window_seconds=60, window_slots=64)
    found = _windows(path, live)
    squares, choice = _offline(path, live.config, range(128))
    block = live.config.block_cells
    rows = np.argwhere(choice.kept.repeat(block, 1).repeat(block, 2)).astype(np.int32)
    streamed = np.concatenate([window.rows for window in found])
    assert [len(window.slots) for window in found] == [64, 64]
    assert len(rows) > 100
    assert streamed.dtype == np.int32 and streamed.tobytes() == rows.tobytes()
    side = live.config.patch_size
    pixels = [np.asarray(to_image(square)) for square in squares]
    cut = [pixels[t][h * side :, w * side :][:side, :side] for t, h, w in rows.tolist()]
    assert np.concatenate([w.patches for w in found]).tobytes() == np.stack(cut).tobytes()
    assert {window.price for window in found} == {50.0}


def test_what_comes_later_changes_nothing(clip: Path) -> None:
    """Causal: a stream that is cut short gives the same complete windows."""
    whole = clip.read_bytes()
    packet_bytes = 188
    short = whole[: len(whole) // packet_bytes // 2 * packet_bytes]
    full, part = _windows(io.BytesIO(whole), small()), _windows(io.BytesIO(short), small())
    assert 1 < len(part) < len(full)
    for one, other in zip(part[:-1], full, strict=False):
        assert one.rows.tobytes() == other.rows.tobytes()
        assert one.patches.tobytes() == other.patches.tobytes()


def test_windows_are_at_most_half_a_second_late(clip: Path) -> None:
    for window in _windows(clip, small()):
        assert window.end_seconds - window.times_seconds[0] <= 0.5
        assert len(window.slots) <= 7


def test_a_window_may_be_a_group_of_pictures(clip: Path) -> None:
    found = _windows(clip, small(slots_per_second=0, window_seconds=0))
    assert [len(window.slots) for window in found] == [10, 10, 10, 2, 8, 10]
    assert [window.break_before for window in found] == ["start", "", "", "", "full", ""]


def test_slots_are_spread_evenly_and_segments_begin_whole(clip: Path) -> None:
    found = _windows(clip, small(config={"sequence_length": 16}))
    ids = np.concatenate([window.frame_ids for window in found])
    assert ids.tolist() == list(range(0, 50, 2))
    firsts = [window for window in found if window.break_before]
    assert [window.break_before for window in firsts] == ["start", "full"]
    for window in firsts:
        assert window.slots[0] == 0 and (window.rows[:, 0] == 0).sum() == 6 * 8
    times = np.concatenate([window.times_seconds for window in found])
    assert np.allclose(np.diff(times), 2 / RATE)


def test_a_segment_keeps_to_its_budget_and_spreads_it(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    frames = (noise.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(32))
    path = write_video(tmp_path / "noise.mp4", frames, options={"crf": "10"})
    settings = small(config={"num_images": 4}, slots_per_second=0, window_slots=4)
    found = _windows(path, settings)
    counts = [len(window.rows) for window in found]
    assert sum(counts) <= 4 * 64 and counts[0] >= 64
    assert min(counts) >= 20
    assert found[-1].price > settings.config.token_price
    assert found[-1].patches_per_second > 4 * 20 / 0.2


def test_a_still_scene_is_kept_once(tmp_path: Path) -> None:
    frames = moving_square(40, 48, 64, (0, 0))
    found = _windows(write_video(tmp_path / "still.mp4", frames), small())
    assert [len(window.rows) for window in found] == [48] + [0] * (len(found) - 1)
    assert len(found) > 2
    assert found[1].patches.shape == (0, 8, 8, 3)


def test_pictures_without_a_whole_cell_are_refused(tmp_path: Path) -> None:
    """In a square of two cells a side a picture of 16:9 covers only parts of cells."""
    path = write_video(tmp_path / "a.mp4", moving_square(6, 36, 64))
    settings = small(config={"square_size": 16, "patch_size": 8, "num_images": 1})
    with pytest.raises(
        SettingsError, match=r"whole cell of 8 pixels of pictures of 64 x 36, got 16"
    ):
        _windows(path, settings)
