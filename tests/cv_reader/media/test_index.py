"""The packet index against what a plain decode of the same file shows."""

from pathlib import Path

import av
import numpy as np
import pytest

from cv_reader import open_video, read_index
from cv_reader.errors import CorruptVideoError
from cv_reader.media.index import scan
from support.media import moving_square, set_mp4_edit_start, set_mp4_rotation, write_video
from support.tolerances import MILLISECONDS, SECONDS

CONTAINERS = [
    ("libx264", "mp4"),
    ("libx264", "mkv"),
    ("libx264", "ts"),
    ("libx264", "flv"),
    ("libx264", "avi"),
    ("libx264", "h264"),
    ("libx265", "mkv"),
    ("libx265", "hevc"),
    ("libvpx-vp9", "webm"),
    ("libsvtav1", "mkv"),
    ("mpeg4", "avi"),
    ("mpeg2video", "ts"),
    ("mpeg2video", "mpg"),
    ("mjpeg", "avi"),
]


def _clip(folder: Path, codec: str = "libx264", suffix: str = "mp4", frames: int = 24) -> Path:
    options = (
        {"g": "10"} if codec in ("libx265", "libsvtav1", "libvpx-vp9") else {"g": "10", "bf": "2"}
    )
    return write_video(
        folder / f"clip.{suffix}",
        moving_square(frames, 64, 96),
        codec=codec,
        options={} if codec == "mjpeg" else options,
        pixel_format="yuvj420p" if codec == "mjpeg" else "yuv420p",
    )


def _decoded(path: Path) -> list[tuple[float | None, bool]]:
    """Time and key flag of every picture, in the order in which PyAV alone gives them."""
    with av.open(str(path)) as container:
        return [(frame.time, bool(frame.key_frame)) for frame in container.decode(video=0)]


@pytest.mark.parametrize(("codec", "suffix"), CONTAINERS)
def test_one_entry_per_shown_picture(tmp_path: Path, codec: str, suffix: str) -> None:
    path = _clip(tmp_path, codec, suffix)
    index, decoded = read_index(path), _decoded(path)
    assert index.num_frames == len(decoded) == 24
    assert (index.width_px, index.height_px, index.rotation_degrees) == (96, 64, 0)
    assert index.is_key.tolist() == [key for _, key in decoded]
    assert (np.diff(index.pts_seconds) >= 0).all()
    assert index.size_bytes == path.stat().st_size
    assert index.mtime_ns == path.stat().st_mtime_ns
    assert 0 < index.packet_bytes.sum() <= index.size_bytes


@pytest.mark.parametrize(
    ("codec", "suffix"), [c for c in CONTAINERS if c[1] in ("mp4", "mkv", "ts")]
)
def test_times_are_the_container_s(tmp_path: Path, codec: str, suffix: str) -> None:
    path = _clip(tmp_path, codec, suffix)
    index = read_index(path)
    np.testing.assert_allclose(
        index.pts_seconds, [time for time, _ in _decoded(path)], atol=SECONDS
    )
    assert index.duration_seconds == pytest.approx(24 / 25, abs=0.002)
    assert index.frame_rate == pytest.approx(25, rel=0.01)


@pytest.mark.parametrize("suffix", ["h264", "avi"])
def test_packets_without_presentation_times_are_put_in_shown_order(
    tmp_path: Path, suffix: str
) -> None:
    known = read_index(_clip(tmp_path, suffix="mp4"))
    index = read_index(_clip(tmp_path, suffix=suffix))
    assert index.is_key.tolist() == known.is_key.tolist()
    # Key pictures carry their headers with them here, and in the MP4 not.
    others = ~known.is_key
    assert index.packet_bytes[others].tolist() == known.packet_bytes[others].tolist()
    np.testing.assert_allclose(index.pts_seconds, np.arange(24) / 25, atol=SECONDS)


def test_packet_sizes_stand_with_their_pictures(tmp_path: Path) -> None:
    path = _clip(tmp_path)
    with av.open(str(path)) as container:
        sizes = {packet.pts: packet.size for packet in container.demux(video=0) if packet.size}
    assert read_index(path).packet_bytes.tolist() == [sizes[pts] for pts in sorted(sizes)]


def test_variable_frame_rate_counts_frames_not_time(tmp_path: Path) -> None:
    pts = np.cumsum([0, 1, 1, 7, 1, 1, 12, 1, 3, 1, 1, 1])
    path = write_video(tmp_path / "clip.mp4", moving_square(12, 64, 96), pts=pts.tolist())
    index = read_index(path)
    np.testing.assert_allclose(index.pts_seconds, pts / 25, atol=SECONDS)
    assert index.num_frames == 12


