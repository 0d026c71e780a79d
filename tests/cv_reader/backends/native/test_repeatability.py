"""Native results depend on nothing but the file: not on threads, access, or other readers."""

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cv_reader import open_video
from cv_reader.media.frames import CodecFrame
from support.native.clips import FILTERED, UNFILTERED, Kind
from support.native.reading import MAPS, differing_fields, read

pytestmark = pytest.mark.usefixtures("native_reader")
Clip = Callable[[str, Kind], Path]

SEVERAL_GROUPS = {
    "h264-closed": Kind(codec="libx264", params="keyint=5:scenecut=0:bframes=2:ref=3:crf=28"),
    "h264-open": Kind(codec="libx264", params="keyint=5:open-gop=1:scenecut=0:bframes=3:crf=28"),
    "hevc-closed": Kind(
        codec="libx265", params="keyint=5:min-keyint=5:no-open-gop=1:bframes=2:crf=28"
    ),
    "hevc-open": Kind(codec="libx265", params="keyint=5:min-keyint=5:open-gop=1:bframes=3:crf=28"),
    "h264-one-group": FILTERED["h264-filtered"],
    "hevc-one-group": FILTERED["hevc-filtered"],
    "h264-refresh": UNFILTERED["h264-refresh"],
}


def _assert_same(first: list[CodecFrame], second: list[CodecFrame]) -> None:
    wrong = {
        a.index: names
        for a, b in zip(first, second, strict=True)
        if (names := differing_fields(a, b))
    }
    assert not wrong


@pytest.mark.parametrize("num_threads", [2, 4])
@pytest.mark.parametrize("name", SEVERAL_GROUPS)
def test_threads_change_nothing(name: str, num_threads: int, clip: Clip) -> None:
    path = clip(name, SEVERAL_GROUPS[name])
    _assert_same(read(path), read(path, num_threads=num_threads))


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("name", SEVERAL_GROUPS)
@pytest.mark.parametrize("ids", [[0], [13], [3, 4, 11], [1, 6, 12], list(range(0, 14, 3))], ids=str)
def test_sparse_access_equals_full_access(
    name: str, ids: list[int], num_threads: int, clip: Clip
) -> None:
    path = clip(name, SEVERAL_GROUPS[name])
    full = read(path)
    _assert_same([full[index] for index in ids], read(path, ids, num_threads=num_threads))


@pytest.mark.parametrize("name", ["h264-closed", "hevc-open"])
def test_pixels_are_the_same_with_and_without_signals(name: str, clip: Clip) -> None:
    path = clip(name, SEVERAL_GROUPS[name])
    for with_signals, without in zip(read(path), read(path, signals=False), strict=True):
        assert without.motion is None and without.residual_y is None
        assert np.array_equal(with_signals.rgb(), without.rgb())


@pytest.mark.parametrize("name", ["h264-closed", "hevc-open"])
def test_frames_outlive_the_iterator_and_the_video(name: str, clip: Clip) -> None:
    path = clip(name, SEVERAL_GROUPS[name])
    with open_video(path, backend="native") as video:
        iterator = video.frames()
        first = next(iterator)
        copies = {field: np.copy(getattr(first, field)) for field in MAPS}
        luma, rgb = first.luma().copy(), first.rgb().copy()
        for _ in iterator:
            pass
    del iterator, video
    gc.collect()
    for field, copy in copies.items():
        assert np.array_equal(getattr(first, field), copy), field
    assert np.array_equal(first.luma(), luma)
    assert np.array_equal(first.rgb(), rgb)


def test_a_video_can_be_read_again(clip: Clip) -> None:
    path = clip("h264-closed", SEVERAL_GROUPS["h264-closed"])
    with open_video(path, backend="native") as video:
        first, second = list(video.frames([2, 8])), list(video.frames([2, 8]))
    _assert_same(first, second)


def test_readers_work_beside_each_other(clip: Clip) -> None:
    paths = {name: clip(name, kind) for name, kind in SEVERAL_GROUPS.items()}
    expected = {name: read(path) for name, path in paths.items()}
    results: dict[str, list[CodecFrame]] = {}

    def work(name: str) -> None:
        results[name] = read(paths[name], num_threads=2)

    threads = [threading.Thread(target=work, args=(name,)) for name in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, frames in expected.items():
        _assert_same(frames, results[name])


def test_interleaved_readers_do_not_disturb_each_other(clip: Clip) -> None:
    first = clip("h264-closed", SEVERAL_GROUPS["h264-closed"])
    second = clip("hevc-open", SEVERAL_GROUPS["hevc-open"])
    with open_video(first, backend="native") as a, open_video(second, backend="native") as b:
        pairs = list(zip(a.frames(), b.frames(), strict=True))
    _assert_same(read(first), [pair[0] for pair in pairs])
    _assert_same(read(second), [pair[1] for pair in pairs])
