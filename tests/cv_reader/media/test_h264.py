"""Reading off H.264 packets whether other pictures refer to them."""

from pathlib import Path

import av
import pytest

from cv_reader.media.h264 import is_reference, length_size
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
    assert (size is None) == (suffix in ("h264", "ts"))
    flags = [is_reference(packet, size) for packet in packets]
    # One key picture, then groups of one P picture and two B pictures.
    assert flags.count(False) == 4 * unused
    assert flags[:2] == [True, True]


def test_packets_without_a_slice_count_as_referred_to() -> None:
    assert is_reference(b"", None)
    assert is_reference(b"\x00\x00\x01\x09\x10", None)
    assert is_reference(b"\x00\x00\x00\x02\x09\x10", 4)
    assert not is_reference(b"\x00\x00\x00\x02\x09\x10\x00\x00\x00\x02\x01\x80", 4)


def test_extradata_without_a_record() -> None:
    assert length_size(None) is None
    assert length_size(b"\x00\x00\x00\x01\x67\x00\x00\x00") is None
    assert length_size(bytes([1, 100, 0, 10, 0xFD, 0xE1, 0])) == 2
