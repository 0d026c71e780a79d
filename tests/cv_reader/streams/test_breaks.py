"""Streams that stall, jump, change size, lose packets or never show a key frame."""

import io
import itertools
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cv_reader
from cv_reader import StreamWindow
from cv_reader.errors import (
    CvReaderError,
    SettingsError,
    StreamLostError,
    UnsupportedVideoError,
    VideoNotFoundError,
)
from cv_reader.streams.settings import StreamCounters, StreamSettings, live_config
from cv_reader.streams.source import source_name

from .conftest import packets_of, recorded, remuxed, small


def _read(
    source: str | Path, settings: StreamSettings | None = None
) -> tuple[list[StreamWindow], StreamCounters]:
    live = cv_reader.stream(source, settings or small())
    with live:
        return list(live), live.counters


def _breaks(windows: list[StreamWindow]) -> list[str]:
    return [window.break_before for window in windows if window.break_before]


def test_a_pipe_gives_what_its_file_gives(clip: Path) -> None:
    expected, _ = _read(clip)
    reading, writing = os.pipe()
    feeder = threading.Thread(target=_feed, args=(writing, clip.read_bytes()))
    feeder.start()
    with open(reading, "rb") as pipe:
        found, counters = _read(pipe)
    feeder.join()
    assert [w.rows.tobytes() for w in found] == [w.rows.tobytes() for w in expected]
    assert counters.pictures == 50 and counters.packets == 50


def _feed(number: int, content: bytes) -> None:
    with open(number, "wb") as pipe:
        for start in range(0, len(content), 4000):
            pipe.write(content[start : start + 4000])


