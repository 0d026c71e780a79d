"""What packet headers say, against real encoders and packets written by hand."""

from pathlib import Path

import av
import pytest

from cv_reader.media.h264 import length_size
from cv_reader.media.headers import NO_PICTURE, header_reader
from support.media import moving_square, write_video


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "h264", "ts"])
@pytest.mark.parametrize(("pyramid", "unused"), [("none", 2), ("normal", 1)])
def test_b_pictures_of_a_real_encoder(
    tmp_path: Path, suffix: str, pyramid: str, unused: int
) -> None:
    path = write_video(
        tmp_path / f"clip.{suffix}",
        moving_square(13, 64, 96),
        options={"bf": "2", "x264-params": f"b-pyramid={pyramid}:b-adapt=0:scenecut=0"},
    )
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
        size = length_size(stream.codec_context.extradata)
        read = header_reader("h264", stream.codec_context.extradata)
    assert (size is None) == (suffix in ("h264", "ts"))
    facts = [read(memoryview(packet)) for packet in packets]
    # One key picture, then groups of one P picture and two B pictures.
    assert [fact.is_b for fact in facts] == [False, *(number % 3 > 0 for number in range(12))]
    assert [fact.unit_type for fact in facts] == [5] + [1] * 12
    assert [fact.reference for fact in facts].count(0) == 4 * unused
    assert [fact.reference for fact in facts[:2]] == [1, 1]


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video", "mpeg1video"])
def test_b_pictures_of_older_formats(tmp_path: Path, codec: str) -> None:
    options = {"bf": "2", "g": "12", "sc_threshold": "1000000000"}
    path = write_video(
        tmp_path / "clip.mkv", moving_square(13, 64, 96), codec=codec, options=options
    )
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    read = header_reader(codec, None)
    assert [read(memoryview(packet)).is_b for packet in packets] == [
        False, *(number % 3 > 0 for number in range(12))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("packet", "extradata", "expected"),
    [
        (b"", b"", (1, 0)),
        (b"\x00\x00\x01\x09\x10", b"", (1, NO_PICTURE)),
        (b"\x00\x00\x00\x02\x09\x10", bytes([1, 100, 0, 10, 3, 0, 0]), (1, NO_PICTURE)),
        (bytes(20), b"", (1, 0)),  # damaged
        (bytes(20), bytes([1, 100, 0, 10, 3, 0, 0]), (1, 0)),
        (
            b"\x00\x00\x00\x02\x09\x10\x00\x00\x00\x02\x01\x80",
            bytes([1, 100, 0, 10, 3, 0, 0]),
            (0, 1),
        ),
    ],
)
def test_h264_packets_without_a_picture(
    packet: bytes, extradata: bytes, expected: tuple[int, int]
) -> None:
    facts = header_reader("h264", extradata)(memoryview(packet))
    assert (facts.reference, facts.unit_type) == expected


def test_extradata_without_a_record() -> None:
    assert length_size(None) is None
    assert length_size(b"\x00\x00\x00\x01\x67\x00\x00\x00") is None
    assert length_size(bytes([1, 100, 0, 10, 0xFD, 0xE1, 0])) == 2
