"""The server: the protocol, what it counts, and fifty requests that mean it no good."""

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra serve")
pytest.importorskip("prometheus_client", reason="the extra serve")

from starlette.testclient import TestClient

from llava.ask import Assistant
from llava.generation import GenerationSettings
from llava.model.tiny import write_tiny_checkpoint
from llava.serve.api import build_app, main
from llava.serve.engine import Engine
from llava.serve.limits import BoundedBody
from llava.serve.media import MediaLimits
from llava.serve.server import ServerSettings
from support.media import moving_square, write_video

COMPLETIONS = "/v1/chat/completions"
QUESTION = {"type": "text", "text": "What moves?"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    write_tiny_checkpoint(folder / "model", seed=3)
    (folder / "media").mkdir()
    write_video(folder / "media" / "a.mp4", moving_square(12, 48, 64, (1, 1)))
    (folder / "secret.txt").write_text("secret")
    (folder / "media" / "link.txt").symlink_to(folder / "secret.txt")
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine.load(folder / "model", "cpu", videos_kwargs={"num_images": 2})


@pytest.fixture(scope="module")
def client(folder: Path, engine: Engine) -> Iterator[TestClient]:
    settings = ServerSettings(
        name="tiny",
        generation=GenerationSettings(max_new_tokens=8),
        media=MediaLimits(allowed_folder=folder / "media", max_image_pixels=1 << 20),
        max_body_bytes=1 << 20,
    )
    with TestClient(build_app(engine, settings), raise_server_exceptions=False) as client:
        yield client


def _data_url(content: bytes, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _png(width: int = 8, height: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return file.getvalue()


def _image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def _video(url: Any, **settings: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url, **settings}}


def _user(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def test_a_video_is_answered_and_counted(client: TestClient, engine: Engine, folder: Path) -> None:
    path = folder / "media" / "a.mp4"
    expected = Assistant(engine.model, engine.processor).ask(
        path, "What moves?", num_images=2, max_new_tokens=8
    )
    for url in (_data_url(path.read_bytes()), "a.mp4", f"file://{path}"):
        reply = client.post(COMPLETIONS, json=_user(_video(url), QUESTION))
        assert reply.status_code == 200, reply.text
        body = reply.json()
        assert body["choices"][0]["message"] == {"role": "assistant", "content": expected}
        assert body["usage"]["prompt_tokens_details"]["visual_tokens"] == 2 * 64
        assert body["usage"]["seconds"].keys() == {"visuals", "wait", "prompt", "answer"}
    frames = client.post(COMPLETIONS, json=_user(_video(f"file://{path}", num_images=1), QUESTION))
    assert frames.json()["usage"]["prompt_tokens_details"]["visual_tokens"] == 64
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
    assert 'llava_tokens_total{kind="visual"} 448.0' in client.get("/metrics").text


def test_a_stream_has_the_same_text(client: TestClient) -> None:
    body = {**_user(QUESTION), "stream": True, "stream_options": {"include_usage": True}}
    lines = client.post(COMPLETIONS, json=body).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    events = [json.loads(line[6:]) for line in lines[:-2] if line.startswith("data: ")]
    text = "".join(
        event["choices"][0]["delta"].get("content", "") for event in events if event["choices"]
    )
    whole = client.post(COMPLETIONS, json=_user(QUESTION)).json()
    assert text == whole["choices"][0]["message"]["content"]
    assert events[-1]["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    assert events[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_a_conversation_by_key_is_read_once(client: TestClient, engine: Engine) -> None:
    body = _user(_video("a.mp4"), QUESTION)
    first = client.post(COMPLETIONS, json={**body, "prompt_cache_key": "k"}).json()
    counted = engine.store.reads, engine.totals["encoded_visuals"]
    answer = first["choices"][0]["message"]
    body["messages"] += [answer, {"role": "user", "content": "And <image>?"}]
    second = client.post(COMPLETIONS, json={**body, "prompt_cache_key": "k"}).json()
    assert (engine.store.reads, engine.totals["encoded_visuals"]) == counted
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 128
    other = client.post(COMPLETIONS, json={**body, "prompt_cache_key": "l"}).json()
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert other["choices"] == second["choices"]


def _hostile(folder: Path) -> list[tuple[Any, int]]:
    """Requests and the status of their refusal."""
    bomb = _png(5000, 5000)
    path = folder / "media" / "a.mp4"
    noise = np.random.default_rng(0).bytes(2000)
    urls = [
        *("/etc/passwd", "file:///etc/passwd", "../secret.txt", "../../../etc/passwd"),
        *("file://%2e%2e/secret.txt", "link.txt", str(folder / "secret.txt"), ".", "", "\0"),
        *("a" * 5000, "file:///dev/zero", "/proc/self/environ", "~/x", "no_such_file.mp4"),
        *("http://127.0.0.1:1/", "https://169.254.169.254/latest", "ftp://host/x", "gopher://x"),
        *("data:", "data:video/mp4;base64,%%%", "data:video/mp4,abc", _data_url(b"")),
        *(_data_url(f"ffconcat version 1.0\nfile {name}\n".encode()) for name in (path, "file")),
        *(_data_url(noise), _data_url(b"\x89PNG\r\n\x1a\n" + noise)),
    ]
    parts = [
        *(_video("a.mp4", num_images=value) for value in (0, -1, 10**30, "x", None, 65, [1])),
        *(_video("a.mp4", **{name: "x"}) for name in ("cache", "time_limit_seconds", "jpg", "hdr")),
        *(
            _image(_data_url(bomb)),
            _image(5),
            _image(None),
            {"type": "input_audio"},
            {"type": "text", "text": 5},
            7,
            None,
        ),
        {"type": "text", "text": "x" * 300_000},
    ]
    bodies = [
        *({}, [], 5, True, {"messages": []}, {"messages": "x"}, {"messages": [{}]}),
        {"messages": [{"role": "root", "content": "x"}]},
        {"messages": [{"role": "assistant", "content": "only me"}]},
        {"messages": [{"role": "user", "content": "x"}] * 300},
        _user(*[QUESTION] * 10_000),
        _user(*[_image(_data_url(_png()))] * 17),
        *({**_user(QUESTION), **more} for more in ({"n": 2}, {"tools": [{}]}, {"logprobs": True})),
        *({**_user(QUESTION), "max_tokens": value} for value in (0, -5, 10**20, "many")),
        *({**_user(QUESTION), "temperature": value} for value in (-1, 3, "hot")),
        {**_user(QUESTION), "stop": ["x"] * 100},
        {**_user(QUESTION), "stop": [""]},
    ]
    shown = [_user(part(url), QUESTION) for url in urls for part in (_image, _video)]
    return [(body, 400) for body in [*shown, *(_user(part) for part in parts), *bodies]]


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_hostile_requests_leave_the_server_answering(
    client: TestClient, folder: Path, every: int
) -> None:
    requests = _hostile(folder)
    assert len(requests) > 50
    for body, status in requests[::every]:
        reply = client.post(COMPLETIONS, json=body)
        assert reply.status_code == status, (str(body)[:300], reply.text[:300])
        error = reply.json()["error"]["message"]
        assert str(folder) not in error and "/tmp" not in error and "secret" not in error
    raw = [
        (b"{", {"Content-Type": "application/json"}, 400),
        (b"\xff\xfe", {"Content-Type": "application/json"}, 400),
        (b"[" * 100_000, {"Content-Type": "application/json"}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"x" * (2 << 20), {"Content-Type": "application/json"}, 413),
    ]
    for content, headers, status in raw:
        assert client.post(COMPLETIONS, content=content, headers=headers).status_code == status
    assert client.get(COMPLETIONS).status_code == 405
    assert client.get("/v1/files/../../etc/passwd").status_code == 404
    assert client.post(COMPLETIONS, json=_user(QUESTION)).status_code == 200
    assert "llava_requests_inside 0.0" in client.get("/metrics").text


def test_bodies_in_memory_are_bounded_together() -> None:
    """A fifth large body is refused while four wait for their end, and fits once one has gone."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope, send
        message = await receive()
        served.append(len(message["body"]))

    async def ask(parts: list[bytes], is_last: asyncio.Event) -> int:
        async def receive() -> dict[str, Any]:
            if parts:
                return {"type": "http.request", "body": parts.pop(0), "more_body": True}
            await is_last.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            statuses.append(message.get("status", 0))

        statuses: list[int] = []
        await bounded({"type": "http", "method": "POST", "headers": []}, receive, send)
        return max(statuses, default=200)

    async def run() -> None:
        is_last, waiting = asyncio.Event(), []
        for _ in range(4):
            waiting.append(asyncio.ensure_future(ask([b"x" * 100], is_last)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await ask([b"x"], is_last) == 503
        is_last.set()
        assert await asyncio.gather(*waiting) == [200] * 4
        assert await ask([b"x" * 100], is_last) == 200

    served: list[int] = []
    bounded = BoundedBody(app, max_bytes=100, limit_seconds=60)
    asyncio.run(run())
    assert served == [100] * 5


def test_what_is_refused_at_the_door(engine: Engine) -> None:
    settings = ServerSettings(api_key="right", generation=GenerationSettings(max_new_tokens=2))
    client = TestClient(build_app(engine, settings))
    for key, status in (("right", 200), ("wrong", 401), ("", 401)):
        headers = {"Authorization": f"Bearer {key}"}
        assert client.post(COMPLETIONS, json=_user(QUESTION), headers=headers).status_code == status
    full = TestClient(build_app(engine, ServerSettings(max_requests=0)))
    assert full.post(COMPLETIONS, json=_user(QUESTION)).status_code == 503


def test_wrong_arguments_start_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model-path", str(folder / "model")]
    assert main([*model, "--allowed-media-path", str(folder / "no")]) == 2
    assert main([*model, "--max-requests", "0"]) == 2
    assert main(["--model-path", str(folder)]) == 2
    assert "--allowed-media-path must be a folder" in capsys.readouterr().err
