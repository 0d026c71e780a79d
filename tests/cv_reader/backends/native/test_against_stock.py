"""Native pictures, H.264 vectors and bit counts against stock FFmpeg and the packets themselves."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cv_reader import open_video
from support.media import panning, write_video
from support.native.clips import (
    EXPLICIT_WEIGHTS,
    FIELD_CODED,
    FILTERED,
    TIER2,
    UNFILTERED,
    Kind,
    wandering,
)
from support.native.nal import coded_slice_bytes, units, without_usability
from support.native.reading import read, read_or_refusal, read_pixels
from support.native.stock import decoded_luma, decoded_rgb, exported_motion
from support.paths import require_shared_data

pytestmark = pytest.mark.usefixtures("native_reader")
Clip = Callable[[str, Kind], Path]

ALL_KINDS = {**UNFILTERED, **TIER2, **EXPLICIT_WEIGHTS, **FIELD_CODED, **FILTERED}

ODD = {
    "h264-odd": Kind(codec="libx264", params="crf=24", height_px=182, width_px=322),
    "h264-odd-444": Kind(
        codec="libx264", params="crf=24", height_px=61, width_px=45, pixel_format="yuv444p"
    ),
    "hevc-odd": Kind(codec="libx265", params="crf=24", height_px=182, width_px=322),
    "h264-tiny": Kind(codec="libx264", params="crf=24", height_px=16, width_px=16),
    "hevc-12bit": Kind(codec="libx265", params="crf=24", pixel_format="yuv420p12le"),
    "h264-gray": Kind(codec="libx264", params="crf=24", pixel_format="gray"),
}


@pytest.mark.parametrize("name", [*ALL_KINDS, *ODD])
def test_pictures_are_those_of_stock_ffmpeg(name: str, clip: Clip) -> None:
    path = clip(name, {**ALL_KINDS, **ODD}[name])
    expected = decoded_luma(path)
    frames = read_or_refusal(path)
    if isinstance(frames, str):
        frames = read_pixels(path)
    assert [frame.index for frame in frames] == list(range(len(expected)))
    for frame, picture in zip(frames, expected, strict=True):
        if picture.dtype == np.uint8:
            assert np.array_equal(frame.luma(), picture), frame
        else:
            shift = {"hevc-12bit": 4}.get(name, 2)
            assert np.abs(frame.luma().astype(int) - (picture >> shift)).max() <= 1, frame


@pytest.mark.parametrize("name", ["h264-filtered", "hevc-filtered", "h264-444", "h264-odd"])
def test_colours_are_those_of_stock_ffmpeg(name: str, clip: Clip) -> None:
    path = clip(name, {**ALL_KINDS, **ODD}[name])
    for frame, expected in zip(read(path), decoded_rgb(path), strict=True):
        # Versions of the colour converter round differently by a level or two.
        difference = np.abs(frame.rgb().astype(int) - expected)
        assert difference.max() <= 3 and difference.mean() < 0.7, frame


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "flv", "h264"])
def test_containers_give_the_same_pictures(suffix: str, tmp_path: Path) -> None:
    options = {"x264-params": "bframes=0:keyint=5"}
    path = write_video(tmp_path / f"clip.{suffix}", panning(12, 64, 96), options=options)
    frames = read(path)
    assert all(map(np.array_equal, (frame.luma() for frame in frames), decoded_luma(path)))
    assert all(frame.motion is not None for frame in frames)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_no_picture_is_lost_where_the_stream_hides_its_reordering(
    num_threads: int, tmp_path: Path
) -> None:
    options = {"x264-params": "bframes=7:b-pyramid=normal:b-adapt=0", "profile": "high"}
    path = write_video(tmp_path / "clip.h264", panning(24, 64, 96), options=options)
    plain = [
        without_usability(unit) if unit[0] & 0x1F == 7 else unit
        for unit in units(path.read_bytes(), b"", "h264")
    ]
    path.write_bytes(b"".join(b"\0\0\0\1" + unit for unit in plain))
    expected = decoded_luma(path)
    assert len(expected) == 24
    with open_video(path, backend="native", num_threads=num_threads) as video:
        frames = list(video.frames())
    assert all(map(np.array_equal, (frame.luma() for frame in frames), expected))
    assert len(frames) == 24


def test_variable_frame_rate_keeps_numbers_and_times(tmp_path: Path) -> None:
    pts = [0, 10, 15, 40, 41, 90, 100, 130, 131, 160]
    path = write_video(tmp_path / "vfr.mkv", wandering(10), pts=pts, time_base=Fraction(1, 1000))
    frames = read(path)
    assert [frame.index for frame in frames] == list(range(10))
    assert np.allclose([frame.pts_seconds for frame in frames], np.array(pts) / 1000)
    assert all(map(np.array_equal, (frame.luma() for frame in frames), decoded_luma(path)))


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libsvtav1", "mpeg4", "mpeg2video"])
def test_other_codecs_give_stock_pictures_or_a_refusal(codec: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", panning(6, 64, 96), codec=codec)
    assert isinstance(read_or_refusal(path), str), "signals of a codec that has no native reader"
    frames = read_pixels(path)
    assert all(map(np.array_equal, (frame.luma() for frame in frames), decoded_luma(path)))


PROGRESSIVE_H264 = [
    name
    for name, kind in {**UNFILTERED, **FILTERED, **EXPLICIT_WEIGHTS}.items()
    if kind.standard == "h264"
]


@pytest.mark.parametrize("name", PROGRESSIVE_H264)
def test_h264_vectors_equal_the_export_of_stock_ffmpeg(name: str, clip: Clip) -> None:
    _assert_motion_is_the_export(clip(name, ALL_KINDS[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ytb_XwB-dkS5BVM.mp4", "ytb_YVQwAEKZpaU.mp4"])
def test_real_vectors_equal_the_export_of_stock_ffmpeg(name: str) -> None:
    _assert_motion_is_the_export(require_shared_data("real_videos", name))


def _assert_motion_is_the_export(path: Path) -> None:
    compared = 0
    for frame, exported in zip(read(path), exported_motion(path), strict=True):
        assert frame.motion is not None and frame.motion_ref is not None
        assert frame.pict_type == exported.pict_type
        assert exported.hits.max() <= 1, "two exported blocks cover one cell"
        # For a list that one part of a macroblock does not use, the export says "no motion".
        assert ((frame.motion_ref == 0) | (exported.hits == 1)).all(), frame
        certain = exported.is_certain
        assert np.array_equal(frame.motion[certain], exported.vectors[certain]), frame
        compared += int((certain & (frame.motion_ref != 0)).sum())
    assert compared > 1000


def _large_slices(path: Path, standard: str) -> Iterator[tuple[int, int]]:
    """Frame number and slice bytes of pictures for which headers hardly count."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        order = sorted(packets, key=lambda packet: packet.pts)
        extradata = bytes(stream.codec_context.extradata or b"")
        for number, packet in enumerate(order):
            size = coded_slice_bytes(bytes(packet), extradata, standard)
            if size > 1500:
                yield number, size


