"""What headers say: parameters that change are noticed, and absurd sizes are refused."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from cv_reader import open_video, read_index
from cv_reader.backends import native
from cv_reader.errors import UnsupportedVideoError
from cv_reader.media.container_header import FLV, MP4, read_header
from cv_reader.media.index import scan
from support.joined import join_flv, join_mp4
from support.media import panning, write_video

PARAMETERS = {
    "libx264": ("x264-params", ["bframes=0:cabac=1", "bframes=0:cabac=0:ref=3"]),
    "libx265": ("x265-params", ["bframes=0:ctu=64", "bframes=0:ctu=16:max-tu-size=16:ref=3"]),
}
JOIN: dict[str, Callable[[Path, Path, Path], Path]] = {
    "flv": lambda first, second, target: join_flv(first, second, target, 240),
    "mp4": join_mp4,
}


def _clips(folder: Path, codec: str, suffix: str) -> list[Path]:
    name, settings = PARAMETERS[codec]
    return [
        write_video(
            folder / f"{number}.{suffix}",
            panning(6, 64, 96, seed=number),
            codec=codec,
            options={name: params},
        )
        for number, params in enumerate(settings)
    ]


def _luma(path: Path, backend: str, *, signals: bool) -> list[np.ndarray]:
    with open_video(path, backend=backend) as video:
        return [frame.luma() for frame in video.frames(signals=signals)]


@pytest.mark.parametrize("suffix", JOIN)
@pytest.mark.parametrize("codec", PARAMETERS)
def test_changes_are_noticed_and_pictures_are_right(
    codec: str, suffix: str, tmp_path: Path
) -> None:
    clips = _clips(tmp_path, codec, suffix)
    joined = JOIN[suffix](*clips, tmp_path / f"joined.{suffix}")
    assert scan(joined).changes_parameters
    assert not any(scan(clip).changes_parameters for clip in clips)
    expected = [luma for clip in clips for luma in _luma(clip, "estimated", signals=False)]
    for backend in ("auto", "estimated"):
        shown = _luma(joined, backend, signals=backend == "auto")
        assert all(map(np.array_equal, shown, expected)) and len(shown) == 12
    if native.is_installed():
        with pytest.raises(UnsupportedVideoError, match="parameters"):
            open_video(joined, backend="native")


@pytest.mark.parametrize("suffix", JOIN)
def test_the_same_parameters_again_are_no_change(suffix: str, tmp_path: Path) -> None:
    clip = _clips(tmp_path, "libx264", suffix)[0]
    joined = JOIN[suffix](clip, clip, tmp_path / f"joined.{suffix}")
    assert not scan(joined).changes_parameters


@pytest.mark.parametrize("length", [40, 200, 600])
def test_cut_headers_are_survived(length: int, tmp_path: Path) -> None:
    """The scan meets them only in files that FFmpeg opens; the search itself has no such luck."""
    for suffix, container in (("flv", FLV), ("mp4", MP4)):
        clip = _clips(tmp_path, "libx264", suffix)[0]
        data = clip.read_bytes()
        start = data.index(b"moov") - 4 if suffix == "mp4" else 0
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(data[start:][:length])
        facts = read_header(str(cut), container)
        assert not facts.is_encrypted and not facts.changes_parameters


def _box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def _nested(kinds: tuple[bytes, ...], content: bytes) -> bytes:
    for kind in reversed(kinds):
        content = _box(kind, content)
    return content


def test_a_large_index_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(_box(b"ftyp", b"isom\0\0\2\0") + (1 << 30).to_bytes(4, "big") + b"moov")
    os.truncate(path, 1 << 30)  # a sparse file
    begin = time.process_time()
    with pytest.raises(UnsupportedVideoError, match="moov.* of 1073741800 bytes exceeds"):
        read_index(path)
    assert time.process_time() - begin < 0.2


def test_frames_that_a_header_claims_are_bounded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", panning(3, 64, 96))
    data = bytearray(path.read_bytes())
    at = data.index(b"stsz") + 8
    data[at : at + 8] = (100).to_bytes(4, "big") + (1 << 31).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(UnsupportedVideoError, match="2147483648 frames .*16777216"):
        read_index(path)


def test_large_sample_descriptions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    kinds = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
    path.write_bytes(_nested(kinds, bytes(2 << 20)))
    with pytest.raises(UnsupportedVideoError, match="descriptions of 2097152 bytes .*1048576"):
        read_header(str(path), MP4)


def test_large_parameters_are_refused(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "plain.mkv", panning(3, 64, 96), codec="mpeg4")
    path = tmp_path / "clip.mkv"
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        video = source.streams.video[0]
        stream = target.add_stream_from_template(video)
        stream.codec_context.extradata = bytes(2 << 20)
        for packet in source.demux(video):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    with pytest.raises(UnsupportedVideoError, match="parameters of 2097152 bytes .*1048576"):
        read_index(path)


@pytest.mark.parametrize("kinds", [(), (b"moov",), (b"moov", b"trak", b"mdia")])
def test_many_boxes_cost_little(kinds: tuple[bytes, ...], tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(_nested(kinds, _box(b"free", b"") * 500_000))
    begin = time.process_time()
    read_header(str(path), MP4)
    assert time.process_time() - begin < 1