def test_start_offset_is_kept(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", moving_square(6, 64, 96), pts=range(50, 56))
    np.testing.assert_allclose(
        read_index(path).pts_seconds, np.arange(50, 56) / 25, atol=MILLISECONDS
    )


def test_frames_that_an_edit_list_discards_do_not_count(tmp_path: Path) -> None:
    path = _clip(tmp_path)
    whole = read_index(path)
    set_mp4_edit_start(path, 1024 + 5 * 512)
    index = read_index(path)
    assert index.num_frames == len(_decoded(path)) == 19
    assert index.pts_seconds[0] == 0
    assert index.packet_bytes.tolist() == whole.packet_bytes[5:].tolist()


def test_edit_list_that_discards_all_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(3, 64, 96))
    set_mp4_edit_start(path, 10**6)
    with pytest.raises(CorruptVideoError, match=r"frame|edit"):
        read_index(path)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_swaps_sides(tmp_path: Path, degrees: int) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(3, 64, 96))
    set_mp4_rotation(path, degrees)
    index = read_index(path)
    assert index.rotation_degrees == degrees
    assert (index.width_px, index.height_px) == ((64, 96) if degrees % 180 else (96, 64))


def test_odd_sizes_are_kept(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "clip.mkv", moving_square(3, 61, 97), codec="ffv1", pixel_format="yuv444p"
    )
    index = read_index(path)
    assert (index.width_px, index.height_px) == (97, 61)


def test_invisible_pictures_do_not_count(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.webm", moving_square(12, 64, 96), codec="libvpx")
    with av.open(str(path)) as container:
        packet = [bytes(packet) for packet in container.demux(video=0)][5]
    data = bytearray(path.read_bytes())
    data[data.index(packet)] &= ~0x10  # the bit of the frame header that says "show"
    path.write_bytes(data)
    assert read_index(path).num_frames == len(_decoded(path)) == 11


def test_pictures_before_the_first_key_frame_do_not_count(tmp_path: Path) -> None:
    path = _clip(tmp_path, suffix="ts")
    whole = scan(path)
    # Cut the start off, so that the stream begins in the middle of its first group.
    cut = tmp_path / "cut.ts"
    at = int(whole.packets.position[5]) // 188 * 188
    tables = path.read_bytes()[: 188 * 3]
    cut.write_bytes(tables + path.read_bytes()[at:])
    index = read_index(cut)
    assert index.is_key[0]
    assert index.num_frames == 14


def test_time_stamps_that_jump_back_go_on_where_they_were(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    clip = write_video(tmp_path / "part.mkv", moving_square(140, 64, 96), options={"bf": "0"})
    with av.open(str(clip)) as source, av.open(str(path), "w") as out:
        target = out.add_stream_from_template(source.streams.video[0])
        packets = (packet for packet in source.demux(video=0) if packet.size)
        for number, packet in enumerate(packets):
            packet.stream = target
            packet.dts = number * 40
            packet.pts = packet.dts + (5600 if number < 70 else 0)
            out.mux(packet)
    index = read_index(path)
    np.testing.assert_allclose(index.pts_seconds, 5.6 + np.arange(140) / 25, atol=SECONDS)
    assert index.pts_exactness == "approximate"
    with open_video(path) as video:
        assert [frame.index for frame in video.frames()] == list(range(140))


def test_decoding_starts_at_the_key_frame_before(tmp_path: Path) -> None:
    packets = scan(_clip(tmp_path)).packets
    rank = packets.rank[packets.start_of_frame]
    assert rank.tolist() == [0] * 10 + [10] * 10 + [20] * 4


def test_leading_pictures_are_decoded_from_the_group_before(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "clip.mkv",
        moving_square(24, 64, 96),
        codec="libx265",
        options={"g": "10", "bf": "3", "x265-params": "open-gop=1:keyint=10:min-keyint=10"},
    )
    packets = scan(path).packets
    keys = [int(packets.frame[row]) for row in sorted(set(packets.start_of_frame.tolist()))]
    leading = [
        frame
        for frame, row in enumerate(packets.packet_of_frame)
        if any(frame < key and row > packets.packet_of_frame[key] for key in keys)
    ]
    assert leading
    for frame in leading:
        start = packets.frame[packets.start_of_frame[frame]]
        assert start in keys
        assert start < frame
