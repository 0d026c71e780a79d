"""A damaged or lost packet takes away the frames that are made from it, and no others.

The frames that it must take away are found from the motion of the sound clip: those that refer to a
lost one, to one that refers to it, and so on.
"""

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cv_reader import open_video
from cv_reader.media.frames import CodecFrame
from support.native.clips import Kind
from support.native.reading import differing_fields, read, read_until_error

pytestmark = pytest.mark.usefixtures("native_reader")
Clip = Callable[[str, Kind], Path]

KINDS = {
    "h264-p": Kind(codec="libx264", params="bframes=0:ref=1:keyint=7:scenecut=0:crf=24"),
    "h264-b": Kind(codec="libx264", params="bframes=3:b-adapt=0:keyint=14:scenecut=0:crf=24"),
    "h264-cavlc": Kind(codec="libx264", params="cabac=0:bframes=0:ref=2:keyint=7:crf=24"),
    "hevc-p": Kind(codec="libx265", params="bframes=0:ref=1:keyint=7:no-scenecut=1:crf=26"),
    "hevc-b": Kind(codec="libx265", params="bframes=3:b-adapt=0:keyint=14:crf=26"),
}


def _dependents(frames: list[CodecFrame], lost: Iterable[int]) -> set[int]:
    """Numbers of the lost frames and of all that are made from them."""
    found = set(lost)
    while True:
        grown = found | {frame.index for frame in frames if _references(frame) & found}
        if grown == found:
            return found
        found = grown


def _references(frame: CodecFrame) -> set[int]:
    assert frame.motion_ref is not None
    return {frame.index + int(step) for step in np.unique(frame.motion_ref) if step}


def _packets(path: Path) -> list[bytes]:
    """In presentation order."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    return [bytes(packet) for packet in sorted(packets, key=lambda packet: packet.pts or 0)]


def _flipped(whole: Path, frame: int, target: Path) -> Path:
    """The file with some bits of one packet changed, behind its slice header."""
    packet, data = _packets(whole)[frame], bytearray(whole.read_bytes())
    middle = data.index(packet) + len(packet) // 2
    data[middle : middle + 4] = bytes(value ^ 0x5A for value in data[middle : middle + 4])
    target.write_bytes(data)
    return target


def _without(whole: Path, frame: int, target: Path) -> Path:
    """The file without one packet."""
    left_out = _packets(whole)[frame]
    with av.open(str(whole)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0], opaque=True)
        stream.time_base = Fraction(1, 1000)
        for packet in reader.demux(video=0):
            if packet.size and bytes(packet) != left_out:
                packet.stream = stream
                writer.mux(packet)
    return target


def _check(expected: list[CodecFrame], path: Path, lost: set[int], num_threads: int) -> None:
    frames, error = read_until_error(path, num_threads=num_threads)
    assert {frame.index for frame in frames} == {frame.index for frame in expected} - lost
    assert error is not None and f"{len(lost)} of {len(expected)}" in str(error)
    for frame in frames:
        assert not differing_fields(frame, expected[frame.index]), frame


@pytest.mark.parametrize("num_threads", [1, 2, 4])
@pytest.mark.parametrize("name", KINDS)
def test_damage_takes_away_what_is_made_from_it(
    name: str, num_threads: int, clip: Clip, tmp_path: Path
) -> None:
    whole = clip(f"damage-{name}", KINDS[name])
    expected = read(whole)
    for number in (2, 4, 9):
        path = _flipped(whole, number, tmp_path / f"{number}.mkv")
        _check(expected, path, _dependents(expected, {number}), num_threads)


def test_it_ends_at_the_next_key_frame_at_the_latest(clip: Clip) -> None:
    frames = read(clip("damage-h264-p", KINDS["h264-p"]))
    assert _dependents(frames, {2}) == {2, 3, 4, 5, 6}


def test_a_picture_that_nothing_refers_to_takes_no_other_away(clip: Clip) -> None:
    for name in ("h264-b", "hevc-b"):
        frames = read(clip(f"damage-{name}", KINDS[name]))
        assert [_dependents(frames, {number}) for number in range(14)].count({1}) == 1


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("name", ["h264-p", "hevc-p"])
def test_a_packet_that_is_not_there_takes_away_the_rest_of_its_group(
    name: str, num_threads: int, clip: Clip, tmp_path: Path
) -> None:
    path = _without(clip(f"damage-{name}", KINDS[name]), 3, tmp_path / "gap.mkv")
    frames, error = read_until_error(path, num_threads=num_threads)
    assert [frame.index for frame in frames] == [0, 1, 2, *range(6, 13)]
    assert error is not None and "3 of 13" in str(error)


@pytest.mark.parametrize("name", ["h264-b", "hevc-b"])
def test_sparse_access_tells_the_same(name: str, clip: Clip, tmp_path: Path) -> None:
    """Pictures that were not requested are judged too, though they have no maps."""
    whole = clip(f"damage-{name}", KINDS[name])
    expected = read(whole)
    path = _flipped(whole, 4, tmp_path / "damaged.mkv")
    sound = set(range(14)) - _dependents(expected, {4})
    for number in range(14):
        with open_video(path, backend="native") as video:
            try:
                given = [frame.index for frame in video.frames([number])]
            except ValueError:
                given = []
        assert given == ([number] if number in sound else []), number
