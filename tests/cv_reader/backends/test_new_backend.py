"""A backend is a module with five names: what docs/architecture.md says is enough."""

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pytest

from cv_reader import CodecFrame, backends, open_video
from cv_reader.backends import Backend
from cv_reader.backends.pixels import assemble
from cv_reader.backends.probe import Probe
from cv_reader.media.decoding import DecodeOptions, decode
from cv_reader.media.frames import BLOCK_PX, map_shape
from cv_reader.media.index import VideoSource
from support.media import moving_square, write_video

EXACTNESS = {"motion": "estimated", "residual_y": "none", "bits": "none", "qp": "none"}


def _probe(source: VideoSource, num_threads: int) -> Probe | str:
    del num_threads
    return Probe() if source.index.codec_name == "mpeg4" else "it is not MPEG-4"


def _read(
    source: VideoSource, ids: Sequence[int], num_threads: int, probe: Probe | None
) -> Generator[CodecFrame]:
    del probe
    for decoded in decode(source, ids, DecodeOptions(num_threads)):
        if decoded.is_wanted:
            height, width = decoded.frame.height, decoded.frame.width
            blocks = map_shape(height, width, BLOCK_PX)
            yield assemble(
                source,
                decoded,
                motion=np.full((2, *blocks, 2), 4, np.int16),
                motion_ref=np.full((2, *blocks), -1, np.int16),
                residual_y=np.zeros((height, width), np.int16),
                block_px=BLOCK_PX,
            )


def test_a_registered_backend_is_chosen_by_name_and_by_auto(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Backend("ours", ("mpeg4",), EXACTNESS, _probe, _read)
    others = [one for one in backends.BACKENDS if one.name != "native"]
    monkeypatch.setattr(backends, "BACKENDS", (ours, *others))
    monkeypatch.setattr(backends, "BACKEND_NAMES", (*backends.BACKEND_NAMES, "ours"))
    frames = list(moving_square(6, 48, 64, (0, 2), square_px=16))
    clips = {
        codec: write_video(tmp_path / f"{codec}.mkv", frames, codec=codec)
        for codec in ("mpeg4", "mpeg2video")
    }
    for name in ("ours", "auto"):
        with open_video(clips["mpeg4"], backend=name) as video:
            (frame,) = video.frames([3])
        assert video.backend == "ours"
        assert frame.motion is not None
        assert (frame.motion == 4).all()
    with open_video(clips["mpeg2video"]) as video:
        assert video.backend == "pyav"


def test_every_backend_has_a_name_that_commands_accept() -> None:
    assert {one.name for one in backends.BACKENDS} <= set(backends.BACKEND_NAMES)
    assert backends.BACKEND_NAMES[0] == "auto"
