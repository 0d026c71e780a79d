"""A server in its own process: OpenAI's client, slow and vanishing clients, the load test."""

import base64
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from llava.ask import Assistant
from llava.model.tiny import write_tiny_checkpoint
from support.media import moving_square, write_video
from support.paths import ROOT

openai = pytest.importorskip("openai")
pytest.importorskip("fastapi", reason="the extra serve")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_tiny_checkpoint(folder / "model", seed=3)
    write_video(folder / "a.mp4", moving_square(12, 48, 64, (1, 1)))
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "llava.serve.api", "--model-path", str(folder / "model")]
    options = ["--port", str(port), "--num-images", "2", "--body-seconds", "2"]
    process = subprocess.Popen([*command, *options])
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            break
        except OSError:
            assert process.poll() is None
            time.sleep(0.2)
    yield address
    process.terminate()
    process.wait(60)


def _metric(address: str, name: str) -> float:
    with urllib.request.urlopen(f"{address}/metrics", timeout=60) as reply:
        return float(re.findall(rf"^{re.escape(name)} (\S+)$", reply.read().decode(), re.M)[0])


def test_the_client_of_openai_gets_the_answer_of_ask(address: str, folder: Path) -> None:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["model"]
    content = base64.b64encode((folder / "a.mp4").read_bytes()).decode()
    parts: Any = [
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{content}"}},
        {"type": "text", "text": "What moves?"},
    ]
    asked: Any = {
        "model": "model",
        "max_tokens": 8,
        "messages": [{"role": "user", "content": parts}],
    }
    reply = client.chat.completions.create(**asked)
    expected = Assistant.load(folder / "model", "cpu").ask(
        folder / "a.mp4", "What moves?", num_images=2, max_new_tokens=8
    )
    assert reply.choices[0].message.content == expected
    assert reply.usage.model_extra["seconds"]["prompt"] > 0
    stream = client.chat.completions.create(**asked, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == expected and len(pieces) > 3
    with pytest.raises(openai.BadRequestError, match="files of the server are not allowed"):
        parts[0]["video_url"]["url"] = str(folder / "a.mp4")
        client.chat.completions.create(**asked)


def _connect(address: str, head: str) -> socket.socket:
    parts = urlsplit(address)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
    return connection


def test_a_slow_body_is_given_up(address: str) -> None:
    with _connect(address, "Content-Type: application/json\r\nContent-Length: 1000") as connection:
        connection.sendall(b'{"messages"')
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")
    assert _metric(address, "llava_requests_inside") == 0


def test_fifty_slow_bodies_do_not_delay_an_answer(address: str) -> None:
    head = "Content-Type: application/json\r\nContent-Length: 1000"
    slow = [_connect(address, head) for _ in range(50)]
    for connection in slow:
        connection.sendall(b'{"messages"')
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    messages: Any = [{"role": "user", "content": "Tell."}]
    reply = client.chat.completions.create(model="model", max_tokens=2, messages=messages)
    assert reply.usage.completion_tokens == 2
    for connection in slow:
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")
        connection.close()


def test_an_answer_ends_when_its_client_goes(address: str) -> None:
    """Else a long answer would delay everybody."""
    body = {"messages": [{"role": "user", "content": "Tell."}], "stream": True, "max_tokens": 1024}
    text = json.dumps(body)
    head = f"Content-Type: application/json\r\nContent-Length: {len(text)}"
    for _ in range(5):
        with _connect(address, head) as connection:
            connection.sendall(text.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    for _ in range(100):
        if _metric(address, "llava_requests_inside") == 0:
            break
        time.sleep(0.1)
    assert _metric(address, "llava_requests_inside") == 0


def test_nothing_is_lost_under_load(tmp_path: Path) -> None:
    script = str(ROOT / "scripts" / "bench" / "serve.py")
    options = ["--requests", "8", "--new_tokens", "4", "--clients", "1,4"]
    result = subprocess.run([sys.executable, script, *options], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert [row["answered"] for row in rows] == [8, 8]
