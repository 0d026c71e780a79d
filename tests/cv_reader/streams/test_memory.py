"""Memory stays the same however long a stream is."""

import os
import threading
from pathlib import Path

import av
import pytest

import cv_reader

from .conftest import packets_of, small


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _feed_loops(number: int, clip: Path, loops: int) -> None:
    """Write the clip many times over, its time stamps going on, as a camera would."""
    with (
        open(number, "wb") as pipe,
        av.open(str(clip)) as source,
        av.open(pipe, "w", format="mpegts") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for loop in range(loops):
            for packet in packets_of(clip):
                packet.pts = (packet.pts or 0) + loop * 180_000
                packet.dts = (packet.dts or 0) + loop * 180_000
                packet.stream = stream
                target.mux(packet)


@pytest.mark.slow
def test_an_hour_needs_the_memory_of_a_minute(clip: Path) -> None:
    reading, writing = os.pipe()
    feeder = threading.Thread(target=_feed_loops, args=(writing, clip, 1800))
    feeder.start()
    used, last_seconds = [], 0.0
    with open(reading, "rb") as pipe, cv_reader.stream(pipe, small(slots_per_second=4)) as live:
        for window in live:
            last_seconds = window.times_seconds[-1]
            if window.number % 100 == 99:
                used.append(_resident_bytes())
    feeder.join()
    assert live.counters.pictures >= 89_900 and live.counters.jumps == 0
    assert last_seconds == pytest.approx(3600, abs=1)
    assert max(used) - used[0] < 8 << 20
