"""Read videos in a process of its own, which can be ended when one hangs: frames, or an asset.

A decoder that hangs inside C code cannot be interrupted by its own process. Each process that loads
data therefore starts one reader, sends it paths, and ends it when an answer takes too long. Run as
``python -m llava.visual.video_process FD``, this module is that reader. It imports neither torch
nor transformers.

Axis letters: F frames, H and W pixels.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cv_reader.assets import AssetConfig
from llava.visual.time_marks import frame_seconds

_GRACE_SECONDS = 30

Progress = Callable[[int, int], None]
"""Takes the frames that were read and those that are wanted."""

_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def progress_told(progress: Progress) -> Iterator[None]:
    """Tell a function how far reading is, within the block and in this thread.

    Args:
        progress: called by ``read_within`` and ``make_asset_within`` while a video is read.
    """
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


class UniformFrames(NamedTuple):
    """Frames of a video, and when they are shown.

    Attributes:
        pixels: uint8 (F, H, W, 3), RGB; None where only the times were asked for.
        seconds: F times, see ``llava.visual.time_marks``.
    """

    pixels: np.ndarray | None
    seconds: list[float]


def read_uniform_frames(
    path: str | Path,
    num_frames: int,
    sampling: str = "uniform",
    *,
    with_pixels: bool = True,
    progress: Progress | None = None,
) -> UniformFrames:
    """Read the frames floor(linspace(0, N - 1, num_frames)) of a video of N frames.

    Args:
        path: a local video file.
        num_frames: F, at least 1; a video with fewer frames repeats some.
        sampling: ``uniform``, or ``cheap`` to move them to near ones that cost little to reach.
        with_pixels: otherwise nothing is decoded but the first picture.
        progress: told of each frame.

    Raises:
        ValueError: if the video cannot be read.
    """
    # They need PyAV, which other kinds of input do not.
    from cv_reader import open_video
    from cv_reader.assets import sampled_frames

    with open_video(path) as video:
        config = AssetConfig(sequence_length=num_frames, num_images=1, frames=sampling)
        ids: list[int] = sampled_frames(video.index, config)[0].tolist()
        seconds = frame_seconds(ids, video.index.frame_rate)
        if not with_pixels:
            return UniformFrames(None, seconds)
        pictures: list[np.ndarray] = []
        for frame in video.at(ids, signals=False):
            pictures.append(frame.rgb())
            if progress is not None:
                progress(len(pictures), len(ids))
        return UniformFrames(np.stack(pictures), seconds)


def _shown_seconds(path: str | Path, config: AssetConfig) -> UniformFrames:
    from cv_reader import open_video
    from cv_reader.assets import sampled_frames

    with open_video(path) as video:
        seconds = video.index.pts_seconds
        ids = sampled_frames(video.index, config)[0]
        return UniformFrames(None, (seconds[ids] - seconds[0]).tolist())


class _Reader:
    """A child process that reads videos, one at a time."""

    def __init__(self) -> None:
        """Start it. It ends when this process does, because its connection then closes."""
        self.owner = os.getpid()
        ours, theirs = socket.socketpair()
        # It finds modules where this process does, which may have added the copied code of a model.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
            )
        self._connection = Connection(ours.detach())

    def ask(self, limit_seconds: float, **request: Any) -> UniformFrames | None:
        """Return the frames of a request; None where it asks for an asset.

        Raises:
            ValueError: what is wrong with the video.
            TimeoutError: if there is no answer in time.
            EOFError: if the reader ended.
            OSError: if it ended before it was asked.
        """
        progress = _progress.get()
        request |= {"limit_seconds": limit_seconds, "tells": progress is not None}
        self._connection.send_bytes(json.dumps(request).encode())
        deadline = time.monotonic() + limit_seconds
        while True:
            if not self._connection.poll(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            answer = json.loads(self._connection.recv_bytes())
            if "done" not in answer:
                break
            if progress is not None:
                progress(answer["done"], answer["wanted"])
        if "error" in answer:
            raise ValueError(answer["error"])
        if "seconds" not in answer:
            return None
        if answer["shape"] is None:
            return UniformFrames(None, answer["seconds"])
        pixels = np.frombuffer(self._connection.recv_bytes(), np.uint8)
        return UniformFrames(pixels.reshape(answer["shape"]), answer["seconds"])

    def end(self) -> int:
        """Kill the process at once; return its exit code."""
        self._connection.close()
        self._process.kill()
        return self._process.wait()


_lock = threading.Lock()
_readers: list[_Reader] = []
"""The reader of this process; a process that was forked from it starts its own."""


def read_within(
    path: str | Path,
    num_frames: int,
    limit_seconds: float,
    sampling: str = "uniform",
    *,
    with_pixels: bool = True,
) -> UniformFrames:
    """Read like ``read_uniform_frames``, but give up after ``limit_seconds``.

    Raises:
        ValueError: if the video cannot be read, or not in time; the message names it.
    """
    request = {
        "path": str(path),
        "num_frames": num_frames,
        "sampling": sampling,
        "with_pixels": with_pixels,
    }
    frames = _ask_reader(path, limit_seconds, request)
    assert frames is not None
    return frames


def make_asset_within(
    path: str | Path,
    limit_seconds: float,
    *,
    key: str,
    out_root: str | Path,
    config: AssetConfig,
    num_threads: int,
) -> None:
    """Make an asset like ``write_evaluation_asset``, but give up after ``limit_seconds``.

    Raises:
        ValueError: if the video cannot be read, or not in time; the message names it.
    """
    asset = {"key": key, "out_root": str(out_root), "num_threads": num_threads}
    request = {"path": str(path), "asset": {**asset, "config": config.to_dict()}}
    _ask_reader(path, limit_seconds, request)


def shown_seconds_within(
    path: str | Path, config: AssetConfig, limit_seconds: float
) -> list[float]:
    """Return when a player shows the frames of an asset's slots, by their own time stamps.

    Args:
        path: a local video file.
        config: the asset's settings.
        limit_seconds: give up after this time.

    Returns:
        ``config.sequence_length`` times in seconds from the first frame of the video.

    Raises:
        ValueError: if the video cannot be read, or not in time; the message names it.
    """
    found = _ask_reader(path, limit_seconds, {"path": str(path), "slots_of": config.to_dict()})
    assert found is not None
    return found.seconds


def _ask_reader(
    path: str | Path, limit_seconds: float, request: Mapping[str, Any]
) -> UniformFrames | None:
    with _lock:
        if not _readers or _readers[-1].owner != os.getpid():
            _readers[:] = [_Reader()]
        reader, answered = _readers[0], False
        try:
            frames = reader.ask(limit_seconds, **request)
            answered = True
            return frames
        except TimeoutError:
            raise ValueError(
                f"video {path} was not read within {limit_seconds:g} s, and its reader was ended; "
                "check the file, or allow more with --video_time_limit_seconds"
            ) from None
        except (EOFError, OSError) as error:
            raise ValueError(
                f"video {path} ended the process that read it ({error!r}); it is damaged or needs "
                "more memory than there is: encode it again, or leave it out"
            ) from error
        except ValueError:
            answered = True
            raise
        finally:
            if not answered:  # the next video must not get this one's answer
                _readers.clear()
                reader.end()


def _end_own_reader() -> None:
    """End the reader together with the process that started it."""
    if _readers and _readers[0].owner == os.getpid():
        _readers.pop().end()


atexit.register(_end_own_reader)


def _read(request: Mapping[str, Any], progress: Progress | None) -> UniformFrames | None:
    """Return the frames or times that a request asks for, or make its asset and return None."""
    asset = request.get("asset")
    if "slots_of" in request:
        return _shown_seconds(request["path"], AssetConfig(**request["slots_of"]))
    if asset is None:
        return read_uniform_frames(
            request["path"],
            request["num_frames"],
            request["sampling"],
            with_pixels=request["with_pixels"],
            progress=progress,
        )
    from cv_reader.assets.make import write_evaluation_asset

    config = AssetConfig(**asset.pop("config"))
    write_evaluation_asset(request["path"], config=config, progress=progress, **asset)
    return None


def _serve(connection: Connection) -> None:
    """Answer requests until the other side closes the connection."""
    # Ctrl-C reaches every process of a terminal: the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(done: int, wanted: int) -> None:
        connection.send_bytes(json.dumps({"done": done, "wanted": wanted}).encode())

    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        # The default action of this signal ends the process, even inside a decoder that hangs
        # while its parent is gone.
        signal.alarm(int(request["limit_seconds"]) + _GRACE_SECONDS)
        try:
            frames = _read(request, tell if request["tells"] else None)
        except (ValueError, OSError, MemoryError) as error:
            connection.send_bytes(json.dumps({"error": str(error) or repr(error)}).encode())
        else:
            if frames is None:
                connection.send_bytes(b"{}")
                continue
            pixels = frames.pixels
            shape = None if pixels is None else pixels.shape
            answer = {"shape": shape, "seconds": frames.seconds}
            connection.send_bytes(json.dumps(answer).encode())
            if pixels is not None:
                connection.send_bytes(np.ascontiguousarray(pixels).data.cast("B"))
        finally:
            signal.alarm(0)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