def test_a_named_pipe_is_read_as_it_fills(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    feeder = threading.Thread(target=lambda: path.write_bytes(clip.read_bytes()))
    feeder.start()
    found, _ = _read(path)
    feeder.join()
    assert len(found) == len(_read(clip)[0])


def test_windows_come_before_the_stream_goes_on(clip: Path) -> None:
    """Lock-step: the first window comes while the writer waits with the second half."""
    content = clip.read_bytes()
    reading, writing = os.pipe()
    with open(writing, "wb", buffering=0) as writer, open(reading, "rb") as reader:
        os.set_blocking(writing, True)
        writer.write(content[: len(content) * 3 // 4])
        with cv_reader.stream(reader, small(container_format="mpegts", read_seconds=5)) as live:
            window = next(iter(live))
            assert window.number == 0 and len(window.rows) >= 48


def test_a_pipe_that_stalls_is_refused_by_name(clip: Path) -> None:
    reading, writing = os.pipe()
    with open(writing, "wb", buffering=0) as writer, open(reading, "rb") as reader:
        writer.write(clip.read_bytes())
        with pytest.raises(StreamLostError, match=r"stalls: no byte came for 0\.2 s"):
            _read(reader, small(read_seconds=0.2))


def test_a_change_of_size_begins_anew(tmp_path: Path, clip: Path) -> None:
    other = recorded(tmp_path / "b.ts", 30, height_px=64, width_px=48)
    found, counters = _read(io.BytesIO(clip.read_bytes() + other.read_bytes()))
    assert counters.size_changes == 1 and len(_breaks(found)) >= 2
    cells = [(w.box.source_width_px, w.box.valid_cells().sum(), w.rows[:, 1:].max()) for w in found]
    assert cells[0] == (64, 48, 7) and cells[-1][:2] == (48, 48)
    slots = [window.rows[:, 2].max(initial=0) for window in found if window.box == found[-1].box]
    assert max(slots) == 6, "columns 1 to 6 of the upright picture"


def test_a_lost_key_frame_hides_nothing(clip: Path) -> None:
    """H.264: decoders conceal it without a word. Its group is left out, and counted."""
    whole, _ = _read(clip, small(slots_per_second=0))
    damaged = remuxed(clip, lambda packets: packets[:20] + packets[21:])
    found, counters = _read(io.BytesIO(damaged), small(slots_per_second=0))
    assert counters.losses == 1 and counters.skipped_packets == 9
    assert _breaks(found) == ["start", "loss"]
    kept = np.concatenate([window.times_seconds for window in found])
    times = np.concatenate([window.times_seconds for window in whole])
    assert set(kept.round(3)) == set(times.round(3)) - set(times[20:30].round(3))


def test_a_stream_joined_in_the_middle_waits_for_a_key_frame(clip: Path) -> None:
    found, counters = _read(io.BytesIO(remuxed(clip, lambda packets: packets[5:])))
    assert counters.skipped_packets == 5 and counters.pictures == 40
    assert _breaks(found)[0] == "start"


def test_a_stream_without_key_frames_is_refused(clip: Path) -> None:
    def keyless(packets: list[Any]) -> Any:
        return itertools.chain.from_iterable([packets[1:10]] * 1 + [packets[11:20]])

    content = remuxed(clip, keyless)
    with pytest.raises(UnsupportedVideoError, match="no key frame in 11 packets"):
        _read(io.BytesIO(content), small(max_keyless_packets=10))


@pytest.mark.parametrize("shift_seconds", [6, 3600])
def test_time_stamps_that_jump_begin_a_new_segment(clip: Path, shift_seconds: int) -> None:
    def moved(packets: list[Any]) -> Any:
        for packet in packets[20:]:
            packet.pts += shift_seconds * 90000
            packet.dts += shift_seconds * 90000
        return packets

    found, counters = _read(io.BytesIO(remuxed(clip, moved)))
    assert counters.jumps == 1 and _breaks(found) == ["start", "jump"]
    assert found[-1].times_seconds[0] > shift_seconds
    assert counters.pictures == 50
    for window in found:
        assert (np.diff(window.times_seconds) > 0).all()


def test_time_stamps_that_begin_again_are_a_jump(clip: Path) -> None:
    """An encoder that restarts; what is shown does not stop."""
    found, counters = _read(io.BytesIO(clip.read_bytes() * 2))
    assert counters.jumps == 1 and _breaks(found)[0] == "start" and len(_breaks(found)) >= 2
    assert counters.pictures >= 80


def test_damage_inside_packets_is_survived(clip: Path) -> None:
    content = bytearray(clip.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 2000, 7):
        content[place] ^= 0x55
    found, counters = _read(io.BytesIO(bytes(content)))
    assert 20 <= counters.pictures < 50
    assert counters.losses + counters.damaged_pictures + counters.skipped_packets > 0
    assert found[0].rows.tobytes() == _read(clip)[0][0].rows.tobytes()


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"nothing here " * 500)
    for source in (tmp_path / "text", io.BytesIO(b"nothing here " * 500)):
        with pytest.raises(CvReaderError):
            _read(source)
    with pytest.raises(VideoNotFoundError, match="no such file"):
        _read(tmp_path / "missing.mp4")
    with pytest.raises(UnsupportedVideoError, match="scheme 'concat' is none of"):
        cv_reader.stream("concat://a|b")


def test_a_play_list_in_a_pipe_opens_nothing(clip: Path) -> None:
    play_list = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{clip}\n#EXT-X-ENDLIST\n"
    with pytest.raises(CvReaderError):
        _read(io.BytesIO(play_list.encode()))


def test_a_stream_is_opened_when_it_is_asked_and_read_once(clip: Path, tmp_path: Path) -> None:
    live = cv_reader.stream(tmp_path / "later.ts", small())
    (tmp_path / "later.ts").write_bytes(clip.read_bytes())
    assert len(list(live)) > 2
    with pytest.raises(ValueError, match="followed once"):
        iter(live)


@pytest.mark.parametrize(
    "settings",
    [
        {"read_seconds": 0},
        {"window_seconds": -1},
        {"window_slots": 65},
        {"config": live_config(direction="nearest")},
        {"config": live_config(token_price=0)},
        {"config": live_config(select="topk", token_price=0)},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="must be"):
        StreamSettings(**settings)


def test_names_hide_passwords() -> None:
    assert source_name("rtsp://me:secret@camera:554/a@b") == "rtsp://camera:554/a@b"
    assert source_name("-") == "the standard input"


def test_packets_are_as_expected(clip: Path) -> None:
    """What the tests above count on."""
    keys = [number for number, packet in enumerate(packets_of(clip)) if packet.is_keyframe]
    assert keys == [0, 10, 20, 30, 40]
