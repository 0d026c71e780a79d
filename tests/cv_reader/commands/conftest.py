"""A small data set of videos, good and bad."""

import json
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from cv_reader.engines import local
from cv_reader.engines.tasks import TaskOutcome, attempt
from support.media import moving_square, write_video


@dataclass(frozen=True)
class Corpus:
    """A folder of videos, and rows that name them."""

    root: Path

    def row(self, video, **fields):
        turns = [
            {"from": "human", "value": "<video>\nWhat moves?"},
            {"from": "gpt", "value": "A square."},
        ]
        return {"id": Path(video).stem, "video": video, "conversations": turns, **fields}

    def write(self, path, *rows):
        """A ``.json`` or ``.jsonl`` data set; strings are written as they are."""
        if path.suffix == ".json":
            path.write_text(json.dumps(rows))
        else:
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            path.write_text("".join(f"{line}\n" for line in lines))
        return path


def _write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = np.zeros((1, 800), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Videos ``good``, ``other`` (HEVC) and ``short``, and bad ones."""
    root = tmp_path_factory.mktemp("videos")
    for name, count, codec in (
        ("good", 20, "libx264"),
        ("other", 20, "libx265"),
        ("short", 3, "libx264"),
    ):
        write_video(root / f"{name}.mp4", moving_square(count, 48, 64), codec=codec)
    whole = (root / "good.mp4").read_bytes()
    (root / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("no video at all\n" * 20)
    (root / "folder.mp4").mkdir()
    _write_sound(root / "sound.wav")
    return Corpus(root)


@pytest.fixture
def failures():
    """Reads a failure file."""
    return lambda path: [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True)
def _in_process(monkeypatch):
    """Run tasks here: starting processes is tested with the workers and the promised paths."""

    def run(function, tasks, _limits):
        for task in tasks:
            kind, content = attempt(function, task)
            value, failure = (content, None) if kind == "value" else (None, content)
            yield TaskOutcome(task, value, failure)

    monkeypatch.setattr(local, "run_tasks", run)
