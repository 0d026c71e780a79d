"""Videos read by a process of its own: the same frames, errors by name, hangs ended in time."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from cv_reader.assets import AssetConfig, read_asset
from cv_reader.assets.make import write_evaluation_asset
from llava.visual import video_process
from llava.visual.video_process import (
    make_asset_within,
    progress_told,
    read_uniform_frames,
    read_within,
    shown_seconds_within,
)
from support.media import write_video


@pytest.fixture
def video(tmp_path: Path) -> Path:
    greys = (np.full((32, 48, 3), 20 + 10 * index, np.uint8) for index in range(9))
    return write_video(tmp_path / "a.mp4", greys)


def test_the_process_gives_the_frames_of_a_direct_reading_and_names_bad_files(
    video: Path, tmp_path: Path
) -> None:
    expected = read_uniform_frames(video, 4).pixels
    assert expected.shape == (4, 32, 48, 3)
    assert [round((float(frame.mean()) - 20) / 10) for frame in expected] == [0, 2, 5, 8]
    assert np.array_equal(read_within(video, 4, 60).pixels, expected)
    times = [frame / 25 for frame in (0, 2, 5, 8)]
    assert read_within(video, 4, 60, with_pixels=False) == (None, pytest.approx(times))
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    for name in ("bad.mp4", "lost.mp4"):
        with pytest.raises(ValueError, match=name):
            read_within(tmp_path / name, 4, 60)
    assert np.array_equal(read_within(video, 4, 60).pixels, expected)  # in the same process


def test_the_process_makes_the_asset_that_a_call_makes(video: Path, tmp_path: Path) -> None:
    config = AssetConfig(square_size=64, num_images=2, sequence_length=8)
    made = {"key": "k", "config": config, "num_threads": 1}
    make_asset_within(video, 60, out_root=tmp_path / "process", **made)
    expected = write_evaluation_asset(video, out_root=tmp_path / "call", **made)
    found = read_asset(tmp_path / "process" / "assets" / "k", expected=config)
    assert np.array_equal(found.positions, expected.positions)
    assert [path.read_bytes() for path in found.images] == [
        path.read_bytes() for path in expected.images
    ]
    with pytest.raises(ValueError, match="lost.mp4"):
        make_asset_within(tmp_path / "lost.mp4", 60, out_root=tmp_path / "process", **made)


def test_the_process_tells_how_far_it_is_and_when_slots_are_shown(
    video: Path, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    config = AssetConfig(square_size=64, num_images=2, sequence_length=5)
    with progress_told(lambda done, wanted: told.append((done, wanted))):
        read_within(video, 4, 60)
        assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
        make_asset_within(
            video, 60, key="k", out_root=tmp_path / "out", config=config, num_threads=1
        )
        assert told[4:] == [(done, 5) for done in range(1, 6)]
    read_within(video, 4, 60)
    assert len(told) == 9
    seconds = shown_seconds_within(video, config, 60)
    assert np.allclose(seconds, np.array([0, 2, 4, 6, 8]) / 25)


def test_a_video_that_hangs_costs_one_sample(video: Path, tmp_path: Path) -> None:
    hanging = tmp_path / "pipe.mp4"
    os.mkfifo(hanging)  # a reader of it waits for ever
    read_within(video, 1, 60)
    process = video_process._readers[0]._process
    process.send_signal(19)  # SIGSTOP: as silent as a decoder that hangs
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"pipe.mp4 was not read within 0.2 s"):
        read_within(hanging, 1, 0.2)
    assert time.monotonic() - started < 10
    assert process.poll() is not None
    assert read_within(video, 1, 60).pixels.shape == (1, 32, 48, 3)


def test_a_reader_that_dies_is_replaced(video: Path) -> None:
    read_within(video, 1, 60)
    video_process._readers[0]._process.kill()
    with pytest.raises(ValueError, match=r"a.mp4 ended the process that read it"):
        read_within(video, 1, 60)
    assert read_within(video, 1, 60).pixels.shape == (1, 32, 48, 3)
