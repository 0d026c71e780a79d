"""Videos of a real web server: by ranges where it serves them, else whole and once."""

import re
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cv_reader.errors import VideoError
from cv_reader.remote import transfer
from cv_reader.remote.cache import LocalCache
from cv_reader.remote.transfer import TransferError, fetch_span, look_up
from cv_reader.remote.videos import RemoteReading
from support.media import moving_square, write_video

pytest.importorskip("aiohttp")
PART_BYTES = 1 << 10


@contextmanager
def _server(
    content: bytes,
    *,
    has_ranges: bool,
    sent: list[int],
    told: int | None = None,
    statuses: Sequence[int] = (),
) -> Generator[str]:
    """Serve one file under every name.

    Args:
        content: of the file.
        has_ranges: whether parts are served.
        sent: gets the size of each body.
        told: size that is told before the file is asked for; None = the true one.
        statuses: of the first answers, which have no content.
    """
    first = iter(statuses)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            """Stay silent."""

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            if "none" in self.path or (status := next(first, 0)):
                self.send_error(404 if "none" in self.path else status)
                return
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
            body, status = content, 200
            if span and has_ranges:
                body, status = content[int(span[1]) : int(span[2]) + 1], 206
            self.send_response(status)
            length = len(body) if with_body or told is None else told
            self.send_header("Content-Length", str(length))
            self.send_header("Last-Modified", "Sun, 29 Nov 2026 12:00:00 GMT")
            self.end_headers()
            if with_body:
                sent.append(len(body))
                self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small video."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, moving_square(12, 48, 64))
    content = path.read_bytes()
    assert len(content) > 2 * PART_BYTES
    return content


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_video_is_fetched_whatever_the_server_can(
    clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_ranges: bool
) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr(transfer, "FIRST_WAIT_SECONDS", 0.001)
    reading, sent = RemoteReading(cache=LocalCache(tmp_path, 10**7), whole_mib=64), list[int]()
    with _server(clip, has_ranges=has_ranges, sent=sent) as address:
        url = f"{address}/clip.mp4?name=1"
        for _ in range(2):
            with reading.local_video(Path(url)) as local:
                assert local.read_bytes() == clip
        file = look_up(url)
        assert RemoteReading(whole_mib=0).is_fetched_whole(file) is not has_ranges
        if has_ranges:
            # One byte told that there are ranges; then parts, once.
            assert sent[0] == 1 and sum(sent) == len(clip) + 1 and max(sent) == PART_BYTES
            assert fetch_span(file, 5, 50) == clip[5:50]
        else:
            assert sent == [len(clip)] * 2
            with pytest.raises(TransferError, match=r"does not send parts.*copy the file to"):
                fetch_span(file, 5, 50)
        with (
            pytest.raises(VideoError, match="no such object"),
            reading.local_video(Path(f"{address}/none.mp4")),
        ):
            pass


def test_a_file_that_is_too_large_is_refused_before_and_while_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "FIRST_WAIT_SECONDS", 0.001)
    content, sent = bytes(1 << 20), list[int]()
    reading = RemoteReading(cache=LocalCache(tmp_path, 1000), whole_mib=64)
    with (
        _server(content, has_ranges=False, sent=sent) as address,
        pytest.raises(VideoError, match=r"large.mp4.* 1048576 bytes exceeds the cache of 1000"),
        reading.local_video(Path(f"{address}/large.mp4")),
    ):
        pass
    assert sent == []
    # One span, or a whole file in parts: neither takes more than was told.
    for part_bytes, reason in ((1 << 20, "901 bytes where 900 were"), (500, "more where 900 were")):
        monkeypatch.setattr(transfer, "PART_BYTES", part_bytes)
        with (
            _server(content, has_ranges=False, sent=sent, told=900) as address,
            pytest.raises(VideoError, match=rf"larger.mp4.*the server sent .*{reason}"),
            reading.local_video(Path(f"{address}/larger.mp4")),
        ):
            pass
        assert not [p for p in (tmp_path / "files").iterdir() if p.name[:5] != ".lock"]


def test_a_server_that_is_away_is_asked_again_and_is_no_missing_file(
    clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "FIRST_WAIT_SECONDS", 0.001)
    sent = list[int]()
    # The library asks twice (HEAD, GET) before it says that there is no such file.
    with _server(clip, has_ranges=True, sent=sent, statuses=[503, 503, 500, 502]) as address:
        file = look_up(f"{address}/clip.mp4")
        assert (file.size_bytes, file.mtime_ns) == (len(clip), 1795953600 * 10**9)
    for statuses, reason in (([503] * 10, "failed 5 times.*503"), ([403] * 2, "answers 403")):
        with _server(clip, has_ranges=True, sent=sent, statuses=statuses) as address:
            with pytest.raises(OSError, match=rf"clip.mp4: .*{reason}") as raised:
                look_up(f"{address}/clip.mp4")
            assert not isinstance(raised.value, FileNotFoundError)
    with (
        pytest.raises(VideoError, match=r"clip.mp4: failed 5 times.*[Cc]onnect"),
        RemoteReading(cache=LocalCache(tmp_path, 10**7)).local_video(Path(f"{address}/clip.mp4")),
    ):
        pass
    assert sent == []
