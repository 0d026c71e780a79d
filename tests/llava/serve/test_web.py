"""The page: what it asks the server for, and a talk in a real browser."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra serve")
pytest.importorskip("prometheus_client", reason="the extra serve")

from starlette.testclient import TestClient

from cv_reader.assets import VISIBLE_INDICES
from cv_reader.assets.make import write_evaluation_asset
from llava.generation import GenerationSettings
from llava.model.tiny import write_tiny_checkpoint
from llava.serve import media
from llava.serve.api import build_app
from llava.serve.engine import Engine
from llava.serve.media import MediaLimits
from llava.serve.page.routes import PAGE, add_page
from llava.serve.page.samples import SAMPLES
from llava.serve.server import ServerSettings
from llava.visual.clips import ClipSettings
from support.media import moving_square, write_video

JSON = {"Content-Type": "application/json"}
BYTES = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("page")
    write_tiny_checkpoint(folder, seed=3)
    return Engine.load(folder, "cpu", videos_kwargs={"num_images": 2})


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[TestClient]:
    limits = MediaLimits(allow_urls=True, max_file_bytes=60_000, max_upload_bytes=100_000)
    generation = GenerationSettings(max_new_tokens=4)
    app = build_app(engine, ServerSettings(name="tiny", media=limits, generation=generation))
    add_page(app)
    with TestClient(app) as client:
        yield client


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    for route, (_, kind) in PAGE.items():
        reply = client.get(route)
        assert reply.status_code == 200 and reply.headers["content-type"].startswith(kind)
        assert "http://" not in reply.text and "https://" not in reply.text
        assert "default-src 'none'" in reply.headers["content-security-policy"]
    facts = client.get("/page/facts").json()
    assert facts["model"] == "tiny" and not facts["needs_key"] and facts["allows_urls"]
    assert [item["name"] for item in facts["samples"]] == [item.name for item in SAMPLES]
    for item in facts["samples"]:
        assert client.get(f"/page/samples/{item['name']}").content[4:8] == b"ftyp"
    assert client.get("/page/samples/..%2fsecret").status_code == 404


def _shown(client: TestClient, url: str, **settings: Any) -> list[dict[str, Any]]:
    part = {"type": "video_url", "video_url": {"url": url, **settings}}
    return [json.loads(line) for line in client.post("/page/shown", json=part).text.splitlines()]


def test_what_is_kept_of_an_upload_is_told_and_not_read_again(
    client: TestClient, engine: Engine, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "a.mp4", moving_square(40, 64, 96, (1, 1)))
    url = client.post("/page/files", content=path.read_bytes(), headers=BYTES).json()["url"]
    *progress, told = _shown(client, url, num_images=1)
    # All 40 frames are shown; 64 moments repeat some.
    assert progress[-1] == {"done": 40, "wanted": 40}
    config = ClipSettings.parse({"num_images": 1}).asset_config(engine.processor.visual)
    asset = write_evaluation_asset(path, key="a", out_root=tmp_path, config=config)
    visible = np.load(asset.folder / VISIBLE_INDICES)
    moments, cells = np.divmod(visible, config.grid**2)
    frames = asset.frame_ids[moments]
    assert told["visual_tokens"] == len(visible) and told["grid"] == config.grid
    assert [slot["cells"] for slot in told["slots"]] == [
        sorted(cells[frames == frame].tolist()) for frame in range(40)
    ]
    seconds = [slot["seconds"] for slot in told["slots"]]
    assert np.allclose(seconds, np.arange(40) / 25, atol=1e-4)
    reads = engine.store.reads
    video = {"type": "video_url", "video_url": {"url": url, "num_images": 1}}
    body = {"messages": [{"role": "user", "content": [video, {"type": "text", "text": "What?"}]}]}
    usage = client.post("/v1/chat/completions", json=body).json()["usage"]
    assert usage["prompt_tokens_details"]["visual_tokens"] == len(visible)
    assert engine.store.reads == reads
    whole = _shown(client, url, input="frames", num_images=3)[-1]
    assert [slot["seconds"] for slot in whole["slots"]] == [0, 0.76, 1.56]  # frames 0, 19, 39
    assert {len(slot["cells"]) for slot in whole["slots"]} == {config.grid**2}


def test_what_the_page_may_not_do(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def post(content: bytes) -> Any:
        return client.post("/page/files", content=content, headers=BYTES)

    assert client.post("/page/files", content=b"x").status_code == 415
    refused = post(b"x" * 60_001)
    assert refused.status_code == 400 and "may have 60000 bytes" in refused.text
    first, second = post(b"a" * 50_000).json()["url"], post(b"b" * 50_000).json()["url"]
    assert client.get(f"/page/files/{first[7:]}").content == b"a" * 50_000
    assert _shown(client, first)[-1]["error"]["message"].startswith("a picture or video cannot be")
    post(b"c" * 50_000)  # the one used longest ago goes
    assert client.get(f"/page/files/{second[7:]}").status_code == 404
    assert "send the file again" in _shown(client, second)[-1]["error"]["message"]
    assert "files of the server" in _shown(client, "/etc/passwd")[-1]["error"]["message"]
    assert client.post("/page/shown", json={"type": "video_url"}).status_code == 400
    for url in ("file:///etc/passwd", "http://127.0.0.1:1/", "x", 5):
        assert client.post("/page/fetch", json={"url": url}).status_code == 400
    server = client.app.state.server  # pyright: ignore[reportAttributeAccessIssue]
    with monkeypatch.context() as patch:
        patch.setattr(server, "settings", replace(server.settings, api_key="right"))
        assert client.get("/page/facts").json()["needs_key"]
        assert client.get(f"/page/files/{first[7:]}").status_code == 401
        for name, headers in (("files", BYTES), ("fetch", JSON), ("shown", JSON)):
            assert client.post(f"/page/{name}", content=b"{}", headers=headers).status_code == 401
    monkeypatch.setattr(media, "fetch", lambda url, target, **_: target.write_text(url))
    url = client.post("/page/fetch", json={"url": "https://example.org/a"}).json()["url"]
    assert client.get(f"/page/files/{url[7:]}").text == "https://example.org/a"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("web")
    write_tiny_checkpoint(folder / "model", seed=3)
    write_video(folder / "a.mp4", moving_square(50, 96, 128, (1, 1)))
    write_video(folder / "a.avi", moving_square(50, 96, 128, (1, 1)))
    (folder / "broken.mp4").write_bytes(b"no video" * 100)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "llava.serve.web", "--model-path", str(folder / "model")]
    options = ["--port", str(port), "--max-new-tokens", "300", "--allow-urls"]
    process = subprocess.Popen([*command, *options])
    for _ in range(1000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}", folder
    process.terminate()
    process.wait(60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def _opened(browser: Any, address: str, failures: list[str], **options: Any) -> Any:
    page = browser.new_page(**options)
    page.set_default_timeout(120_000)
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(address)
    page.wait_for_selector(".sample")
    return page


@pytest.mark.slow
def test_a_browser_talks_about_a_video(
    served: tuple[str, Path], browser: Any, tmp_path: Path
) -> None:
    address, folder = served
    failures: list[str] = []
    page = _opened(browser, address, failures, color_scheme="dark")
    page.set_input_files("#file", folder / "a.mp4")
    page.wait_for_selector("#player:not([hidden])")
    page.fill("#images", "2")
    page.wait_for_selector("#told:has-text('codec: 128 visual tokens')")
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
    page.press("#question", "Escape")
    page.wait_for_selector("#ask:not([disabled])")
    page.select_option("#input", "both")
    page.wait_for_selector("#told:has-text('frames: 128 visual tokens')")
    page.fill("#question", "What is the colour?")
    page.click("#ask")
    page.wait_for_selector("#ask:not([disabled])")
    assert page.locator(".answers").last.locator(".answer").count() == 2
    page.screenshot(path=tmp_path / "talk.png", full_page=True)
    assert (tmp_path / "talk.png").stat().st_size > 10_000
    page.set_input_files("#file", folder / "broken.mp4")
    page.wait_for_selector("#state.failed:has-text('cannot be read')")
    page.wait_for_selector("#player", state="hidden")
    page.screenshot(path=tmp_path / "broken.png", full_page=True)
    page.fill("#question", "What is this?")
    page.click("#ask")
    page.wait_for_selector(".failed .took:has-text('cannot be read')")
    # A codec that the server reads and the browser does not play: the time line alone is shown.
    page.set_input_files("#file", folder / "a.avi")
    page.wait_for_selector("#told:has-text('codec: 128 visual tokens')")
    page.wait_for_selector("#unplayable:not([hidden])")
    assert page.locator("#stage").is_hidden() and page.locator("#line").is_visible()
    page.locator("#line").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#moment:has-text('picture 2 of ')")
    page.screenshot(path=tmp_path / "unplayable.png", full_page=True)
    assert failures == []
    page.close()


def _wait_until(page: Any, condition: str) -> None:
    # The page's policy forbids what Playwright's own waiting evaluates.
    for _ in range(1200):
        if page.evaluate(condition):
            return
        time.sleep(0.1)
    raise AssertionError(condition)


DARKENED = """() => {
  const canvas = document.getElementById("kept");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let dark = 0;
  for (let i = 0; i < data.length; i += 4) dark += data[i] < 30 && data[i + 3] > 100 ? 1 : 0;
  return dark / (canvas.width * canvas.height);
}"""
"""Share of the overlay that is darkened."""


@pytest.mark.slow
def test_kept_patches_are_drawn_over_the_picture_and_times_seek(
    served: tuple[str, Path], browser: Any
) -> None:
    address, _ = served
    failures: list[str] = []
    page = _opened(browser, address, failures)
    page.fill("#images", "2")
    page.click(".sample >> nth=1")
    page.wait_for_selector("#told:has-text('codec: 128 visual tokens')")
    _wait_until(page, "document.getElementById('video').readyState >= 2")
    time_of = "document.getElementById('video').currentTime"
    # The first moment is kept whole; of others the words, the picture and the cells agree.
    page.wait_for_selector("#moment:has-text('picture 1 of 64, at 0:00.0: 64 of 64')")
    assert page.evaluate(DARKENED) < 0.01
    page.locator("#line").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#moment:has-text('picture 2 of 64')")
    kept = int(page.inner_text("#moment").split(": ")[1].split()[0])
    # 180 of 320 rows are picture: 4.5 of 8 rows of cells, of which the canvas shows the picture.
    assert page.evaluate(DARKENED) > 0.3 and kept < 20
    page.keyboard.press("k")
    assert page.evaluate(DARKENED) == 0 and not page.is_checked("#draw")
    page.keyboard.press("k")
    box = page.locator("#line").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + 5)
    page.wait_for_selector("#moment:has-text('picture 48 of 64')")
    assert abs(page.evaluate(time_of) - 4.5) < 0.1
    page.locator("#line").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    _wait_until(page, f"{time_of} > 0.5")
    page.keyboard.press("Space")
    text = "At 0:02 it moves, at <3.5 seconds> and 4.25 s it stops; 1:30 is beyond its end."
    chunk = {"choices": [{"index": 0, "delta": {"content": text}}]}
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            content_type="text/event-stream", body=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        ),
    )
    page.fill("#question", "When?")
    page.click("#ask")
    page.wait_for_selector(".answer .time")
    assert page.inner_text(".answer .text") == text
    names = page.locator(".answer .time").all_inner_texts()
    assert names == ["0:02", "<3.5 seconds>", "4.25 s"]
    for name, seconds in zip(names, (2, 3.5, 4.25), strict=True):
        page.click(f".answer .time:text-is('{name}')")
        _wait_until(page, f"Math.abs({time_of} - {seconds}) < 0.01")
    assert failures == []
    page.close()


def _long_answer(address: str, temperature: float) -> HTTPConnection:
    """Ask for a long answer as a stream, which ends when the connection is closed."""
    message = {"role": "user", "content": "Tell me everything."}
    body = {"messages": [message], "stream": True, "temperature": temperature}
    connection = HTTPConnection(address.removeprefix("http://"), timeout=120)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), JSON)
    return connection


@pytest.mark.slow
def test_a_question_in_the_queue_says_so(served: tuple[str, Path], browser: Any) -> None:
    address, _ = served
    failures: list[str] = []
    page = _opened(browser, address, failures)
    page.fill("#question", "Tell me everything.")
    # Sampled at different temperatures, they cannot share a batch.
    others = [_long_answer(address, 0.5 + number / 100) for number in range(16)]
    page.click("#ask")
    page.wait_for_selector(".took:has-text('in the queue: ')")
    for other in others:
        other.close()
    page.wait_for_selector(".took:has-text('written')")
    error = {"error": {"message": "the queue is full: 64 requests", "type": "x"}}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=503, json=error))
    page.fill("#question", "And now?")
    page.click("#ask")
    page.wait_for_selector(".failed .took:has-text('the queue is full')")
    assert page.input_value("#question") == "And now?"
    assert failures == []
    page.close()
