"""Groups of pictures read in parallel must give what one thread gives, byte for byte."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from cv_reader import CodecFrame, Video, open_video
from cv_reader.backends import groups
from cv_reader.backends.groups import plan_lanes
from cv_reader.errors import CorruptVideoError, UnsupportedVideoError
from cv_reader.media.index import scan
from support.media import clips_by_name, moving_square, write_video

OPEN_GOP = "open-gop=1:keyint=8:min-keyint=8:scenecut=0"
CLIPS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264 pyramid": ("libx264", "mp4", {"g": "8", "bf": "3", "x264-params": "b-pyramid=2"}),
    "h264 open": ("libx264", "mkv", {"bf": "3", "x264-params": OPEN_GOP}),
    "h264 ts": ("libx264", "ts", {"g": "8", "bf": "2"}),
    "hevc": ("libx265", "mp4", {"g": "8", "bf": "3"}),
    "hevc open": ("libx265", "mkv", {"bf": "3", "x265-params": OPEN_GOP}),
    "vp9": ("libvpx-vp9", "webm", {"g": "8", "lag-in-frames": "8", "auto-alt-ref": "1"}),
}
FRAMES = 40
SPARSE = [0, 2, 7, 9, 16, 17, 26, 31, 33, 39]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make a clip by its name above, once."""
    return clips_by_name(tmp_path_factory.mktemp("clips"), CLIPS, FRAMES)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Record for each read whether groups were divided among threads."""
    found: list[bool] = []

    def plan(*args: object, **settings: object) -> object:
        lanes = plan_lanes(*args, **settings)  # type: ignore[arg-type]
        found.append(lanes is not None)
        return lanes

    monkeypatch.setattr("cv_reader.reader.plan_lanes", plan)
    return found


def _content(frames: Iterator[CodecFrame]) -> list[tuple[str, list[bytes]]]:
    maps = ("motion", "motion_ref", "residual_y", "bits", "qp", "residual_blocks")
    found = []
    for frame in frames:
        arrays = [frame.rgb(), frame.luma(), *(getattr(frame, name) for name in maps)]
        found.append((repr(frame), [b"" if a is None else a.tobytes() for a in arrays]))
    return found


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, "auto") for name in CLIPS if name != "vp9"),
        *((name, "pyav") for name in CLIPS if "h264" in name),
        *((name, "pixels") for name in CLIPS),
        ("vp9", "estimated"),
    ],
)
def test_parallel_equals_serial(
    clip: Callable[[str], Path], planned: list[bool], name: str, backend: str
) -> None:
    signals, reader = backend != "pixels", "auto" if backend == "pixels" else backend
    for ids in (None, SPARSE):
        with open_video(clip(name), reader) as one:
            expected = _content(one.frames(ids, signals=signals))
        with open_video(clip(name), reader, num_threads=3) as three:
            assert _content(three.frames(ids, signals=signals)) == expected
        assert len(expected) == (FRAMES if ids is None else len(SPARSE))
    assert planned == [False, True] * 2


def test_a_recording_that_begins_between_key_frames(
    clip: Callable[[str], Path], tmp_path: Path, planned: list[bool]
) -> None:
    data = clip("h264 ts").read_bytes()
    path = tmp_path / "midway.ts"
    path.write_bytes(data[len(data) // 188 // 12 * 188 :])
    with open_video(path) as one, open_video(path, num_threads=2) as two:
        assert 30 < len(one) < FRAMES
        for ids in (None, range(0, len(one), 5)):
            assert _content(two.frames(ids)) == _content(one.frames(ids))
    assert planned[0::2] == [True, True]


def test_work_is_spread_evenly(clip: Callable[[str], Path]) -> None:
    source = scan(clip("h264 pyramid"))
    lanes = plan_lanes(source, SPARSE, 2, signals=True)
    assert lanes is not None
    assert sorted(lanes.ids[0] + lanes.ids[1]) == SPARSE
    assert {number // 8 for number in lanes.ids[0]} & {n // 8 for n in lanes.ids[1]} == set()
    assert min(len({number // 8 for number in part}) for part in lanes.ids) >= 2


def test_few_groups_and_files_without_times_are_read_by_one_decoder(
    clip: Callable[[str], Path], tmp_path: Path
) -> None:
    source = scan(clip("h264 pyramid"))
    assert plan_lanes(source, [1, 5, 9], 4, signals=True) is None
    assert plan_lanes(source, SPARSE, 1, signals=True) is None
    raw = write_video(tmp_path / "raw.h264", moving_square(24, 64, 96), options={"g": "8"})
    assert plan_lanes(scan(raw), [1, 9, 17], 2, signals=True) is None


def test_large_frames_that_would_have_to_wait_are_read_by_one_decoder(
    clip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = scan(clip("h264 pyramid"))
    monkeypatch.setattr(groups, "_AHEAD_BYTES", 2 * 4 * 96 * 64 * 6)
    assert plan_lanes(source, range(FRAMES), 2, signals=True) is not None
    monkeypatch.setattr(groups, "_AHEAD_BYTES", 2 * 3 * 96 * 64 * 6)
    assert plan_lanes(source, range(FRAMES), 2, signals=True) is None


def test_lost_frames_are_named_together_after_the_last(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "clip.mkv", moving_square(40, 64, 96), options={"g": "5", "bf": "0"}
    )
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in (7, 32):
        at = data.index(packets[number])
        data[at + 4 : at + len(packets[number])] = bytes(len(packets[number]) - 4)
    path.write_bytes(data)
    outcomes = []
    for num_threads in (1, 2):
        given = []
        with (
            open_video(path, num_threads=num_threads) as video,
            pytest.raises(CorruptVideoError) as caught,
        ):
            for frame in video.frames(range(0, 40, 1), signals=False):
                given.append(frame.index)
        outcomes.append((given, str(caught.value), caught.value.lost))
    assert outcomes[0] == outcomes[1]
    assert set(outcomes[0][2]) >= {7, 32} and 35 in outcomes[0][0]


def test_other_faults_are_raised_where_they_come(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(40, 64, 96), options={"g": "5"})
    with open_video(path, num_threads=2) as video:
        write_video(path, moving_square(40, 64, 96, seed=3), options={"g": "5"})
        with pytest.raises(CorruptVideoError, match="changed"):
            list(video.frames(range(0, 40, 3)))


def test_a_change_of_size_is_refused_after_what_comes_before(tmp_path: Path) -> None:
    small = write_video(tmp_path / "a.ts", moving_square(12, 64, 96), options={"g": "4"})
    large = write_video(tmp_path / "b.ts", moving_square(12, 96, 128), options={"g": "4"})
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with open_video(path, num_threads=2) as video:
        given = []
        with pytest.raises(UnsupportedVideoError, match="128x96"):
            for frame in video.frames(signals=False):
                given.append(frame.index)
    assert given == list(range(len(given))) and 8 <= len(given) <= 12


def test_an_early_end_stops_the_threads(
    clip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_AHEAD_BYTES", 2 * 2 * 96 * 64 * 2)  # they wait for the caller
    before = set(threading.enumerate())
    with open_video(clip("h264 pyramid"), num_threads=2) as video:
        frames = video.frames(SPARSE)
        assert next(frames).index == 0
        started = set(threading.enumerate()) - before
        assert started
    assert not any(thread.is_alive() for thread in started)


def test_a_few_frames_wait_for_a_slow_caller(
    clip: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_AHEAD_BYTES", 2 * 2 * 96 * 64 * 2)
    read: list[int] = []
    original = Video._read

    def counted(self: Video, *args: object, **settings: object) -> Iterator[CodecFrame]:
        for frame in original(self, *args, **settings):  # type: ignore[arg-type]
            read.append(frame.index)
            yield frame

    monkeypatch.setattr(Video, "_read", counted)
    with open_video(clip("h264 pyramid"), num_threads=2) as video:
        for done, frame in enumerate(video.frames(SPARSE, signals=False), 1):
            assert frame.index == SPARSE[done - 1]
            assert len(read) <= done + 2 * 2
    assert np.array_equal(sorted(read), SPARSE)
