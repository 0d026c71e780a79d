"""Streams that x264 and x265 do not write: made bit by bit, decoded by stock FFmpeg as well."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet

from cv_reader import open_video, read_index
from cv_reader.media.frames import CodecFrame
from support.native import h264_writer, hevc_writer
from support.native.h264_writer import H264Stream
from support.native.hevc_writer import HevcStream
from support.native.identity import check_identity
from support.native.nal import is_slice, units
from support.native.reading import differing_fields, read, read_or_refusal, read_pixels
from support.native.stock import decoded_luma

pytestmark = pytest.mark.usefixtures("native_reader")
Stream = H264Stream | HevcStream

_TICKS = 3600
_HEADER_BYTES = 120
"""More than the entry points of a picture take."""

STREAMS: dict[str, Stream] = {
    "h264-plain": H264Stream(),
    "h264-slices": H264Stream(slice_blocks=7),
    "h264-long-term": H264Stream(long_term=True, num_pictures=9),
    "h264-several-sets": H264Stream(num_picture_sets=3, repeat_sets=True),
    "h264-frames-of-an-interlaced-sequence": H264Stream(fields=frozenset({99})),
    "hevc-plain": HevcStream(),
    "hevc-slices": HevcStream(slice_units=11),
    "hevc-dependent-slices": HevcStream(dependent_units=7),
    "hevc-tiles": HevcStream(tile_columns=2, tile_rows=2),
    "hevc-tiles-of-unequal-size": HevcStream(columns=7, tile_columns=3, tile_rows=2),
    "hevc-tiles-and-slices": HevcStream(rows=4, tile_columns=2, tile_rows=2, slice_units=4),
    "hevc-tiles-and-dependent-slices": HevcStream(
        rows=4, tile_columns=2, tile_rows=2, slice_units=8, dependent_units=2
    ),
    "hevc-wavefront": HevcStream(wavefront=True),
    "hevc-wavefront-by-dependent-slices": HevcStream(wavefront=True, dependent_units=8),
    "hevc-wavefront-and-slices": HevcStream(wavefront=True, dependent_units=4, slice_units=16),
    "hevc-long-term": HevcStream(long_term=True, num_pictures=9),
    "hevc-two-sets": HevcStream(two_parameter_sets=True),
}

FIELDS: dict[str, H264Stream] = {
    "some": H264Stream(fields=frozenset({2, 3, 5})),
    "last": H264Stream(fields=frozenset({4, 5})),
    "all-but-the-first": H264Stream(fields=frozenset(range(1, 6))),
    "long-term": H264Stream(fields=frozenset({2, 3, 5}), long_term=True),
}


def _standard(stream: Stream) -> str:
    return "h264" if isinstance(stream, H264Stream) else "hevc"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a stream once."""
    folder = tmp_path_factory.mktemp("rare")

    def get(name: str) -> Path:
        stream = STREAMS[name]
        path = folder / f"{name}.{_standard(stream)}"
        if not path.exists():
            writer = h264_writer if isinstance(stream, H264Stream) else hevc_writer
            path.write_bytes(writer.write(stream))  # type: ignore[arg-type]
        return path

    return get


@pytest.mark.parametrize("name", STREAMS)
def test_rare_streams_are_exact(name: str, raw: Callable[[str], Path]) -> None:
    path, standard = raw(name), _standard(STREAMS[name])
    pictures = decoded_luma(path)
    assert len(pictures) == STREAMS[name].num_pictures
    assert not _stock_complains(path)
    frames = read(path)
    assert all(map(np.array_equal, (frame.luma() for frame in frames), pictures))
    verdict = check_identity(frames, pictures, standard=standard)
    assert verdict.wrong_pixels == 0, verdict
    assert verdict.inter_pixels == (len(frames) - 1) * pictures[0].size, "only frame 0 is intra"
    if "long-term" in name:
        assert min(verdict.distances[0]) == -(len(frames) - 1), "the last looks at the first"
    _assert_bits_add_up(frames, path, standard)
    _assert_same(frames, read(path, num_threads=4))


def _assert_bits_add_up(frames: list[CodecFrame], path: Path, standard: str) -> None:
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for frame, packet in zip(frames, packets, strict=True):
        slices = [unit for unit in units(packet, b"", standard) if is_slice(unit, standard)]
        assert frame.bits is not None
        coded = float(frame.bits.sum()) / 8
        # Every slice and substream ends on a whole byte, behind a header or an end mark.
        assert 0 <= sum(map(len, slices)) - coded <= _HEADER_BYTES + 12 * len(slices), frame


def _stock_complains(path: Path) -> bool:
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.options = {"err_detect": "explode"}
        return any(frame.is_corrupt for frame in container.decode(video=0))


def _assert_same(first: list[CodecFrame], second: list[CodecFrame]) -> None:
    pairs = zip(first, second, strict=True)
    assert not [a.index for a, b in pairs if differing_fields(a, b)]


@pytest.mark.parametrize("suffix", ["h264", "ts", "mkv", "mp4"])
@pytest.mark.parametrize("name", FIELDS)
def test_fields_are_refused_by_name_and_their_pictures_stand(
    name: str, suffix: str, tmp_path: Path
) -> None:
    stream = FIELDS[name]
    raw = tmp_path / "raw.h264"
    raw.write_bytes(h264_writer.write(stream))
    path = tmp_path / f"clip.{suffix}"
    if suffix == "h264":
        path = raw
    else:
        _mux(raw, h264_writer.write_pictures(stream), path)
    expected = decoded_luma(path)
    index = read_index(path)
    assert index.num_frames == len(expected) == stream.num_pictures
    assert np.allclose(np.diff(index.pts_seconds), 0.04)
    pieces = [len(piece) for piece in h264_writer.write_pictures(stream)]
    assert np.abs(index.packet_bytes - pieces).max() < 20, "both fields count"
    refusal = read_or_refusal(path)
    assert isinstance(refusal, str) and "field-coded" in refusal
    with open_video(path) as video:
        assert video.backend != "native", "told before the first frame, so that another reads it"
    assert all(map(np.array_equal, (f.luma() for f in read_pixels(path)), expected))
    for ids in ([0], [3], [2, 5], [1, 4]):
        with open_video(path) as video:
            shown = [frame.luma() for frame in video.frames(ids, signals=False)]
        assert all(map(np.array_equal, shown, (expected[number] for number in ids)))


def _mux(raw: Path, pieces: Iterable[bytes], path: Path) -> None:
    """Both fields of a frame as one packet, as containers want it."""
    with av.open(str(raw)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        for number, piece in enumerate(pieces):
            packet = Packet(piece)
            packet.pts = packet.dts = number * _TICKS
            packet.duration = _TICKS
            packet.time_base = Fraction(1, 25 * _TICKS)
            packet.is_keyframe = number == 0
            packet.stream = stream
            target.mux(packet)
