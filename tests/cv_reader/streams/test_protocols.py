"""RTSP, SRT, UDP and play lists that grow, sent by the ffmpeg program on this machine."""

import functools
import http.server
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

import cv_reader
from cv_reader.errors import StreamLostError
from cv_reader.streams.live import Stream
from cv_reader.streams.windows import StreamWindow
from support.senders import FFMPEG, RtspServer, free_port, sending, wait_for_udp

from .conftest import packets_of, recorded, small

pytestmark = pytest.mark.skipif(FFMPEG is None, reason="needs the ffmpeg program to send streams")


@pytest.fixture(scope="module")
def expected(clip: Path) -> list[StreamWindow]:
    """Return the windows of the file, chosen by the same step."""
    with cv_reader.stream(clip, small()) as live:
        return list(live)


def _followed(url: str, **settings: Any) -> tuple[list[StreamWindow], Stream, str]:
    """Return the windows up to where the stream is lost, the stream, and why."""
    live = cv_reader.stream(url, small(**{"max_reconnects": 0, **settings}))
    windows: list[StreamWindow] = []
    with pytest.raises(StreamLostError) as caught:
        windows.extend(live)
    return windows, live, str(caught.value)


def _assert_same(found: list[StreamWindow], expected: list[StreamWindow]) -> None:
    assert [w.rows.tobytes() for w in found] == [w.rows.tobytes() for w in expected]
    assert [w.patches.tobytes() for w in found] == [w.patches.tobytes() for w in expected]
    assert [w.break_before for w in found] == [w.break_before for w in expected]


def test_rtsp_gives_what_the_file_gives(
    clip: Path, tmp_path: Path, expected: list[StreamWindow]
) -> None:
    with RtspServer(clip, tmp_path) as server:
        found, live, reason = _followed(server.url, read_seconds=10)
    _assert_same(found, expected)
    counters = live.counters
    assert (counters.pictures, counters.losses, counters.late_pictures) == (50, 0, 0)
    assert "is lost (ended)" in reason


def test_rtsp_that_breaks_is_connected_again(
    clip: Path, tmp_path: Path, expected: list[StreamWindow]
) -> None:
    """The first connection ends half-way, the second one is whole, and there is no third."""
    count, waits = len(packets_of(clip)) // 2, []

    def keep(turn: int, number: int) -> bool | None:
        return None if turn > 1 or (turn == 0 and number > count) else True

    with RtspServer(clip, tmp_path, keep) as server:
        settings = small(max_reconnects=1, read_seconds=10, backoff_seconds=0.25)
        live, found = cv_reader.stream(server.url, settings, sleep=waits.append), []
        with pytest.raises(StreamLostError, match="after 1 attempts"):
            found.extend(live)
    assert waits == [0.25, 0.25] and live.counters.reconnects == 2
    again = [number for number, w in enumerate(found) if w.break_before == "reconnect"]
    assert len(again) == 1
    _assert_same(found[again[0] + 1 :], expected[1:])
    assert 70 < live.counters.pictures < 80


def test_rtsp_that_loses_a_packet_goes_on_at_the_next_key_frame(clip: Path, tmp_path: Path) -> None:
    with RtspServer(clip, tmp_path, lambda turn, n: n != 24) as server:
        found, live, _ = _followed(server.url, read_seconds=10)
    counters = live.counters
    assert counters.losses == 1
    assert [w.break_before for w in found if w.break_before] == ["start", "loss"]
    assert 40 <= counters.pictures < 50
    assert counters.pictures + counters.skipped_packets <= 49
    (again,) = [w for w in found if w.break_before == "loss"]
    assert again.rows[:, 0].min() == 0 and len(again.rows) >= 48  # a whole picture of 6 x 8 cells


@pytest.mark.slow
def test_srt_gives_what_the_file_gives(clip: Path, expected: list[StreamWindow]) -> None:
    port = free_port(socket.SOCK_DGRAM)
    # SRT's live mode drops what waits when the sender ends; its file mode drops nothing.
    options = "transtype=file&messageapi=1"
    target = f"srt://127.0.0.1:{port}?mode=listener&linger=5&{options}"
    with sending(clip, "-f", "mpegts", target, before=("-readrate", "4")):
        wait_for_udp(port)
        found, live, _ = _followed(f"srt://127.0.0.1:{port}?{options}", read_seconds=10)
    _assert_same(found, expected)
    assert live.counters.pictures == 50


@pytest.mark.slow
def test_a_transport_stream_by_udp_gives_what_the_file_gives(
    clip: Path, expected: list[StreamWindow]
) -> None:
    port = free_port(socket.SOCK_DGRAM)

    def send() -> None:
        wait_for_udp(port)
        target = f"udp://127.0.0.1:{port}?pkt_size=1316"
        with sending(clip, "-f", "mpegts", target, before=("-readrate", "4")) as process:
            process.wait(20)

    sender = threading.Thread(target=send)
    sender.start()
    found, live, _ = _followed(f"udp://127.0.0.1:{port}", read_seconds=1.5, open_seconds=20)
    sender.join()
    _assert_same(found, expected)
    assert live.counters.pictures == 50 and live.counters.stalls == 1


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_play_list_that_grows_gives_what_the_file_gives(
    clip: Path, tmp_path: Path, expected: list[StreamWindow]
) -> None:
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    flags = ("-f", "hls", "-hls_time", "0.4", "-hls_list_size", "0", "-hls_flags", "temp_file")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        with sending(clip, *flags, str(tmp_path / "live.m3u8"), before=("-re",)):
            path, waited = tmp_path / "live.m3u8", threading.Event()
            while not path.exists():
                waited.wait(0.02)
            assert "ENDLIST" not in path.read_text()
            url = f"http://127.0.0.1:{server.server_address[1]}/live.m3u8"
            with cv_reader.stream(url, small(read_seconds=20)) as live:
                found = list(live)
        server.shutdown()
    _assert_same(found, expected)
    assert live.counters.pictures == 50


@pytest.mark.slow
def test_memory_stays_the_same_over_a_long_time_of_rtsp(tmp_path: Path) -> None:
    """13 minutes of small pictures in 20 s: a caller that is too slow for it loses some."""
    clip = recorded(tmp_path / "long.ts", 250)
    sizes: list[int] = []
    with RtspServer(clip, tmp_path, before=("-stream_loop", "79", "-readrate", "40")) as server:
        live = cv_reader.stream(server.url, small(max_reconnects=0, read_seconds=20))
        with pytest.raises(StreamLostError):
            for window in live:
                if window.number % 40 == 39:
                    sizes.append(_resident_bytes())
    assert live.counters.pictures + live.counters.dropped_packets > 15_000
    assert len(sizes) >= 5 and sizes[-1] < sizes[0] + (8 << 20)


def _resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
