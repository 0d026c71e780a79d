"""Bad files end in an error of this package that names path and reason; never in a crash."""

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cv_reader import open_video
from cv_reader.errors import (
    CorruptVideoError,
    UnsupportedVideoError,
    VideoError,
    VideoNotFoundError,
)
from support.media import panning, write_video
from support.native.clips import Kind
from support.native.nal import parameter_set, units
from support.native.reading import differing_fields, read, read_until_error

pytestmark = pytest.mark.usefixtures("native_reader")
Clip = Callable[[str, Kind], Path]

KINDS = {
    "h264": Kind(codec="libx264", params="keyint=4:scenecut=0:bframes=1:crf=24"),
    "hevc": Kind(codec="libx265", params="keyint=4:min-keyint=4:bframes=1:crf=24"),
}


def _error(path: Path) -> VideoError:
    frames, error = read_until_error(path)
    assert isinstance(error, VideoError), (error, frames)
    assert error.path == str(path) and error.reason
    return error


def test_missing_file(tmp_path: Path) -> None:
    assert isinstance(_error(tmp_path / "none.mp4"), VideoNotFoundError)


def test_folder(tmp_path: Path) -> None:
    assert isinstance(_error(tmp_path), VideoNotFoundError)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    assert isinstance(_error(path), CorruptVideoError)


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("not a video\n" * 100, encoding="utf-8")
    assert isinstance(_error(path), UnsupportedVideoError)


def test_noise(tmp_path: Path) -> None:
    path = tmp_path / "noise.h264"
    path.write_bytes(np.random.default_rng(0).bytes(20000))
    _error(path)


def test_mp4_without_its_index(tmp_path: Path) -> None:
    data = write_video(tmp_path / "whole.mp4", panning(8, 64, 96)).read_bytes()
    path = tmp_path / "cut.mp4"
    index = data.index(b"moov") - 4
    path.write_bytes(data[: index + 200])
    _error(path)
    path.write_bytes(data[:index])
    assert isinstance(_error(path), CorruptVideoError)


@pytest.mark.parametrize("standard", KINDS)
def test_a_lost_tail_leaves_whole_frames(standard: str, clip: Clip, tmp_path: Path) -> None:
    whole = clip(f"bad-{standard}", KINDS[standard])
    data = whole.read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: len(data) * 2 // 3])
    frames, _ = read_until_error(path)
    assert 4 <= len(frames) < 14
    expected = read(whole)
    for frame in frames[:-2]:  # the cut may shorten the last picture and move its neighbour
        wrong = differing_fields(frame, expected[frame.index])
        assert set(wrong) <= {"duration_seconds"}, (frame, wrong)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("standard", KINDS)
def test_a_damaged_group_is_told_and_the_others_stand(
    standard: str, num_threads: int, clip: Clip, tmp_path: Path
) -> None:
    whole = clip(f"bad-{standard}", KINDS[standard])
    with open_video(whole, backend="native") as video:
        keys = np.flatnonzero(video.index.is_key).tolist()
    data = bytearray(whole.read_bytes())
    place = data.index(_packet_bytes(whole, keys[1])) + 12
    data[place : place + 60] = b"\xff" * 60
    path = tmp_path / "damaged.mkv"
    path.write_bytes(data)
    frames, error = read_until_error(path, num_threads=num_threads)
    expected = read(whole)
    told = error is not None
    for frame in frames:
        if frame.index < keys[1] - 1 or frame.index >= keys[2]:
            wrong = differing_fields(frame, expected[frame.index])
            assert not wrong, (frame, wrong)
    assert told or len(frames) == len(expected)
    if error is not None:
        assert isinstance(error, CorruptVideoError)
        assert str(len(expected) - len(frames)) in error.reason


def _packet_bytes(path: Path, frame: int) -> bytes:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    return bytes(sorted(packets, key=lambda packet: packet.pts)[frame])


@pytest.mark.parametrize("mark", [b"\x40\x01\x0c", b"\x42\x01\x01"], ids=str)
def test_broken_parameter_sets_are_told(mark: bytes, clip: Clip, tmp_path: Path) -> None:
    data = bytearray(clip("bad-hevc", KINDS["hevc"]).read_bytes())
    place = data.index(mark)  # in the container's header
    data[place - 2 : place + 2] = b"\xff" * 4  # the length of the unit, and its type
    path = tmp_path / "broken.mkv"
    path.write_bytes(data)
    frames, error = read_until_error(path)
    assert error is None or isinstance(error, VideoError)
    assert error is not None or len(frames) == 14


@pytest.mark.parametrize("suffix", ["h264", "mkv"])
def test_a_change_of_size_is_refused_by_name(suffix: str, tmp_path: Path) -> None:
    options = {"x264-params": "repeat-headers=1:bframes=0"}
    small = write_video(tmp_path / "small.h264", panning(6, 64, 96), options=options)
    large = write_video(tmp_path / "large.h264", panning(6, 96, 128), options=options)
    joined = tmp_path / "joined.h264"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    if suffix == "mkv":
        joined = _remuxed(joined, tmp_path / "joined.mkv")
    frames, error = read_until_error(joined)
    assert isinstance(error, UnsupportedVideoError), (error, len(frames))
    assert "96x64" in error.reason and "128x96" in error.reason
    assert len(frames) <= 6


def _remuxed(source: Path, target: Path) -> Path:
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0], opaque=True)
        stream.time_base = Fraction(1, 1000)
        for number, packet in enumerate(reader.demux(video=0)):
            if packet.size:
                packet.pts = packet.dts = number * 40
                packet.time_base = Fraction(1, 1000)
                packet.stream = stream
                writer.mux(packet)
    return target


@pytest.mark.parametrize("blocks", [(2000, 2000), (1100, 1), (60000, 60000)], ids=str)
def test_absurd_dimensions_are_refused(blocks: tuple[int, int], tmp_path: Path) -> None:
    options = {"x264-params": "repeat-headers=1:bframes=0:cabac=0:8x8dct=0"}
    sound = write_video(tmp_path / "sound.h264", panning(3, 64, 96), options=options)
    slices = [
        unit for unit in units(sound.read_bytes(), b"", "h264") if unit[0] & 0x1F in (1, 5, 8)
    ]
    path = tmp_path / "huge.h264"
    path.write_bytes(b"".join(b"\0\0\1" + unit for unit in [parameter_set(*blocks), *slices]))
    _error(path)


def test_encrypted_file(tmp_path: Path) -> None:
    encryption = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
        "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
    }
    path = write_video(tmp_path / "locked.mp4", panning(8, 64, 96), muxer_options=encryption)
    error = _error(path)
    assert isinstance(error, UnsupportedVideoError) and "encrypted" in error.reason


def test_sound_alone(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 4096), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert isinstance(_error(path), UnsupportedVideoError)


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video"])
def test_other_codecs_are_refused_by_name(codec: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", panning(6, 64, 96), codec=codec)
    frames, error = read_until_error(path)
    assert isinstance(error, UnsupportedVideoError), frames
    assert codec in error.reason


def test_a_file_that_vanishes_while_it_is_read(clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    shutil.copy(clip("bad-h264", KINDS["h264"]), path)
    with open_video(path, backend="native") as video:
        path.unlink()
        try:
            assert len(list(video.frames())) == 14
        except VideoNotFoundError as error:
            assert error.path == str(path)
