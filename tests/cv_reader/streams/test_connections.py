"""URLs: a play list on this machine, servers that stall or vanish, slow callers."""

import functools
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest

import cv_reader
from cv_reader.errors import StreamLostError
from cv_reader.streams.feed import _Queue

from .conftest import packets_of, recorded, small


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Serve a folder on this machine; returns the address of its root."""
    servers = []

    def start(
        folder: Path,
        handler: type[http.server.BaseHTTPRequestHandler] = http.server.SimpleHTTPRequestHandler,
    ) -> str:
        class Quiet(handler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = _Server(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _play_list(clip: Path, folder: Path) -> Path:
    """Segments of a group of pictures each, as FFmpeg's own muxer writes them."""
    with (
        av.open(str(clip)) as source,
        av.open(
            str(folder / "live.m3u8"),
            "w",
            format="hls",
            options={"hls_time": "0.4", "hls_list_size": "0", "hls_playlist_type": "vod"},
        ) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return folder / "live.m3u8"


def test_a_play_list_gives_what_its_file_gives(
    clip: Path, tmp_path: Path, serve: Callable[..., str]
) -> None:
    path = _play_list(clip, tmp_path)
    assert len(list(tmp_path.glob("*.ts"))) >= 4
    with cv_reader.stream(f"{serve(tmp_path)}/{path.name}", small()) as live:
        found = list(live)
    with cv_reader.stream(clip, small()) as live:
        expected = list(live)
    assert [w.rows.tobytes() for w in found] == [w.rows.tobytes() for w in expected]
    assert [w.patches.tobytes() for w in found] == [w.patches.tobytes() for w in expected]
    assert found[-1].counters.pictures == 50


def test_a_play_list_from_the_web_reads_no_file(
    clip: Path, tmp_path: Path, serve: Callable[..., str]
) -> None:
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{clip}\n#EXT-X-ENDLIST\n"
    (tmp_path / "live.m3u8").write_text(text)
    settings = small(max_reconnects=0, open_seconds=2, read_seconds=2)
    with (
        pytest.raises(StreamLostError),
        cv_reader.stream(f"{serve(tmp_path)}/live.m3u8", settings) as live,
    ):
        list(live)


def test_a_server_that_stalls_is_connected_again(
    clip: Path, tmp_path: Path, serve: Callable[..., str]
) -> None:
    """The first answer stops in its middle; the second one is whole."""
    content = clip.read_bytes()
    answers = []
    released = threading.Event()

    class Stalling(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            first = len(answers) == 1
            self.wfile.write(content[: len(content) * 3 // 4] if first else content)
            if first:
                self.wfile.flush()
                released.wait(20)

    waits = []
    url = f"{serve(tmp_path, Stalling)}/live.ts"
    settings = small(read_seconds=1.0, backoff_seconds=0.25)
    with cv_reader.stream(url, settings, sleep=waits.append) as live:
        found = list(live)
    released.set()
    counters = live.counters
    assert counters.stalls == 1 and counters.reconnects == 1 and waits == [0.25]
    assert [w.break_before for w in found if w.break_before].count("reconnect") == 1
    assert counters.pictures > 50
    assert found[-1].times_seconds[-1] == pytest.approx(2.0, abs=0.1)


def test_a_server_that_does_not_come_back_is_given_up_with_backoff(
    clip: Path, tmp_path: Path, serve: Callable[..., str]
) -> None:
    content = clip.read_bytes()
    answers, waits = [], []

    class Vanishing(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.append(self.path)
            if len(answers) > 1:
                self.send_error(503)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(2 * len(content)))
            self.end_headers()
            self.wfile.write(content)

    url = f"{serve(tmp_path, Vanishing)}/live.ts"
    settings = small(max_reconnects=3, backoff_seconds=1.0, read_seconds=2.0)
    live, found = cv_reader.stream(url, settings, sleep=waits.append), []
    with pytest.raises(StreamLostError, match="is lost .* after 3 attempts"):
        found.extend(live)
    assert waits == [1.0, 2.0, 4.0] and live.counters.reconnects == 3
    assert live.counters.pictures == 50


def test_what_does_not_answer_is_refused_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/live.m3u8"
        begin = time.monotonic()
        with pytest.raises(StreamLostError, match="cannot be opened"):
            list(cv_reader.stream(url, small(open_seconds=0.5)))
        assert time.monotonic() - begin < 5


def test_a_slow_caller_loses_whole_groups_of_pictures(clip: Path) -> None:
    """Packets that wait are limited; after a loss the next one is a key frame, and it is known."""
    queue, packets = _Queue(12), packets_of(clip)
    for packet in packets:
        queue.put(packet)
    queue.end()
    taken = []
    while (found := queue.take())[0] is not None:
        taken.append(found)
    assert taken[0][0].is_keyframe
    dropped = [number for _, number in taken]
    assert dropped[0] == len(packets) - len(taken) and not any(dropped[1:])
    assert len(taken) <= 12


def test_a_slow_caller_of_a_url_sees_what_was_dropped(
    tmp_path: Path, serve: Callable[..., str]
) -> None:
    """The rest comes at once, while the caller is busy with the first window."""
    content = recorded(tmp_path / "long.ts", 400).read_bytes()
    is_busy, is_sent = threading.Event(), threading.Event()

    class Hurrying(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) * 3 // 8])
            self.wfile.flush()
            is_busy.wait(20)
            self.wfile.write(content[len(content) * 3 // 8 :])
            self.wfile.flush()
            is_sent.set()

    settings = small(queue_packets=200, slots_per_second=0, window_seconds=0.2)
    with cv_reader.stream(f"{serve(tmp_path, Hurrying)}/long.ts", settings) as live:
        windows = iter(live)
        first = next(windows)
        (reader,) = [one for one in threading.enumerate() if one.name == "cv_reader stream"]
        is_busy.set()
        assert is_sent.wait(20)
        # The thread that reads ends when all has come; nothing is taken from it until then.
        reader.join(20)
        assert not reader.is_alive()
        rest = list(windows)
    counters = live.counters
    assert first.number == 0
    assert counters.dropped_packets > 200
    assert counters.pictures + counters.dropped_packets == 400
    assert [window.break_before for window in rest if window.break_before != "full"].count("loss")
