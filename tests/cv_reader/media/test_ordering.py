"""Order, number and times of frames where containers say other than the streams they hold.

The oracle is the stream before it was remuxed, cut or joined, decoded by PyAV alone.
"""

from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cv_reader import open_video
from cv_reader.errors import CorruptVideoError, UnsupportedVideoError
from cv_reader.media import ordering
from cv_reader.media.index import scan
from support.media import moving_square, panning, write_video
from support.tolerances import SECONDS

CODECS = {
    "libx264": {"g": "10", "bf": "3"},
    "libx265": {"x265-params": "keyint=10:min-keyint=10:bframes=3:open-gop=0"},
    "mpeg4": {"g": "10", "bf": "2"},
    "mpeg2video": {"g": "10", "bf": "2"},
}
FRAMES = 24
NUM_PACKED = 25


def _write(path: Path, codec: str = "libx264", *, num_frames: int = FRAMES, **options: Any) -> Path:
    chosen = {name.replace("_", "-"): value for name, value in options.items()}
    return write_video(
        path,
        moving_square(num_frames, 64, 96),
        codec=codec,
        options={**CODECS[codec], **chosen},
    )


def _lumas(path: Path) -> list[bytes]:
    """Luma of every picture, in the order in which PyAV alone gives them."""
    lumas: list[bytes] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            lumas.append(frame.to_ndarray(format="yuv420p")[: frame.height].tobytes())
    return lumas


def _read(path: Path, ids: Iterable[int] | None = None, *, signals: bool = True) -> list[bytes]:
    with open_video(path) as video:
        frames = list(video.frames(ids, signals=signals))
    assert [frame.index for frame in frames] == (
        list(range(len(frames))) if ids is None else list(ids)
    )
    return [frame.luma().tobytes() for frame in frames]