BITS = {
    "h264-cabac-bits": Kind(codec="libx264", params="qp=10:bframes=2"),
    "h264-cavlc-bits": Kind(codec="libx264", params="qp=10:cabac=0:bframes=2"),
    "h264-sliced-bits": Kind(codec="libx264", params="qp=6:slices=3:bframes=0"),
    "hevc-bits": Kind(codec="libx265", params="qp=8:bframes=2"),
    "hevc-wpp-bits": Kind(codec="libx265", params="qp=8:pools=2:wpp=1:bframes=2"),
}


@pytest.mark.parametrize("name", BITS)
def test_bits_add_up_to_the_size_of_the_picture(name: str, clip: Clip) -> None:
    kind = BITS[name]
    path = clip(name, kind)
    frames = read(path)
    checked = 0
    for number, size in _large_slices(path, kind.standard):
        bits = frames[number].bits
        assert bits is not None and (bits >= 0).all()
        assert abs(float(bits.sum()) / (8 * size) - 1) < 0.02, (frames[number], size)
        checked += 1
    assert checked >= 5


@pytest.mark.parametrize("name", ["h264-cabac-bits", "h264-cavlc-bits", "hevc-bits"])
def test_a_constant_quantiser_is_reported(name: str, clip: Clip) -> None:
    kind = Kind(codec=BITS[name].codec, params="qp=27:ipratio=1:pbratio=1:aq-mode=0:bframes=0")
    if kind.standard == "h264":
        kind = Kind(codec=kind.codec, params=kind.params + ":mbtree=0:cabac=1")
    else:
        kind = Kind(codec=kind.codec, params=kind.params + ":no-cutree=1")
    for frame in read(clip(f"{name}-constant", kind)):
        assert frame.qp is not None
        assert (frame.qp == 27).all(), (frame, np.unique(frame.qp))


def test_bits_follow_the_content(tmp_path: Path) -> None:
    def half_noise() -> Iterator[np.ndarray]:
        generator = np.random.default_rng(0)
        for _ in range(6):
            frame = np.full((96, 128, 3), 128, np.uint8)
            frame[:, 64:] = generator.integers(0, 256, (96, 64, 3))
            yield frame

    for codec in ("libx264", "libx265"):
        path = write_video(tmp_path / f"{codec}.mkv", half_noise(), codec=codec)
        for frame in read(path):
            assert frame.bits is not None
            # A coding unit of HEVC has 32 or 64 pixels: the border is at a multiple of both.
            assert frame.bits[:, 4:].sum() > 20 * frame.bits[:, :4].sum()
