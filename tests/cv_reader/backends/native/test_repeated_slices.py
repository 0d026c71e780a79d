"""Slices that a broken stream repeats are decoded each time, into the same maps."""

from pathlib import Path

import av
import numpy as np
import pytest

from support.media import panning, write_video
from support.native import nal

pytestmark = pytest.mark.usefixtures("native_reader")

TIMES = 40
LENGTH_BYTES = 4


def _repeated(packet: bytes, extradata: bytes, times: int) -> bytes:
    """A packet with each slice but the first ``times`` times."""
    seen, data = 0, b""
    for unit in nal.units(packet, extradata, "h264"):
        is_slice = nal.is_slice(unit, "h264")
        framed = len(unit).to_bytes(LENGTH_BYTES, "big") + unit
        data += framed * (times if is_slice and seen else 1)
        seen += is_slice
    return data


def test_maps_stay_within_their_bounds(tmp_path: Path) -> None:
    from cv_reader_native import Decoder, Picture

    options = {"x264-params": "slices=3:bframes=3:partitions=all:crf=20"}
    path = write_video(tmp_path / "clip.mp4", panning(8, 192, 160), options=options)
    with av.open(str(path)) as container:
        extradata = bytes(container.streams.video[0].codec_context.extradata or b"")
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]

    def decoded(times: int) -> list[Picture]:
        decoder = Decoder("h264", extradata, num_reordered=2)
        pictures: list[Picture] = []
        for number, packet in enumerate(packets):
            pictures += decoder.decode(_repeated(packet, extradata, times), number)
        return pictures + decoder.finish()

    once, often = decoded(1), decoded(TIMES)
    assert len(once) == len(often) == 8
    for name in ("motion", "distance", "residual", "qp"):
        for first, second in zip(once, often, strict=True):
            maps = [np.frombuffer(picture.map(name), np.uint8) for picture in (first, second)]
            assert np.array_equal(*maps), (name, first.picture_id)
