"""Native maps are those of the picture as shown: turned with it, vectors too."""

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from cv_reader import open_video
from cv_reader.media.frames import CodecFrame
from cv_reader.media.index import scan
from support.media import panning, set_mp4_rotation, write_video
from support.native.clips import FILTERED, Kind, make
from support.native.reading import read

pytestmark = pytest.mark.usefixtures("native_reader")


def _turned(vectors: np.ndarray, degrees: int) -> np.ndarray:
    """Vectors (x, y), y down, turned clockwise."""
    x, y = vectors[..., 0], vectors[..., 1]
    turned = {90: (-y, x), 180: (-x, -y), 270: (y, -x)}[degrees]
    return np.stack(turned, axis=-1)


def _maps(frame: CodecFrame) -> list[np.ndarray]:
    assert frame.residual_y is not None and frame.bits is not None and frame.qp is not None
    return [frame.residual_y, frame.bits, frame.qp, frame.luma(), frame.rgb()]


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("name", ["h264-filtered", "hevc-filtered"])
def test_maps_and_vectors_turn_with_the_picture(name: str, degrees: int, tmp_path: Path) -> None:
    kind: Kind = FILTERED[name]
    upright = make(kind, tmp_path / "upright.mp4")
    turned = Path(shutil.copy(upright, tmp_path / "turned.mp4"))
    set_mp4_rotation(turned, degrees)
    moved = 0
    for before, after in zip(read(upright), read(turned), strict=True):
        turns = -degrees // 90
        for first, second in zip(_maps(before), _maps(after), strict=True):
            assert np.array_equal(np.rot90(first, turns), second), after
        assert before.motion is not None and before.motion_ref is not None
        assert after.motion is not None and after.motion_ref is not None
        vectors = _turned(np.rot90(before.motion, turns, axes=(1, 2)), degrees)
        assert np.array_equal(vectors, after.motion), after
        assert np.array_equal(np.rot90(before.motion_ref, turns, axes=(1, 2)), after.motion_ref)
        moved += int((before.motion != 0).sum())
    assert moved > 1000


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_maps_of_odd_sizes_cover_the_whole_picture(codec: str, tmp_path: Path) -> None:
    kind = Kind(codec=codec, params="crf=24", height_px=90, width_px=122)
    for frame in read(make(kind, tmp_path / "clip.mkv")):
        assert frame.motion is not None and frame.residual_y is not None
        assert frame.bits is not None and frame.qp is not None
        assert frame.motion.shape == (2, 23, 31, 2)
        assert frame.residual_y.shape == frame.luma().shape == (90, 122)
        assert frame.bits.shape == frame.qp.shape == (6, 8)


def test_a_plain_header_spares_the_first_picture(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", panning(5, 90, 122))
    trusted, probed = scan(path, trust_header=True), scan(path)
    assert trusted.probe_skipped and not probed.probe_skipped
    assert repr(trusted.index) == repr(probed.index)
    set_mp4_rotation(path, 90)
    assert not scan(path, trust_header=True).probe_skipped


def test_a_size_that_the_header_gets_wrong_does_no_harm(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", panning(5, 64, 96))
    data = path.read_bytes()
    place = data.index(b"avc1", data.index(b"stsd")) + 4 + 24  # the entry's width and height
    assert data[place : place + 4] == bytes([0, 96, 0, 64])
    path.write_bytes(data[:place] + bytes([0, 80, 0, 48]) + data[place + 4 :])
    assert scan(path, trust_header=True).first.width_px == 80
    with open_video(path, backend="native") as video:
        assert (video.index.num_columns, video.index.num_rows) == (96, 64)
        # The track's header, which is right, makes FFmpeg find samples of 9:10 in 80 x 48 pixels.
        assert (video.index.width_px, video.index.height_px) == (86, 64)
        assert [frame.luma().shape for frame in video.frames()] == [(64, 96)] * 5


def test_pictures_that_turn_themselves_are_turned(tmp_path: Path) -> None:
    """By a message (SEI) in the stream, of which the container knows nothing."""
    plain = write_video(tmp_path / "plain.mp4", panning(5, 64, 96))
    path = tmp_path / "turned.mp4"
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        video = source.streams.video[0]
        stream = target.add_stream_from_template(video)
        turn = BitStreamFilterContext("h264_metadata=display_orientation=insert:rotate=90", video)
        for packet in source.demux(video):
            for turned in turn.filter(packet if packet.size else None):
                turned.stream = stream
                target.mux(turned)
    assert scan(path, trust_header=True).probe_skipped
    degrees = scan(path).index.rotation_degrees
    assert degrees in (90, 270)
    with open_video(path, backend="native") as video:
        assert video.index.rotation_degrees == degrees
        assert [frame.luma().shape for frame in video.frames()] == [(96, 64)] * 5
