"""Reading any frames must equal reading all of them, bit for bit."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from cv_reader import CodecFrame, open_video
from cv_reader.errors import CorruptVideoError, UnsupportedVideoError
from cv_reader.media import decoding as decoding_module
from support.media import clips_by_name, moving_square, panning, set_mp4_edit_start, write_video
from support.tolerances import SECONDS

OPEN_GOP = "open-gop=1:keyint=8:min-keyint=8:scenecut=0"
CLIPS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("libx264", "mp4", {"g": "8", "bf": "3", "x264-params": "b-pyramid=2"}),
    "h264 open": ("libx264", "mkv", {"bf": "3", "x264-params": OPEN_GOP}),
    "h264 refresh": ("libx264", "mp4", {"g": "8", "x264-params": "intra-refresh=1"}),
    "h264 ts": ("libx264", "ts", {"g": "8", "bf": "2"}),
    "h264 avi": ("libx264", "avi", {"g": "8", "bf": "2"}),
    "h264 raw": ("libx264", "h264", {"g": "8", "bf": "2"}),
    "hevc": ("libx265", "mp4", {"g": "8", "bf": "3"}),
    "hevc open": ("libx265", "mkv", {"bf": "3", "x265-params": OPEN_GOP}),
    "vp9": ("libvpx-vp9", "webm", {"g": "8", "lag-in-frames": "8", "auto-alt-ref": "1"}),
    "av1": ("libsvtav1", "mkv", {"g": "8"}),
    "mpeg4": ("mpeg4", "avi", {"g": "8", "bf": "2"}),
    "mpeg2": ("mpeg2video", "ts", {"g": "8", "bf": "2"}),
    "mpeg2 ps": ("mpeg2video", "mpg", {"g": "8", "bf": "2"}),
}
FRAMES = 30


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make a clip by its name above, once."""
    return clips_by_name(tmp_path_factory.mktemp("clips"), CLIPS, FRAMES)


def _arrays(frame: CodecFrame) -> list[np.ndarray]:
    maps = (frame.motion, frame.motion_ref, frame.residual_y)
    return [frame.rgb(), frame.luma(), *(array for array in maps if array is not None)]


def _assert_same(left: CodecFrame, right: CodecFrame) -> None:
    assert repr(left) == repr(right)
    for mine, other in zip(_arrays(left), _arrays(right), strict=True):
        np.testing.assert_array_equal(mine, other, err_msg=repr(left))


@pytest.mark.parametrize("name", CLIPS)
def test_pixels_are_plain_ffmpeg_s(clip: Callable[[str], Path], name: str) -> None:
    with av.open(str(clip(name))) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with open_video(clip(name)) as video:
        frames = list(video.frames(signals=False))
    assert [frame.index for frame in frames] == list(range(FRAMES)) == list(range(len(expected)))
    for frame, pixels in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(frame.rgb(), pixels)


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, "auto") for name in CLIPS),
        *((name, "estimated") for name in ("h264 open", "hevc", "h264 raw", "mpeg2 ps")),
    ],
)
def test_sparse_equals_full(clip: Callable[[str], Path], name: str, backend: str) -> None:
    with open_video(clip(name), backend) as video:
        full = list(video.frames())
        for ids in ([0], [29], [7], [8], [9], [3, 20, 21], [15, 16, 17], [1, 9, 17, 25], [6, 28]):
            sparse = list(video.frames(ids))
            assert [frame.index for frame in sparse] == ids
            for frame in sparse:
                _assert_same(frame, full[frame.index])


def test_every_single_frame_equals_full(clip: Callable[[str], Path]) -> None:
    for name in ("h264 open", "hevc open"):
        with open_video(clip(name)) as video:
            for expected in list(video.frames()):
                (frame,) = video.frames([expected.index])
                _assert_same(frame, expected)


@pytest.mark.parametrize("signals", [True, False])
@pytest.mark.parametrize("name", ["h264", "hevc", "vp9", "av1"])
def test_thread_count_changes_nothing(
    clip: Callable[[str], Path], name: str, signals: bool
) -> None:
    with open_video(clip(name)) as one, open_video(clip(name), num_threads=4) as four:
        for ids in (None, [5, 21]):
            pairs = zip(
                one.frames(ids, signals=signals), four.frames(ids, signals=signals), strict=True
            )
            for left, right in pairs:
                _assert_same(left, right)


