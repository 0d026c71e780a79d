"""docs/serving.md: its Python and commands run as printed; its tables are the code's."""

import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llava.model.tiny import write_tiny_checkpoint
from support.media import moving_square, write_video
from support.paths import ROOT

TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"^python -m llava.serve.*$|^echo .*$", TEXT, re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path / "checkpoints" / "my_model")
    write_video(tmp_path / "clip.mp4", moving_square(12, 48, 64, (1, 1)))
    return tmp_path


def _run(code: str, folder: Path) -> str:
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_settings_of_requests_are_the_codes() -> None:
    schema = pytest.importorskip("llava.serve.schema", reason="the extra serve")
    [row] = re.findall(r"^\| `video_url` \| besides `url`: (.*) \|$", TEXT, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == schema.SHOWN_AS


@pytest.mark.slow
def test_the_python_of_the_page_runs(folder: Path) -> None:
    pytest.importorskip("fastapi", reason="the extra serve")
    pytest.importorskip("openai")
    library, session, client = PYTHON
    assert _run(library, folder).strip()
    assert _run(session, folder).startswith("256\n")
    chat, _, server = COMMANDS
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    words = [sys.executable, *shlex.split(server.replace("8000", port))[1:]]
    process = subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("serving my_model at"):
                break
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                    break
            time.sleep(0.1)
        said = _run(client.replace("8000", port), folder)
        assert "visual_tokens=256" in said
    finally:
        process.terminate()
        process.communicate()
    result = subprocess.run(
        ["bash", "-c", chat.replace("python", sys.executable, 1)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and "tokens read (512 visual" in result.stdout, result.stderr
