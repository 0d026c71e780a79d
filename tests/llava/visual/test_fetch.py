"""Downloads within limits, and hosts that only this machine reaches."""

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from llava.visual import fetch as module
from llava.visual.clips import ClipSettings, load_clip
from llava.visual.config import VisualConfig
from llava.visual.fetch import FetchError, fetch
from llava.visual.inputs import LlavaImageProcessor
from support.media import moving_square, write_video

CONTENT = bytes(range(256)) * 100


class _Handler(BaseHTTPRequestHandler):
    files: dict[str, bytes] = {"/file": CONTENT}
    hosts: list[str] = []

    def do_GET(self) -> None:
        self.hosts.append(self.headers["Host"])
        content = self.files.get(self.path)
        self.send_response(302 if self.path == "/moved" else 200 if content is not None else 404)
        self.send_header("Location", "file" if self.path == "/moved" else "/moved")
        # No length: a limit must hold for what comes, not for what is announced.
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_is_downloaded_within_its_limits(address: str, tmp_path: Path) -> None:
    for path in ("file", "moved"):
        fetch(f"{address}/{path}", tmp_path / path, max_bytes=len(CONTENT))
        assert (tmp_path / path).read_bytes() == CONTENT
    with pytest.raises(FetchError, match="more than 25599 bytes"):
        fetch(f"{address}/file", tmp_path / "a", max_bytes=len(CONTENT) - 1)
    with pytest.raises(FetchError, match="took too long"):
        fetch(f"{address}/file", tmp_path / "a", limit_seconds=0)
    with pytest.raises(FetchError, match="answered 404"):
        fetch(f"{address}/none", tmp_path / "a")


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "0.0.0.0", "2130706433", "0x7f.1", "127.1", "[::1]", "[::]"),
        *("[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1", "192.168.1.1", "100.64.0.1"),
        *("224.0.0.1", "[fd00::1]", "[fe80::1]", "[::ffff:10.0.0.1]", "[64:ff9b:1::1]"),
        *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]"),
    ],
)
def test_what_only_this_machine_reaches_is_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="not on the public internet|has no address"):
        fetch(f"http://{host}/file", tmp_path / "a", public_only=True)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a/b", "http://", "http://u:p@127.0.0.1/", "http:///x"]
)
def test_other_addresses_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="must be http or https"):
        fetch(url, tmp_path / "a")


def test_the_checked_address_is_the_one_that_is_asked(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name need not exist: after the check nobody resolves it a second time."""
    asked: list[str] = []

    def public(host: str, _: int) -> str:
        asked.append(host)
        return "127.0.0.1"

    monkeypatch.setattr(module, "_public_address", public)
    url = f"{address.replace('127.0.0.1', 'clips.invalid')}/moved"
    fetch(url, tmp_path / "a", public_only=True)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert asked == ["clips.invalid"] * 2  # the redirect is checked as well
    assert _Handler.hosts[-1].startswith("clips.invalid:")


def test_pictures_and_videos_may_be_web_addresses(address: str, tmp_path: Path) -> None:
    config = VisualConfig(patches_per_side=4)
    video = write_video(tmp_path / "a.mp4", moving_square(6, 48, 64, (1, 1)))
    Image.new("RGB", (20, 30), "red").save(tmp_path / "a.png")
    _Handler.files |= {f"/{name}": (tmp_path / name).read_bytes() for name in ("a.mp4", "a.png")}
    settings = ClipSettings.parse({"input": "frames", "num_images": 2})
    found = load_clip(f"{address}/a.mp4", config, settings)
    assert found.patches.equal(load_clip(video, config, settings).patches)
    processor = LlavaImageProcessor(config)
    [segment] = processor.segments([f"{address}/a.png"])
    assert segment.patches.equal(processor.segments([tmp_path / "a.png"])[0].patches)


def test_either_library_does_and_none_is_named(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub brings httpx, or httpx2 in newer releases; exported code has no other."""
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.setitem(sys.modules, "httpx2", httpx)
    fetch(f"{address}/file", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(FetchError, match="pip install httpx"):
        fetch(f"{address}/file", tmp_path / "b")