def test_only_the_groups_that_are_needed_are_decoded(
    clip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    original = decoding_module.numbered

    def record(packet: av.Packet, row: int) -> av.Packet:
        decoded.append(row)
        return original(packet, row)

    monkeypatch.setattr(decoding_module, "numbered", record)
    with open_video(clip("h264")) as video:
        list(video.frames([9, 26], signals=False))
    assert set(decoded) <= {*range(8, 16), *range(24, 30)}
    assert len(decoded) == len(set(decoded))


def test_adjacent_groups_need_no_seek(
    clip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise AssertionError("a seek")

    monkeypatch.setattr("cv_reader.media.packets.PacketReader._seek", refuse)
    with open_video(clip("h264")) as video:
        assert len(list(video.frames([7, 8, 15, 22], signals=False))) == 4


def test_arrays_outlive_iterator_and_video(clip: Callable[[str], Path]) -> None:
    with open_video(clip("h264")) as video:
        frames = video.frames()
        first = next(frames)
        before = [array.copy() for array in _arrays(first)]
        for _ in frames:
            pass
    for array, copy in zip(_arrays(first), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_early_end_releases_everything(clip: Callable[[str], Path]) -> None:
    with open_video(clip("h264")) as video:
        for number, _ in enumerate(video.frames()):
            if number == 3:
                break
        frames = video.frames()
        next(frames)
    assert list(frames) == []
    with pytest.raises(ValueError, match="closed"):
        video.frames()


def test_frames_are_freed_without_the_garbage_collector(clip: Callable[[str], Path]) -> None:
    gc.collect()
    gc.disable()
    try:
        before = {id(held) for held in gc.get_objects() if isinstance(held, av.VideoFrame)}
        with open_video(clip("h264")) as video:
            seen = [weakref.ref(frame.picture) for frame in video.frames()]
        after = {id(held) for held in gc.get_objects() if isinstance(held, av.VideoFrame)}
    finally:
        gc.enable()
    assert [number for number, ref in enumerate(seen) if ref() is not None] == []
    assert after <= before


@pytest.mark.parametrize("ids", [[-1], [30], [3, 3], [4, 2], [0, 1, 29, 30]])
def test_ids_must_increase_within_the_video(clip: Callable[[str], Path], ids: list[int]) -> None:
    with open_video(clip("h264")) as video, pytest.raises(ValueError, match="strictly increasing"):
        video.frames(ids)


def test_ids_must_be_whole_numbers(clip: Callable[[str], Path]) -> None:
    with open_video(clip("h264")) as video:
        with pytest.raises(TypeError):
            video.frames([1.5])  # type: ignore[list-item]
        assert [frame.index for frame in video.frames(np.array([2, 5]))] == [2, 5]
        assert list(video.frames([])) == []


@pytest.mark.parametrize("ids", [[5, 5, 5], [20, 3, 20, 0, 29, 3], [], range(29, -1, -7)])
def test_frames_at_any_places(clip: Callable[[str], Path], ids: list[int]) -> None:
    with open_video(clip("h264")) as video:
        expected = {frame.index: frame.luma() for frame in video}
        frames = list(video.at(ids))
    assert [frame.index for frame in frames] == list(ids)
    for frame in frames:
        np.testing.assert_array_equal(frame.luma(), expected[frame.index])
        assert frame.motion is not None


def test_frames_at_places_hold_no_more_than_is_asked_for(clip: Callable[[str], Path]) -> None:
    with open_video(clip("h264")) as video:
        given: list[weakref.ref[object]] = []
        for frame in video.at([0, 0, 5, 9, 9, 29], signals=False):
            given.append(weakref.ref(frame.picture))
            assert sum(ref() is not None for ref in given) <= 2


def test_a_lost_frame_leaves_its_place_out(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "clip.mkv", moving_square(20, 64, 96), options={"g": "5", "bf": "0"}
    )
    with av.open(str(path)) as container:
        packet = [bytes(packet) for packet in container.demux(video=0)][7]
    data = bytearray(path.read_bytes())
    at = data.index(packet)
    data[at + 4 : at + len(packet)] = bytes(len(packet) - 4)
    path.write_bytes(data)
    for ids, left in (([19, 7, 0, 7, 12], [19, 0, 12]), ([2, 7, 0], [2, 0])):
        given = []
        with open_video(path) as video, pytest.raises(CorruptVideoError, match="1 of"):
            for frame in video.at(ids, signals=False):
                given.append(frame.index)
        assert given == left


def test_a_video_is_a_sequence_of_frames(clip: Callable[[str], Path]) -> None:
    with open_video(clip("h264")) as video:
        assert len(video) == FRAMES
        assert video[3].index == 3
        assert video[-1].index == FRAMES - 1
        assert [frame.index for frame in video[4:20:5]] == [4, 9, 14, 19]
        assert [frame.index for frame in video] == list(range(FRAMES))
        with pytest.raises(IndexError, match="frames 0 to 29"):
            video[FRAMES]
        with pytest.raises(ValueError, match="strictly increasing"):
            video.at([0, FRAMES])


def test_edit_list_start_within_a_group(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(20, 64, 96), options={"g": "10"})
    with open_video(path) as video:
        whole = [frame.rgb() for frame in video.frames()]
    set_mp4_edit_start(path, 1024 + 5 * 512)
    with open_video(path) as video:
        frames = list(video.frames())
        assert len(frames) == 15
        for frame, expected in zip(frames, whole[5:], strict=True):
            np.testing.assert_array_equal(frame.rgb(), expected)
        (last,) = video.frames([3])
        _assert_same(last, frames[3])


def test_variable_frame_rate_and_durations(tmp_path: Path) -> None:
    pts = [0, 1, 5, 6, 13, 14]
    path = write_video(tmp_path / "clip.mp4", moving_square(6, 64, 96), pts=pts)
    with open_video(path) as video:
        frames = list(video.frames([1, 3, 5], signals=False))
    np.testing.assert_allclose(
        [frame.pts_seconds * 25 for frame in frames], [1, 6, 14], atol=SECONDS
    )
    np.testing.assert_allclose([frame.duration_seconds * 25 for frame in frames[:2]], [4, 7])


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "mp4"), ("libvpx-vp9", "mp4")])
def test_broken_tail(tmp_path: Path, codec: str, suffix: str) -> None:
    path = write_video(
        tmp_path / f"clip.{suffix}",
        moving_square(FRAMES, 64, 96),
        codec=codec,
        options={"g": "10"},
        muxer_options={"movflags": "faststart"},
    )
    with open_video(path) as video:
        whole = [frame.luma() for frame in video.frames(signals=False)]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    given = []
    with open_video(path) as video:
        count = video.index.num_frames
        assert 1 < count < FRAMES
        with pytest.raises(CorruptVideoError, match=rf"1 of {count} .*\({count - 1}\)") as caught:
            for frame in video.frames():
                given.append(frame)
        assert caught.value.path == str(path)
        assert len(list(video.frames(range(count - 1)))) == count - 1
    for frame, expected in zip(given, whole[: count - 1], strict=True):
        np.testing.assert_array_equal(frame.luma(), expected)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_damage_in_the_middle_costs_only_what_it_hits(tmp_path: Path, num_threads: int) -> None:
    path = write_video(
        tmp_path / "clip.mkv", moving_square(FRAMES, 64, 96), options={"g": "10", "bf": "0"}
    )
    with av.open(str(path)) as container:
        packet = [bytes(packet) for packet in container.demux(video=0)][15]
    data = bytearray(path.read_bytes())
    at = data.index(packet)
    data[at + 4 : at + len(packet)] = bytes(len(packet) - 4)
    path.write_bytes(data)
    given = []
    with (
        open_video(path, num_threads=num_threads) as video,
        pytest.raises(CorruptVideoError, match="of 30 requested"),
    ):
        for frame in video.frames(signals=False):
            given.append(frame.index)
    assert given[:15] == list(range(15))
    assert given[-10:] == list(range(20, 30))
    assert 15 not in given


def test_change_of_size_is_refused_with_the_frame(tmp_path: Path) -> None:
    small = write_video(tmp_path / "small.h264", moving_square(6, 64, 96), options={"bf": "0"})
    large = write_video(tmp_path / "large.h264", moving_square(6, 96, 128), options={"bf": "0"})
    path = tmp_path / "both.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    given = []
    with open_video(path) as video:
        with pytest.raises(UnsupportedVideoError, match="frame 6 is 128x96"):
            for frame in video.frames():
                given.append(frame.index)
        assert given == list(range(6))
        assert len(list(video.frames([2, 4]))) == 2


def test_file_that_changes_after_opening_is_noticed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(12, 64, 96))
    with open_video(path) as video:
        write_video(path, panning(12, 64, 96))
        with pytest.raises(CorruptVideoError, match="changed"):
            list(video.frames())
