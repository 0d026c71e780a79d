"""Remote videos give what local ones give, and long ones are not read whole."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cv_reader.assets.make import select_and_pack
from cv_reader.errors import RemoteError, SettingsError, VideoNotFoundError
from cv_reader.media.container_header import key_packet_positions
from cv_reader.partial_files import PartialFile, open_binary, partial_file
from cv_reader.reader import ReadOptions, open_video
from cv_reader.remote import transfer, videos
from cv_reader.remote.cache import LocalCache
from cv_reader.remote.transfer import TransferError, traffic
from cv_reader.remote.videos import RemoteReading
from cv_reader.select.config import AssetConfig
from support.media import moving_square, write_video

fsspec = pytest.importorskip("fsspec")
CONFIG = AssetConfig(sequence_length=4, num_images=1, square_size=64)
SECONDS = 1_700_000_000


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """H.264 with B pictures and a key picture each second, its index behind the pictures."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    noise = np.random.default_rng(0).integers(0, 128, (160, 64, 96, 1)).astype(np.uint8)
    frames = (f // 2 + n for f, n in zip(moving_square(160, 64, 96), noise, strict=True))
    write_video(path, frames, frame_rate=5, options={"g": "8", "keyint_min": "8", "crf": "18"})
    os.utime(path, (SECONDS, SECONDS))
    return path


def _reading(folder: Path, whole_mib: float) -> RemoteReading:
    return RemoteReading(cache=LocalCache(folder, 10**8), whole_mib=whole_mib)


def _asset(path: Path) -> tuple[list[bytes], dict[str, Any]]:
    selection, rows, mosaics = select_and_pack(path, CONFIG, ReadOptions(backend="auto"))
    pixels = [mosaic.tobytes() for mosaic in mosaics]
    return [rows.tobytes(), selection.frame_ids.tobytes(), *pixels], selection.facts


def test_a_video_fetched_whole_gives_the_same_facts_and_pixels(clip: Path, tmp_path: Path) -> None:
    with _reading(tmp_path, 64).local_video(Path(f"file://{clip}")) as local:
        assert local.is_relative_to(tmp_path)
        assert _asset(local) == _asset(clip)


@pytest.mark.parametrize("may_skim", [True, False])
def test_a_video_read_by_ranges_gives_the_same_pixels(
    clip: Path, tmp_path: Path, may_skim: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cv_reader.partial_files.BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr("cv_reader.media.scanning._BEGINNING_BYTES", 64)
    before = traffic.copy()
    reading = _reading(tmp_path, 0)
    with reading.local_video(Path(f"file://{clip}"), may_skim=may_skim) as local:
        found, facts = _asset(local)
        partial = local
    wanted, wanted_facts = _asset(clip)
    assert found == wanted
    hash_of_whole = wanted_facts["source"].pop("sha256")
    assert facts["source"].pop("sha256") == "" != hash_of_whole
    assert facts == wanted_facts
    assert not partial.exists()
    share = (traffic.bytes_read - before.bytes_read) / clip.stat().st_size
    # Four groups of twenty are decoded; a scan that looks at each packet reads all.
    if facts["backend"] == "native" and may_skim:
        assert share < 0.6
    else:
        assert share > 0.9


def test_the_index_says_where_key_packets_are(clip: Path) -> None:
    with open_video(clip) as video:
        keys = np.flatnonzero(video.index.is_key)
    assert len(key_packet_positions(str(clip))) == len(keys) > 15
    data = clip.read_bytes()
    # Each begins with the length of its first unit; the slice of a picture at which decoding may
    # start is of type 5, and the messages before it of type 6.
    kinds = [data[at + 4] & 0x1F for at in key_packet_positions(str(clip))]
    assert set(kinds) <= {5, 6}


def test_errors_name_the_address(clip: Path, tmp_path: Path) -> None:
    reading = _reading(tmp_path, 64)
    with (
        pytest.raises(VideoNotFoundError, match="file:///none/a.mp4: no such object"),
        reading.local_video(Path("file:///none/a.mp4")),
    ):
        pass
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:2000])
    with (
        pytest.raises(ValueError, match=f"file://{broken}: is an MP4 whose index"),
        reading.local_video(Path(f"file://{broken}")) as local,
    ):
        open_video(local)
    with pytest.raises(SettingsError, match="scheme"), reading.local_video(Path("ftp://h/a.mp4")):
        pass


@pytest.mark.parametrize("number", [1, 4])
def test_a_transfer_that_fails_is_the_failure_of_the_video(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """FFmpeg takes an error for the end of the file, which must not pass for a shorter video."""
    calls: list[object] = []
    fetch = transfer.fetch_spans

    def failing(file: Any, spans: Any) -> list[bytes]:
        calls.append(spans)
        if len(calls) >= number:
            raise TransferError(f"{file.address}: failed 5 times")
        return fetch(file, spans)

    monkeypatch.setattr(videos, "fetch_spans", failing)
    monkeypatch.setattr("cv_reader.partial_files.BLOCK_BYTES", 1 << 12)
    with (
        pytest.raises(RemoteError, match="clip.mp4: failed 5 times"),
        _reading(tmp_path, 0).local_video(Path(f"file://{clip}"), may_skim=True) as local,
    ):
        _asset(local)
    assert len(calls) == number


def test_a_video_that_changes_meanwhile_fails(clip: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    os.utime(copy, (SECONDS, SECONDS))
    with (
        pytest.raises(RemoteError, match="changed while it was read"),
        _reading(tmp_path / "cache", 0).local_video(Path(f"file://{copy}")) as local,
    ):
        _asset(local)
        os.utime(copy, (SECONDS + 1, SECONDS + 1))


def test_any_span_of_a_partial_file_is_right(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(300_000)
    fetched: list[tuple[int, int]] = []

    def fetch(spans: Any) -> list[bytes]:
        fetched.extend(spans)
        return [content[start:end] for start, end in spans]

    path = tmp_path / "a"
    path.touch()
    file = PartialFile(path, len(content), 0, fetch)
    generator = np.random.default_rng(1)
    with partial_file(file), open_binary(path) as stream:
        for _ in range(30):
            start, size = (int(n) for n in generator.integers(0, 310_000, 2))
            stream.seek(start)
            assert stream.read(size) == content[start : start + size]
            assert stream.tell() == min(start, len(content)) + len(
                content[start : start + size]
            ) or (start > len(content))
    file.close()
    assert sum(end - start for start, end in fetched) == len(content), "each block once"
