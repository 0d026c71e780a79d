"""A small data set of videos, good and bad."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cv_reader.engines import local
from cv_reader.engines.tasks import Settled, TaskOutcome, attempt
from cv_reader.remote import choice
from cv_reader.remote.cache import choose_cache
from cv_reader.remote.files import forget_looked_up
from support.corpus import Corpus
from support.filled_bucket import Store, filled_bucket
from support.media import moving_square, write_video


def _write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = np.zeros((1, 800), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
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
def failures() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads a failure file."""
    return lambda path: [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run tasks here: starting processes is tested with the workers and the promised paths."""

    def run(
        function: Callable[[Any], Any], tasks: Iterable[Any], _limits: object
    ) -> Iterator[TaskOutcome]:
        for task in tasks:
            if isinstance(task, Settled):
                yield task.outcome
                continue
            kind, content = attempt(function, task)
            value, failure = (content, None) if kind == "value" else (None, content)
            yield TaskOutcome(task, value, failure)

    monkeypatch.setattr(local, "run_tasks", run)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Use a cache of this test alone."""
    monkeypatch.setenv("CV_READER_CACHE", str(tmp_path / "cache"))
    forget_looked_up()
    yield tmp_path / "cache"
    choose_cache(choice.cache_settings())


@pytest.fixture
def store(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Store, Any]]:
    """Three videos and their list in a bucket, and a file system that looks past the proxy."""
    with filled_bucket(tmp_path, monkeypatch) as filled:
        yield filled
