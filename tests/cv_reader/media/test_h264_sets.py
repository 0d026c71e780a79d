"""Parameter sets: what they say of how pictures are shown, and what hostile ones cost."""

import time
from pathlib import Path

import av
import pytest

from cv_reader.media.h264 import FieldReader, ShownBySequence, shown_by_record
from cv_reader.media.headers import header_reader
from support.media import panning, write_video
from support.native.bits import Bits

SAYS = {
    "crf=30": ShownBySequence(matrix=2, color_range=0),
    "sar=16/11": ShownBySequence(sample_aspect=(16, 11)),
    "sar=777/1000": ShownBySequence(sample_aspect=(777, 1000)),
    "sar=4/3:colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc": ShownBySequence(
        (4, 3), color_range=1, primaries=9, transfer=18, matrix=9
    ),
    "cqm=jvt:tff=1:colormatrix=smpte240m": ShownBySequence((0, 1), 1, 2, 2, 7),
}


def _record(path: Path, params: str, pixel_format: str = "yuv420p") -> bytes:
    options = {"x264-params": params}
    write_video(path, panning(2, 64, 96), options=options, pixel_format=pixel_format)
    with av.open(str(path)) as container:
        return bytes(container.streams.video[0].codec_context.extradata or b"")


@pytest.mark.parametrize("params", SAYS)
def test_sequence_sets_say_how_pictures_are_shown(params: str, tmp_path: Path) -> None:
    for pixel_format in ("yuv420p", "yuv444p10le"):
        record = _record(tmp_path / f"{pixel_format}.mp4", params, pixel_format)
        found = shown_by_record(record)
        assert found is not None
        # The encoder writes square samples where it was told nothing.
        aspect = (0, 1) if found.sample_aspect == (1, 1) else found.sample_aspect
        assert found._replace(sample_aspect=aspect) == SAYS[params]


def test_full_range_is_said(tmp_path: Path) -> None:
    found = shown_by_record(_record(tmp_path / "clip.mp4", "crf=30", "yuvj420p"))
    assert found is not None and found.color_range == 2


def test_records_without_one_answer_give_none(tmp_path: Path) -> None:
    one = _record(tmp_path / "one.mp4", "sar=4/3")
    assert shown_by_record(None) is None and shown_by_record(b"") is None
    for length in range(7, len(one) - 1, 3):
        shown_by_record(one[:length])
    assert shown_by_record(one[:16]) is None


def _set_of_ones(num_bytes: int) -> bytes:
    """A sequence set that announces 2^31 - 1 numbers of one bit."""
    bits = Bits().u(0x42, 8).u(0, 16).ue(0, 0, 1).u(0).ue(0, 0, (1 << 31) - 2).align()
    return b"\0\0\1\x67" + bits.bytes() + b"\xff" * num_bytes


@pytest.mark.parametrize(
    "packet",
    [_set_of_ones(1 << 20), _set_of_ones(20) * (1 << 15), b"\0\0\1\x67\x42" * (1 << 18)],
    ids=["one large set", "many small sets", "many tiny sets"],
)
def test_a_packet_of_parameter_sets_costs_little(packet: bytes) -> None:
    begin = time.process_time()
    FieldReader(None).is_second(packet)
    assert time.process_time() - begin < 0.5


def test_a_packet_of_tiny_hevc_units_costs_little() -> None:
    packet = b"\0\0\1\x40\x01" * (1 << 17)
    begin = time.process_time()
    header_reader("hevc", None)(memoryview(packet))
    assert time.process_time() - begin < 0.5
