"""Second fields are told from pictures of their own, in streams of every layout of headers."""

from pathlib import Path

import av
import numpy as np
import pytest

from cv_reader import open_video, read_index
from cv_reader.media.h264 import FieldReader
from support.media import panning, write_video
from support.native.h264_writer import H264Stream, write

LAYOUTS = {
    "frames": ("yuv420p", "bframes=2:cqm=jvt"),
    "baseline": ("yuv420p", "bframes=0:cabac=0:8x8dct=0"),
    "pairs of macroblocks": ("yuv420p", "tff=1:bframes=2:cqm=jvt"),
    "frames said to be interlaced": ("yuv420p", "fake-interlaced=1:bframes=2"),
    "4:4:4": ("yuv444p", "tff=1:cqm=jvt"),
    "deep": ("yuv422p10le", "tff=1:bframes=1"),
}


def _packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("name", LAYOUTS)
def test_frames_are_no_second_fields(name: str, tmp_path: Path) -> None:
    pixel_format, params = LAYOUTS[name]
    path = write_video(
        tmp_path / "clip.h264",
        panning(8, 64, 96),
        pixel_format=pixel_format,
        options={"x264-params": f"repeat-headers=1:{params}"},
    )
    fields = FieldReader(None)
    assert not any(map(fields.is_second, _packets(path))) and not fields.seen
    assert read_index(path).num_frames == 8


def test_second_fields_are_found(tmp_path: Path) -> None:
    stream = H264Stream(fields=frozenset({1, 3, 4}))
    path = tmp_path / "clip.h264"
    path.write_bytes(write(stream))
    packets, fields = _packets(path), FieldReader(None)
    expected = [
        second
        for number in range(stream.num_pictures)
        for second in ((False, True) if number in stream.fields else (False,))
    ]
    assert [fields.is_second(packet) for packet in packets] == expected
    assert fields.seen
    with open_video(path, backend="estimated") as video:
        assert len(list(video.frames())) == stream.num_pictures


def test_damage_makes_no_second_fields(tmp_path: Path) -> None:
    path = tmp_path / "clip.h264"
    path.write_bytes(write(H264Stream(fields=frozenset({1, 3, 4}))))
    packets = _packets(path)
    generator = np.random.default_rng(0)
    fields = FieldReader(None)
    for _ in range(300):
        packet = bytearray(packets[generator.integers(len(packets))][:60])
        packet[generator.integers(4, len(packet))] = generator.integers(256)
        fields.is_second(bytes(packet[: generator.integers(len(packet))]))
    assert not fields.is_second(b"") and not fields.is_second(b"\0\0\1")
