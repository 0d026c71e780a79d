"""Native frames are those that the container shows: cuts, offsets, edits, the first of streams."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cv_reader import open_video
from cv_reader.media.frames import CodecFrame
from support.media import set_mp4_edit_start, write_video
from support.native.clips import FILTERED, UNFILTERED, Kind, make, wandering
from support.native.reading import MAPS, read
from support.native.stock import decoded_luma

pytestmark = pytest.mark.usefixtures("native_reader")
Clip = Callable[[str, Kind], Path]

OPEN = {name: UNFILTERED[name] for name in ("h264-open-gop", "hevc-open-gop")}

_DELAY_MS = 1000
"""Lets decoding times, which Matroska does not keep, precede all presentation times."""


def _wrong_maps(first: CodecFrame, second: CodecFrame) -> list[str]:
    wrong = [
        name for name in MAPS if not np.array_equal(getattr(first, name), getattr(second, name))
    ]
    return wrong if np.array_equal(first.luma(), second.luma()) else [*wrong, "luma"]


@pytest.mark.parametrize("name", OPEN)
def test_leading_pictures_of_a_cut_stream_are_dropped(
    name: str, clip: Clip, tmp_path: Path
) -> None:
    """Cut before the second key frame, whose leading pictures refer to what is gone."""
    whole = clip(name, OPEN[name])
    with open_video(whole, backend="native") as video:
        second_key = int(np.flatnonzero(video.index.is_key)[1])
    cut = _from_second_key(whole, tmp_path / "cut.mkv")
    frames, expected = read(cut), read(whole)[second_key:]
    assert len(frames) == len(expected)
    with av.open(str(cut)) as container:
        packets = sum(bool(packet.size) for packet in container.demux(video=0))
    assert packets > len(frames), "the cut left no leading picture"
    for frame, other in zip(frames, expected, strict=True):
        assert not _wrong_maps(frame, other), frame
    last = len(frames) - 1
    assert not _wrong_maps(read(cut, [last])[0], expected[last])


def _from_second_key(source: Path, target: Path) -> Path:
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0], opaque=True)
        keys = 0
        for number, packet in enumerate(reader.demux(video=0)):
            keys += packet.is_keyframe and packet.size > 0
            if packet.size and keys > 1:
                packet.stream = stream
                packet.pts, packet.dts = packet.pts + _DELAY_MS, number
                writer.mux(packet)
    return target


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_frames_behind_an_edit_keep_their_maps(codec: str, tmp_path: Path) -> None:
    kind = Kind(codec=codec, params="bframes=2:crf=28")
    whole = make(kind, tmp_path / "whole.mp4")
    edited = tmp_path / "edited.mp4"
    edited.write_bytes(whole.read_bytes())
    set_mp4_edit_start(edited, 5 * 512 + 1024)
    frames, expected = read(edited), read(whole)
    assert 0 < len(frames) < len(expected)
    gone = len(expected) - len(frames)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    for frame in frames:
        assert not _wrong_maps(frame, expected[frame.index + gone]), frame
    assert not _wrong_maps(read(edited, [3])[0], expected[3 + gone])
    with av.open(str(edited)) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(frames)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_start_offset_moves_times_alone(suffix: str, tmp_path: Path) -> None:
    plain = write_video(tmp_path / f"plain.{suffix}", wandering(8))
    late = write_video(tmp_path / f"late.{suffix}", wandering(8), pts=range(75, 83))
    for frame, other in zip(read(late), read(plain), strict=True):
        assert frame.index == other.index
        assert not _wrong_maps(frame, other), frame


def test_the_first_of_several_video_streams_is_read(tmp_path: Path) -> None:
    kinds = (FILTERED["h264-filtered"], FILTERED["hevc-filtered"])
    clips = [
        make(kind, tmp_path / f"{number}.mkv", num_frames=8) for number, kind in enumerate(kinds)
    ]
    for order in (clips, clips[::-1]):
        both = _side_by_side(order, tmp_path / "both.mkv")
        assert len(av.open(str(both)).streams.video) == 2
        frames, expected = read(both), read(order[0])
        assert all(map(np.array_equal, (f.luma() for f in frames), decoded_luma(order[0])))
        for frame, other in zip(frames, expected, strict=True):
            assert not _wrong_maps(frame, other), frame
        assert not _wrong_maps(read(both, [6])[0], expected[6])


def _side_by_side(sources: list[Path], target: Path) -> Path:
    """Packets of two sources by turns, each in a stream of its own."""
    with (
        av.open(str(target), "w") as writer,
        av.open(str(sources[0])) as first,
        av.open(str(sources[1])) as second,
    ):
        readers = [container.demux(video=0) for container in (first, second)]
        streams = [
            writer.add_stream_from_template(container.streams.video[0], opaque=True)
            for container in (first, second)
        ]
        for packets in zip(*readers, strict=True):
            for packet, stream in zip(packets, streams, strict=True):
                if packet.size:
                    packet.stream = stream
                    writer.mux(packet)
    return target


def test_variable_times_survive_sparse_reading(tmp_path: Path) -> None:
    pts = [0, 10, 15, 40, 41, 90, 100, 130, 131, 160]
    path = write_video(tmp_path / "vfr.mkv", wandering(10), pts=pts, time_base=Fraction(1, 1000))
    full = read(path)
    for number in (3, 9):
        (frame,) = read(path, [number])
        assert frame.pts_seconds == full[number].pts_seconds == pts[number] / 1000
        assert not _wrong_maps(frame, full[number])
