"""The page in the browser: a video, a streamed answer, stop, a second question, a broken file."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra serve")
pytest.importorskip("prometheus_client", reason="the extra serve")

from fastapi import FastAPI
from starlette.testclient import TestClient

from llava.model.tiny import write_tiny_checkpoint
from llava.serve.web import PAGE, add_page
from support.media import moving_square, write_video


def test_the_page_loads_nothing_from_elsewhere() -> None:
    app = FastAPI()
    add_page(app)
    client = TestClient(app)
    for route, (_, kind) in PAGE.items():
        reply = client.get(route)
        assert reply.status_code == 200 and reply.headers["content-type"].startswith(kind)
        assert "http://" not in reply.text and "https://" not in reply.text
        assert "default-src 'none'" in reply.headers["content-security-policy"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("web")
    write_tiny_checkpoint(folder / "model", seed=3)
    write_video(folder / "a.mp4", moving_square(12, 96, 128, (1, 1)))
    (folder / "broken.mp4").write_bytes(b"no video" * 100)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "llava.serve.web", "--model-path", str(folder / "model")]
    process = subprocess.Popen([*command, "--port", str(port), "--max-new-tokens", "300"])
    for _ in range(1000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}", folder
    process.terminate()
    process.wait(60)


@pytest.mark.slow
def test_a_browser_talks_about_a_video(served: tuple[str, Path], tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here")
    address, folder = served
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page: Any = browser.new_page(color_scheme="dark")
        page.set_default_timeout(120_000)
        failures: list[str] = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(address)
        page.set_input_files("#file", folder / "a.mp4")
        page.wait_for_selector("#video:not([hidden])")
        page.fill("#images", "2")
        page.fill("#question", "What moves?")
        page.press("#question", "Enter")
        page.wait_for_selector(".took:has-text('128 visual, 0 kept')")
        assert page.inner_text(".answer .text")
        page.fill("#question", "<b>And</b> then?")
        page.click("#ask")
        page.wait_for_selector("#ask:not([disabled])")
        notes = page.locator(".took").all_inner_texts()
        assert "128 visual, 0 kept" not in notes[1] and "128 visual" in notes[1]
        assert page.inner_text(".asked >> nth=1") == "<b>And</b> then?"
        page.fill("#question", "Tell me everything.")
        page.click("#ask")
        page.wait_for_selector(".answers >> nth=2 >> .text:not(:empty)")
        page.click("#stop")
        page.wait_for_selector("#ask:not([disabled])")
        page.select_option("#input", "both")
        page.fill("#question", "What is the colour?")
        page.click("#ask")
        page.wait_for_selector("#ask:not([disabled])")
        assert page.locator(".answers").last.locator(".answer").count() == 2
        page.screenshot(path=tmp_path / "talk.png", full_page=True)
        page.set_input_files("#file", folder / "broken.mp4")
        page.fill("#question", "What is this?")
        page.wait_for_selector("#talk:empty", state="attached")
        page.click("#ask")
        page.wait_for_selector(".failed .took:has-text('cannot be read')")
        browser.close()
    assert failures == []
    assert (tmp_path / "talk.png").stat().st_size > 10_000
