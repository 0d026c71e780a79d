"""The native residual is zero where nothing is coded, with any loop filter."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from support.media import texture, write_video
from support.native.clips import FILTERED, Kind, wandering
from support.native.compensator import Compensator
from support.native.identity import check_identity
from support.native.reading import read
from support.native.stock import decoded_luma
from support.paths import require_shared_data

if TYPE_CHECKING:
    from cv_reader_native import Memory

pytestmark = pytest.mark.usefixtures("native_reader")
Clip = Callable[[str, Kind], Path]

STATIC = {
    "libx264": "qp=30:aq-mode=0:mbtree=0:scenecut=0:weightp=0:weightb=0:psy=0",
    "libx265": "qp=30:aq-mode=0:no-cutree=1:no-scenecut=1:no-weightp=1:no-weightb=1:psy-rd=0",
}


def _static_left_half(path: Path, codec: str) -> Path:
    still = texture(96, 64, 5)
    frames = [np.concatenate([still, moving[:, :64]], axis=1) for moving in wandering()]
    name = "x264-params" if codec == "libx264" else "x265-params"
    return write_video(path, frames, codec=codec, options={name: STATIC[codec]})


@pytest.mark.parametrize("codec", STATIC)
def test_the_residual_is_zero_where_nothing_moves(codec: str, tmp_path: Path) -> None:
    frames = read(_static_left_half(tmp_path / "clip.mkv", codec))
    residual = np.stack([frame.residual_y for frame in frames[1:] if frame.residual_y is not None])
    # The moving half may share one coding unit with its neighbour.
    assert (residual[:, :, :32] == 0).mean() > 0.995
    assert (residual[-4:, :, :32] == 0).all()
    assert (residual[:, :, 64:] != 0).mean() > 0.02
    first = frames[0].residual_y
    assert first is not None and (first != 0).mean() > 0.2, "an intra picture codes its residual"


@pytest.mark.parametrize("name", FILTERED)
def test_maps_are_the_same_with_and_without_loop_filters(name: str, clip: Clip) -> None:
    path = clip(name, FILTERED[name])
    normal, skipped = (_decoded(path, skip_loop_filter=skip) for skip in (False, True))
    assert normal.keys() == skipped.keys() == set(range(14))
    luma = MAPS.index("luma")
    for number in normal:
        for place, (first, second) in enumerate(zip(normal[number], skipped[number], strict=True)):
            assert place == luma or first == second, (number, MAPS[place])
    assert any(normal[number][luma] != skipped[number][luma] for number in normal)


MAPS = ("residual", "motion", "distance", "bits", "qp", "luma")


def _decoded(path: Path, *, skip_loop_filter: bool) -> dict[int, list[bytes]]:
    """Maps and luma of each picture, straight from the decoder."""
    from cv_reader_native import Decoder

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        rank = {packet.pts: n for n, packet in enumerate(sorted(packets, key=lambda p: p.pts))}
        context = stream.codec_context
        decoder = Decoder(context.name, context.extradata or b"", skip_loop_filter=skip_loop_filter)
        pictures = [p for packet in packets for p in decoder.decode(packet, rank[packet.pts])]
        pictures += decoder.finish()
    return {
        picture.picture_id: [
            *(bytes(picture.map(name) or b"") for name in MAPS[:-1]),
            _shown(*picture.plane(0), *picture.size),
        ]
        for picture in pictures
    }


def _shown(plane: "Memory", pitch: int, width: int, height: int) -> bytes:
    """A plane without the padding of its rows."""
    return np.frombuffer(plane, np.uint8).reshape(-1, pitch)[:height, :width].tobytes()


@pytest.mark.parametrize("name", ["h264-filtered", "hevc-filtered"])
def test_filters_change_pixels_where_the_residual_stays_zero(name: str, clip: Clip) -> None:
    path = clip(name, FILTERED[name])
    frames, pictures = read(path), decoded_luma(path)
    compensator = Compensator(codec=FILTERED[name].standard, references=dict(enumerate(pictures)))
    changed = 0
    for frame, picture in zip(frames, pictures, strict=True):
        assert frame.motion is not None and frame.motion_ref is not None
        predicted, inter = compensator.predict(frame.index, frame.motion, frame.motion_ref)
        changed += int((inter & (frame.residual_y == 0) & (predicted != picture)).sum())
    assert changed > 1000


REAL = [("ytb_XwB-dkS5BVM.mp4", 90.9), ("ytb_YVQwAEKZpaU.mp4", 95.8)]


@pytest.mark.parametrize(("name", "percent"), REAL, ids=[name for name, _ in REAL])
def test_share_of_zero_residual_on_real_clips(name: str, percent: float) -> None:
    path = require_shared_data("real_videos", name)
    count = len(read(path, signals=False))
    ids = sorted(set(np.linspace(0, count - 1, 64).astype(int).tolist()))
    residual = [frame.residual_y for frame in read(path, ids)]
    share = 100 * np.mean([(part == 0).mean() for part in residual if part is not None])
    assert round(float(share), 1) == percent, share


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in REAL])
def test_real_clips_are_exact(name: str) -> None:
    path = require_shared_data("real_videos", name)
    frames, pictures = read(path), decoded_luma(path, skip_loop_filter=True)
    verdict = check_identity(
        frames, pictures, standard="h264", implicit_weights=True, fit_weights=True
    )
    assert verdict.wrong_pixels == 0, verdict
