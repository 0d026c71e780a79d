"""Of several video streams the one is read that players show: FFmpeg's best, covers left out."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from cv_reader import open_video
from cv_reader.backends import native
from support.media import moving_square, write_video

BACKENDS = ["pyav", "estimated", *(["native"] if native.is_installed() else [])]
DEFAULT, COVER, NONE = Disposition.default, Disposition.attached_pic, Disposition(0)
DESCRIBED = Disposition.default | Disposition.visual_impaired


def _mux(path: Path, sources: list[tuple[Path, Disposition]]) -> Path:
    """Join the video streams of several files, with their dispositions, in order of time."""
    inputs = [av.open(str(source)) for source, _ in sources]
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as out:
        targets = [
            out.add_stream_from_template(opened.streams.video[0], opaque=True) for opened in inputs
        ]
        for target, (_, disposition) in zip(targets, sources, strict=True):
            target.disposition = disposition.value
        packets = []
        for opened, target in zip(inputs, targets, strict=True):
            for packet in opened.demux(opened.streams.video[0]):
                if packet.size:
                    packet.stream = target
                    packets.append(packet)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    for opened in inputs:
        opened.close()
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    cover = folder / "cover.mp4"
    write_video(cover, moving_square(1, 32, 32), codec="mjpeg", pixel_format="yuvj420p")
    return {
        "small": write_video(folder / "small.mp4", moving_square(30, 48, 64)),
        "large": write_video(folder / "large.mp4", moving_square(30, 96, 128)),
        "cover": cover,
    }


PAIRS = [
    ([("small", NONE), ("large", DEFAULT)], 128, 1),
    ([("large", NONE), ("small", DEFAULT)], 64, 1),
    ([("small", DEFAULT), ("large", NONE)], 64, 0),
]
# Matroska alone marks streams for the blind, MP4 alone has covers among its streams.
MATROSKA = [*PAIRS, ([("large", DESCRIBED), ("small", DEFAULT)], 64, 1)]
MP4 = [
    *PAIRS,
    # The writer moves covers behind the tracks; the sources are named in the file's order here.
    ([("cover", COVER), ("large", NONE)], 128, 0),
    ([("small", DEFAULT), ("cover", COVER)], 64, 0),
]


@pytest.mark.parametrize(
    ("suffix", "sources", "width", "stream"),
    [*(("mkv", *case) for case in MATROSKA), *(("mp4", *case) for case in MP4)],
)
def test_the_default_stream_is_read_and_never_a_cover(
    clips: dict[str, Path],
    suffix: str,
    sources: list[tuple[str, Disposition]],
    width: int,
    stream: int,
    tmp_path: Path,
) -> None:
    named = [(clips[name], flags) for name, flags in sources]
    path = _mux(tmp_path / f"clip.{suffix}", named)
    main = clips["large" if width == 128 else "small"]
    for backend in BACKENDS:
        with open_video(path, backend=backend) as video, open_video(main, backend=backend) as plain:
            assert (video.index.width_px, video.index.num_frames) == (width, 30)
            assert video.index.shown["stream"] == stream
            for number in (0, 17, 29):
                pair = [next(opened.frames([number])).luma() for opened in (video, plain)]
                np.testing.assert_array_equal(*pair)


def test_of_equal_streams_of_a_broadcast_the_first_is_read(
    clips: dict[str, Path], tmp_path: Path
) -> None:
    path = _mux(tmp_path / "clip.ts", [(clips["small"], NONE), (clips["large"], NONE)])
    with open_video(path) as video:
        found = video.index.width_px
    with av.open(str(path)) as container:
        best = container.streams.best("video")
        assert best is not None
        assert found == {0: 64, 1: 128}[best.index]
