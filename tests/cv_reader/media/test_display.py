"""The shape of samples and what is made of it: sizes, pixels, maps and the geometry of assets."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cv_reader import open_video, read_index
from cv_reader.assets.make import select_from_video
from cv_reader.backends import native
from cv_reader.media.display import Display, Orientation, usable_aspect
from cv_reader.reader import ReadOptions
from cv_reader.select.config import AssetConfig
from support.media import panning, set_mp4_rotation, write_video

BACKENDS = ["pyav", "estimated", *(["native"] if native.is_installed() else [])]


@pytest.mark.parametrize(
    ("coded", "aspect", "shown"),
    [
        ((720, 576), (16, 15), (768, 576)),
        ((720, 576), (64, 45), (1024, 576)),
        ((720, 576), (16, 11), (1047, 576)),
        ((720, 480), (8, 9), (640, 480)),
        ((720, 480), (32, 27), (853, 480)),
        ((1440, 1080), (4, 3), (1920, 1080)),
        ((960, 1080), (2, 1), (1920, 1080)),
        ((64, 48), (10, 1), (640, 48)),
        # Nothing said, nothing meant, or damage: square.
        *(((720, 576), aspect, (720, 576)) for aspect in [(0, 1), (1, 0), (1, 1), (-4, 3)]),
        *(((720, 576), aspect, (720, 576)) for aspect in [(404, 405), (3840, 3839)]),
        *(((720, 576), aspect, (720, 576)) for aspect in [(65535, 1), (1, 65535), (11, 1)]),
    ],
)
def test_rows_are_kept_and_columns_scaled(
    coded: tuple[int, int], aspect: tuple[int, int], shown: tuple[int, int]
) -> None:
    display = Display(sample_aspect=usable_aspect(*aspect))
    assert display.shown_size(coded) == shown
    turned = Display(Orientation(90), usable_aspect(*aspect))
    assert turned.shown_size(coded) == shown[::-1]
    assert turned.turned(coded) == coded[::-1]


def _clip(path: Path, sar: str, size: tuple[int, int] = (96, 72), codec: str = "libx264") -> Path:
    name = "x264-params" if codec == "libx264" else "x265-params"
    return write_video(path, panning(4, *size), codec=codec, options={name: f"sar={sar}"})


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_anamorphic_video_has_its_shown_shape(codec: str, suffix: str, tmp_path: Path) -> None:
    # x265 takes the number of 2:1 in the table of the standard.
    sar = "16" if codec == "libx265" else "2/1"
    path = _clip(tmp_path / f"clip.{suffix}", sar, codec=codec)
    backends = [name for name in BACKENDS if (codec, name) != ("libx265", "pyav")]
    for backend in ["auto", *backends]:
        with open_video(path, backend=backend) as video:
            index = video.index
            assert (index.width_px, index.height_px) == (144, 96)
            assert (index.num_columns, index.num_rows) == (72, 96)
            assert index.shown["sample_aspect_ratio"] == "2:1"
            frame = next(video.frames([2]))
            assert frame.rgb().shape == (96, 144, 3)
            assert frame.luma().shape == (96, 72)
            assert frame.residual_y is not None and frame.residual_y.shape == (96, 72)
            assert frame.motion is not None and frame.motion.shape == (2, 24, 18, 2)


def test_the_parameters_suffice_where_the_container_is_silent(tmp_path: Path) -> None:
    path = _clip(tmp_path / "clip.mp4", "4/3")
    assert b"pasp" not in path.read_bytes()
    for backend in BACKENDS:
        with open_video(path, backend=backend) as video:
            assert (video.index.width_px, video.index.height_px) == (96, 96)


def test_the_container_comes_before_the_parameters(tmp_path: Path) -> None:
    path = _clip(tmp_path / "clip.mp4", "4/3")
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 76  # width and height of the track, 16.16 fixed point
    assert data[at : at + 8] == (72 << 16).to_bytes(4, "big") + (96 << 16).to_bytes(4, "big")
    data[at : at + 4] = (144 << 16).to_bytes(4, "big")
    path.write_bytes(data)
    for backend in BACKENDS:
        with open_video(path, backend=backend) as video:
            assert (video.index.width_px, video.index.height_px) == (144, 96)


def test_turned_and_anamorphic(tmp_path: Path) -> None:
    path = _clip(tmp_path / "clip.mp4", "2/1")
    set_mp4_rotation(path, 90)
    with open_video(path) as video:
        assert (video.index.width_px, video.index.height_px) == (96, 144)
        frame = next(video.frames([0]))
        assert frame.rgb().shape == (144, 96, 3) and frame.luma().shape == (72, 96)


def test_a_shown_shape_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = _clip(tmp_path / "clip.mp4", "10/1", size=(16, 2048))
    with pytest.raises(Exception, match="20480x16"):
        read_index(path)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("degrees", [0, 90])
def test_assets_have_the_geometry_of_the_shown_shape(
    backend: str, degrees: int, tmp_path: Path
) -> None:
    """A clip that was squeezed for storage gives the asset of the clip that was not."""
    wide = list(panning(6, 96, 192, velocity=(0, 4)))
    narrow = [np.asarray(Image.fromarray(frame).resize((96, 96))) for frame in wide]
    config = AssetConfig(sequence_length=6, num_images=2, square_size=96, patch_size=8)
    found = []
    for name, frames, sar in (("wide", wide, "1/1"), ("narrow", narrow, "2/1")):
        path = tmp_path / f"{name}.mp4"
        write_video(path, frames, options={"crf": "12", "x264-params": f"sar={sar}"})
        set_mp4_rotation(path, degrees)
        found.append(
            select_from_video(path, config, ReadOptions(backend=backend), keep_pictures=True)
        )
    one, other = found
    for name in ("H0", "W0", "pad_info", "valid_ranges"):
        assert one.facts[name] == other.facts[name]
    assert other.facts["shown"]["sample_aspect_ratio"] == "2:1"
    for slot, square in one.squares.items():
        difference = square.luma.astype(int) - other.squares[slot].luma.astype(int)
        assert np.abs(difference).mean() < 4
    assert one.box.valid_cells().tolist() == other.box.valid_cells().tolist()
    outside = ~one.box.valid_cells()
    assert not other.scores[:, outside].any()


def test_sample_aspects_of_disc_and_tape_are_meant() -> None:
    assert usable_aspect(16, 11) == Fraction(16, 11)
    assert usable_aspect(2 * 160, 2 * 99) == Fraction(160, 99)
