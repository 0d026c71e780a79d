"""Files that hold no readable video: each is refused with its path, the reason and a remedy."""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from cv_reader import open_video, read_index
from cv_reader.errors import (
    CorruptVideoError,
    UnsupportedVideoError,
    VideoError,
    VideoNotFoundError,
)
from support.media import moving_square, set_mp4_rotation, write_video


def _missing(path: Path) -> None:
    del path


def _folder(path: Path) -> None:
    path.mkdir()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def _text(path: Path) -> None:
    path.write_text("not a video\n" * 100)


def _audio(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def _animated_webp(path: Path) -> None:
    pictures = [Image.new("RGB", (16, 12), (shade, 0, 0)) for shade in (0, 90, 200)]
    pictures[0].save(path, "WEBP", save_all=True, append_images=pictures[1:], duration=100)


def _without_frames(path: Path) -> None:
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 96, 64
        container.start_encoding()


def _without_moov(path: Path) -> None:
    clip = write_video(path.with_name("whole.mp4"), moving_square(10, 64, 96))
    path.write_bytes(clip.read_bytes()[:2000])


def _huge(path: Path) -> None:
    # An uncompressed AVI whose header claims 100000 x 64 pixels.
    clip = write_video(
        path.with_name("raw.avi"), moving_square(1, 64, 96), codec="rawvideo", pixel_format="bgr24"
    )
    data = clip.read_bytes()
    at = data.index(b"strf") + 12
    path.write_bytes(data[:at] + (100_000).to_bytes(4, "little") + data[at + 4 :])


def _without_a_kind(path: Path) -> None:
    # An AVI whose stream lacks its format: FFmpeg knows no kind for it.
    clip = write_video(path.with_name("whole.avi"), moving_square(3, 64, 96), codec="mpeg4")
    path.write_bytes(clip.read_bytes().replace(b"strf", b"JUNK"))


def _encrypted(path: Path) -> None:
    settings = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
        "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
    }
    write_video(path, moving_square(4, 64, 96), muxer_options=settings)


CASES: list[tuple[str, Callable[[Path], None], type[VideoError], str]] = [
    ("clip.mp4", _missing, VideoNotFoundError, "no such file"),
    ("clip.mp4", _folder, VideoNotFoundError, "is a folder"),
    ("clip.mp4", _empty, CorruptVideoError, "empty"),
    ("clip.mp4", _noise, UnsupportedVideoError, "not a video"),
    ("clip.mp4", _text, UnsupportedVideoError, "not a video"),
    ("clip.txt", _text, UnsupportedVideoError, "text"),
    ("clip.mp4", _audio, UnsupportedVideoError, "no video stream .only: audio"),
    ("clip.webp", _animated_webp, UnsupportedVideoError, "animated WebP.*convert it to MP4"),
    ("clip.avi", _without_a_kind, UnsupportedVideoError, "no video stream .only: nothing known"),
    ("clip.mkv", _without_frames, CorruptVideoError, "first packet"),
    ("clip.mp4", _without_moov, CorruptVideoError, "moov"),
    ("clip.mp4", _encrypted, UnsupportedVideoError, "encrypted"),
    ("clip.avi", _huge, UnsupportedVideoError, "100000x64"),
]


@pytest.mark.parametrize(
    ("name", "make", "error", "reason"), CASES, ids=lambda case: str(case)[:20]
)
def test_unreadable_file_is_refused(
    tmp_path: Path, name: str, make: Callable[[Path], None], error: type[VideoError], reason: str
) -> None:
    path = tmp_path / name
    make(path)
    for read in (read_index, open_video):
        with pytest.raises(error, match=reason) as caught:
            read(path)
        assert type(caught.value) is error
        assert caught.value.path == str(path)
        assert str(path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_permissions(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(VideoNotFoundError, match="permissions"):
        read_index(path)


def test_slanted_rotation_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(3, 64, 96))
    set_mp4_rotation(path, 45)
    with pytest.raises(UnsupportedVideoError, match="right angles"):
        read_index(path)


def test_colon_in_a_name_is_no_protocol(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(3, 64, 96))
    renamed = path.rename(tmp_path / "http:clip.mp4")
    assert read_index(renamed).num_frames == 3


def test_playlist_leads_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "clip.m3u8"
    path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://localhost:9/clip.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError):
        read_index(path)