def _remux(
    source: Path, target: Path, change: Callable[[list[av.Packet]], Iterable[av.Packet]]
) -> Path:
    """Copy the packets of a file, changed, into another container."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0], opaque=True)
        packets = [packet for packet in reader.demux(video=0) if packet.size]
        for packet in change(packets):
            packet.stream = stream
            writer.mux(packet)
    return target


def _pts(packet: av.Packet) -> int:
    assert packet.pts is not None
    return packet.pts


def _with_decoding_times(packets: list[av.Packet]) -> Iterable[av.Packet]:
    step = min(abs(_pts(a) - _pts(b)) for a, b in zip(packets, packets[1:], strict=False))
    for number, packet in enumerate(packets):
        packet.pts = packet.dts = number * step
        yield packet


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("codec", CODECS)
def test_decoding_times_are_not_taken_for_presentation_times(
    tmp_path: Path, codec: str, suffix: str
) -> None:
    """What ``ffmpeg -c copy`` makes of AVI and raw streams: pts = dts, with B pictures."""
    good = _write(tmp_path / "good.mkv", codec)
    path = _remux(good, tmp_path / f"copied.{suffix}", _with_decoding_times)
    expected = _lumas(good)
    assert _read(path) == expected
    assert _read(path, [1, 8, 17, 22]) == [expected[number] for number in (1, 8, 17, 22)]
    assert _read(path, signals=False) == expected
    with open_video(path) as video, open_video(good) as other:
        assert video.exactness["pts"] == "approximate"
        assert other.exactness["pts"] == "exact"
        for frame, same in zip(video.frames(), other.frames(), strict=True):
            np.testing.assert_array_equal(frame.motion_ref, same.motion_ref)
        np.testing.assert_allclose(np.diff(video.index.pts_seconds), 1 / 25, atol=2e-3)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bf": "0"}),
        ("libx264", {"bf": "3", "x264_params": "b-pyramid=normal"}),
        ("libx265", {}),
        ("libx265", {"x265_params": "bframes=0"}),
        ("mpeg4", {"bf": "0"}),
        ("mpeg2video", {}),
    ],
)
def test_ordinary_streams_are_not_decoded_for_their_order(
    tmp_path: Path, codec: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the stream was decoded to find its order")

    path = _write(tmp_path / "clip.mkv", codec, **options)
    monkeypatch.setattr(ordering, "_decode", refuse)
    with open_video(path) as video:
        assert video.exactness["pts"] == "exact"


@pytest.mark.parametrize(
    ("suffix", "exactness"), [("mp4", "exact"), ("avi", "approximate"), ("h264", "estimated")]
)
def test_times_say_how_exact_they_are(tmp_path: Path, suffix: str, exactness: str) -> None:
    path = _write(tmp_path / f"clip.{suffix}")
    with open_video(path) as video:
        assert video.exactness["pts"] == video.index.pts_exactness == exactness
        np.testing.assert_allclose(np.diff(video.index.pts_seconds), 1 / 25, atol=SECONDS)


def _packed(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """Put each first B picture behind the picture that it follows, as Xvid and DivX do; the place
    of the last one is held by a picture that says that nothing is new."""
    datas = [bytes(packet) for packet in packets]
    at = datas[0].index(b"\0\0\1\xb6")
    datas[0] = datas[0][:at] + b"\0\0\1\xb2DivX503b1393p" + datas[0][at:]
    is_b = [data[data.index(b"\0\0\1\xb6") + 4] >> 6 == 2 for data in datas] + [False]
    # Start code, P picture, time 0 (5 bits at 25 frames a second), not coded, stuffing.
    nothing_new = b"\0\0\1\xb6\x50\x4f"
    written: list[bytes] = []
    for row, data in enumerate(datas):
        if is_b[row]:
            written.append(datas[row + 1] if is_b[row + 1] else nothing_new)
        else:
            written.append(data + datas[row + 1] if is_b[row + 1] else data)
    for number, data in enumerate(written):
        packet = av.Packet(data)
        packet.pts = packet.dts = number
        packet.time_base = packets[0].time_base
        packet.is_keyframe = packets[number].is_keyframe
        yield packet


@pytest.mark.parametrize("num_b", ["1", "2"])
@pytest.mark.parametrize("is_still", [False, True])
def test_packed_pictures_get_packets_of_their_own(
    tmp_path: Path, num_b: str, is_still: bool
) -> None:
    frames = (
        [next(moving_square(1, 64, 96))] * NUM_PACKED if is_still else panning(NUM_PACKED, 64, 96)
    )
    plain = write_video(
        tmp_path / "plain.avi",
        frames,
        codec="mpeg4",
        options={"g": "8", "bf": num_b, "b_strategy": "0", "sc_threshold": "1000000000"},
    )
    path = _remux(plain, tmp_path / "packed.avi", _packed)
    with av.open(str(path)) as container:
        assert any(bytes(packet).count(b"\0\0\1\xb6") > 1 for packet in container.demux(video=0))
    expected = _lumas(plain)
    assert len(expected) == NUM_PACKED
    assert _read(path) == expected
    ids = [0, 3, 6, 9, 12, 15, 18, 21, 24]
    assert _read(path, ids, signals=False) == [expected[number] for number in ids]


def _from_packet(number: int) -> Callable[[list[av.Packet]], Iterable[av.Packet]]:
    return lambda packets: packets[number:]


def _from_second_key(packets: list[av.Packet]) -> Iterable[av.Packet]:
    first = [number for number, packet in enumerate(packets) if packet.is_keyframe][1]
    return packets[first:]


OPEN_GROUPS: dict[str, dict[str, Any]] = {
    "libx264": {
        "x264_params": "open-gop=1:keyint=10:bframes=3:b-adapt=0:scenecut=0:repeat-headers=1"
    },
    "libx265": {"x265_params": "open-gop=1:keyint=10:bframes=3:b-adapt=0:repeat-headers=1"},
    "mpeg2video": {},
}


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("libx264", "h264"),
        ("libx264", "ts"),
        ("libx265", "hevc"),
        ("libx265", "ts"),
        ("mpeg2video", "ts"),
        ("mpeg2video", "m2v"),
    ],
)
def test_leading_pictures_of_a_cut_stream_are_no_frames(
    tmp_path: Path, codec: str, suffix: str
) -> None:
    whole = _write(tmp_path / "whole.ts", codec, **OPEN_GROUPS[codec])
    path = _remux(whole, tmp_path / f"cut.{suffix}", _from_second_key)
    num_packets = scan(path).packets.rank.size
    expected = _lumas(path)
    assert expected == _lumas(whole)[-len(expected) :]
    assert len(expected) < num_packets
    assert _read(path) == expected
    assert _read(path, [0, len(expected) - 1]) == [expected[0], expected[-1]]


def test_leading_pictures_that_can_be_decoded_are_frames(tmp_path: Path) -> None:
    options: dict[str, Any] = {"x265_params": "keyint=10:bframes=3:radl=2:open-gop=0:b-adapt=0"}
    path = _write(tmp_path / "clip.mkv", "libx265", **options)
    expected = _lumas(path)
    assert len(expected) == FRAMES
    assert _read(path) == expected


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_recordings_that_start_between_key_pictures(tmp_path: Path, codec: str) -> None:
    """With a group between frame 0 and the next frame that is read."""
    options = {
        "libx264": {"x264_params": "repeat-headers=1"},
        "libx265": {"x265_params": "keyint=10:bframes=3:open-gop=0:repeat-headers=1"},
    }
    whole = _write(tmp_path / "whole.ts", codec, num_frames=60, **options[codec])
    path = _remux(whole, tmp_path / "cut.ts", _from_packet(4))
    expected = _lumas(path)
    with open_video(path) as video:
        assert video.index.num_frames == len(expected)
    assert _read(path) == expected
    last = len(expected) - 1
    assert _read(path, [0, 30, last]) == [expected[number] for number in (0, 30, last)]
    assert _read(path, [0, last], signals=False) == [expected[0], expected[last]]


def test_intra_refresh_joined_midway(tmp_path: Path) -> None:
    options = {"bf": "0", "x264_params": "intra-refresh=1:keyint=12:repeat-headers=1"}
    whole = _write(tmp_path / "whole.ts", num_frames=50, **options)
    path = _remux(whole, tmp_path / "cut.ts", _from_packet(17))
    expected = _lumas(path)
    assert 10 < len(expected) < 33
    assert expected == _lumas(whole)[-len(expected) :]
    assert _read(path) == expected
    assert _read(path, [0, 9]) == [expected[0], expected[9]]


def test_single_pictures_of_intra_refresh_are_those_of_the_whole(tmp_path: Path) -> None:
    """Packets at recovery points are flagged as key ones; decoding from them is not right."""
    texture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    path = write_video(
        tmp_path / "clip.ts",
        [np.roll(texture, 2 * number, axis=1) for number in range(60)],
        options={"bf": "2", "x264-params": "intra-refresh=1:keyint=12"},
    )
    expected = _lumas(path)
    with open_video(path) as video:
        assert np.count_nonzero(video.index.is_key) > 3
        assert [f.luma().tobytes() for n in range(60) for f in video.frames([n])] == expected


def test_leading_pictures_before_the_first_key_picture_are_no_frames(tmp_path: Path) -> None:
    whole = _write(tmp_path / "whole.hevc", "libx265", num_frames=50, **OPEN_GROUPS["libx265"])
    with av.open(str(whole)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    types = [first >> 1 & 0x3F for first in map(_first_slice_byte, packets)]
    leading = [number for number, kind in enumerate(types) if kind in (8, 9)]
    path = tmp_path / "cut.hevc"
    path.write_bytes(b"".join(packets[leading[0] :]))
    with open_video(path) as video:
        assert len(video) == len(list(video.frames()))


def _first_slice_byte(packet: bytes) -> int:
    units = packet.split(b"\0\0\1")[1:]
    return next((unit[0] for unit in units if unit[0] >> 1 & 0x3F < 32), 0)


def test_a_stream_without_parameter_sets_says_so(tmp_path: Path) -> None:
    whole = _write(tmp_path / "whole.h264", num_frames=20)
    with av.open(str(whole)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    path = tmp_path / "cut.h264"
    path.write_bytes(b"".join(packets[1:9]))
    with pytest.raises(CorruptVideoError, match="its parameter sets are missing"):
        open_video(path)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
@pytest.mark.parametrize("bf", ["0", "2"])
def test_joined_files_last_as_long_as_their_parts(tmp_path: Path, codec: str, bf: str) -> None:
    options = (
        {"x265_params": f"bframes={bf}:repeat-headers=1"} if codec == "libx265" else {"bf": bf}
    )
    part = _write(tmp_path / "part.ts", codec, num_frames=30, **options)
    path = tmp_path / "joined.ts"
    path.write_bytes(part.read_bytes() * 2)
    assert _read(path) == list(chain(_lumas(part), _lumas(part)))
    with open_video(path) as video:
        index = video.index
        assert video.exactness["pts"] == "approximate"
    assert index.duration_seconds == pytest.approx(60 / 25, abs=0.01)
    assert index.frame_rate == pytest.approx(25, rel=0.01)
    np.testing.assert_allclose(np.diff(index.pts_seconds), 1 / 25, atol=1e-4)


def test_packets_that_hold_no_picture_are_no_frames(tmp_path: Path) -> None:
    good = _write(tmp_path / "good.mkv", "libx264")

    def with_an_empty_one(packets: list[av.Packet]) -> Iterable[av.Packet]:
        for number, packet in enumerate(packets):
            if number == 5:
                empty = av.Packet(b"\0\0\0\2\x09\xf0")  # an access unit delimiter alone
                empty.pts, empty.dts = packet.pts, packet.dts
                empty.time_base = packet.time_base
                yield empty
            packet.pts = _pts(packet) + 1 + (number >= 5)
            packet.dts = None
            yield packet

    path = _remux(good, tmp_path / "clip.mkv", with_an_empty_one)
    assert _read(path) == _lumas(good)


def _with_two_times_swapped(packets: list[av.Packet]) -> Iterable[av.Packet]:
    for number, packet in enumerate(packets):
        # Matroska wants decoding times that precede these.
        packet.pts, packet.dts = _pts(packet) + 1000, number
    packets[7].pts, packets[8].pts = packets[8].pts, packets[7].pts
    return packets


def test_swapped_times_are_not_believed(tmp_path: Path) -> None:
    good = _write(tmp_path / "good.mkv", bf="0")
    path = _remux(good, tmp_path / "swapped.mkv", _with_two_times_swapped)
    assert _read(path) == _lumas(good)


def test_an_order_that_the_decoder_contradicts_is_an_error(tmp_path: Path) -> None:
    good = _write(tmp_path / "good.mkv", "libx265")
    path = _remux(good, tmp_path / "swapped.mkv", _with_two_times_swapped)
    for signals in (True, False):
        with pytest.raises(UnsupportedVideoError, match="another order than its time stamps"):
            _read(path, [0, 5, 20], signals=signals)
