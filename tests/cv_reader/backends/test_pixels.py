"""Colours, deep samples and odd sizes, against arithmetic on the decoded planes."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from cv_reader import open_video
from cv_reader.backends.pixels import AvPicture, coded_luma
from cv_reader.media.display import Display, Orientation
from support.media import moving_square, set_mp4_rotation, texture, write_video

WEIGHTS = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Red and blue weights of FFmpeg's matrix numbers; 2 is unknown, taken as BT.601."""


def _by_formula(frame: av.VideoFrame, matrix: int, full: bool) -> np.ndarray:
    luma, blue, red = (
        np.frombuffer(bytes(plane), np.uint8)
        .reshape(plane.height, plane.line_size)[:, : plane.width]
        .astype(float)
        for plane in frame.planes
    )
    if not full:
        luma, blue, red = ((luma - 16) * 255 / 219, *((c - 128) * 255 / 224 for c in (blue, red)))
    else:
        blue, red = blue - 128, red - 128
    red_weight, blue_weight = WEIGHTS[matrix]
    r = luma + 2 * (1 - red_weight) * red
    b = luma + 2 * (1 - blue_weight) * blue
    g = (luma - red_weight * r - blue_weight * b) / (1 - red_weight - blue_weight)
    return np.clip(np.stack([r, g, b], axis=-1), 0, 255)


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("color_range", [0, 1, 2])
def test_rgb_follows_matrix_and_range(matrix: int, color_range: int) -> None:
    frame = av.VideoFrame.from_ndarray(texture(48, 64), format="rgb24").reformat(format="yuv444p")
    frame.colorspace, frame.color_range = matrix, color_range
    expected = _by_formula(frame, matrix, full=color_range == 2)
    for _ in range(2):
        assert np.abs(AvPicture(frame).rgb() - expected).mean() < 1.3
    other = _by_formula(frame, 1 if matrix != 1 else 2, full=color_range == 2)
    assert np.abs(other - expected).mean() > 1.5 or matrix == 9


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "rgb24"])
@pytest.mark.parametrize("size", [(80, 54), (160, 108), (50, 34), (160, 60)])
def test_scaled_pixels_are_those_of_scaling_afterwards(
    pixel_format: str, size: tuple[int, int]
) -> None:
    smooth = Image.fromarray(texture(12, 18)).resize((160, 108), Image.Resampling.BICUBIC)
    frame = av.VideoFrame.from_ndarray(np.asarray(smooth)).reformat(format=pixel_format)
    whole = Image.fromarray(AvPicture(frame).rgb())
    expected = np.asarray(whole.resize(size, Image.Resampling.BICUBIC)).astype(float)
    scaled = AvPicture(frame).rgb(size)
    assert scaled.shape == (size[1], size[0], 3)
    assert np.abs(scaled - expected).mean() < 1.5
    turned = AvPicture(frame, Display(Orientation(90))).rgb((size[1], size[0]))
    np.testing.assert_array_equal(turned, np.rot90(scaled, -1))


@pytest.mark.parametrize("degrees", [0, 90])
@pytest.mark.parametrize(
    "pixel_format", ["yuv420p", "yuvj422p", "yuv444p", "yuv420p10le", "gray", "gray12le", "nv12"]
)
def test_planes_are_scaled_each_by_itself(pixel_format: str, degrees: int) -> None:
    smooth = Image.fromarray(texture(6, 8)).resize((63, 47), Image.Resampling.BICUBIC)
    frame = av.VideoFrame.from_ndarray(np.asarray(smooth)).reformat(format=pixel_format)
    full = frame.reformat(format="yuvj444p" if "j" in pixel_format else "yuv444p")
    sizes = [(40, 30), (20, 15), (20, 15)]
    found = AvPicture(frame, Display(Orientation(degrees))).planes(
        *[size[:: -1 if degrees else 1] for size in sizes[:2]]
    )
    for number, (plane, size) in enumerate(zip(found.samples, sizes, strict=True)):
        whole = np.frombuffer(bytes(full.planes[number]), np.uint8).reshape(47, -1)[:, :63]
        expected = np.asarray(Image.fromarray(whole).resize(size, Image.Resampling.BICUBIC))
        if "gray" in pixel_format:
            expected = coded_luma(frame) if number == 0 else np.full((15, 20), 128)
            if number == 0:
                expected = np.asarray(Image.fromarray(expected).resize(size, 3))
        assert np.abs(plane.astype(int) - np.rot90(expected, -degrees // 90)).mean() < 1.2


def test_scaling_to_its_own_size_changes_nothing() -> None:
    frame = av.VideoFrame.from_ndarray(texture(48, 64), format="rgb24").reformat(format="yuv420p")
    rgb = AvPicture(frame).rgb()
    np.testing.assert_array_equal(AvPicture(frame).rgb((64, 48)), rgb)


def test_conversion_does_not_remember_the_picture_before() -> None:
    frame = av.VideoFrame.from_ndarray(texture(48, 64), format="rgb24").reformat(format="yuv420p")
    before = AvPicture(frame).rgb()
    frame.colorspace = 1
    changed = AvPicture(frame).rgb()
    frame.colorspace = 2
    np.testing.assert_array_equal(AvPicture(frame).rgb(), before)
    assert (changed != before).any()


@pytest.mark.parametrize(
    ("codec", "pixel_format", "bits"),
    [
        ("libx264", "yuv420p10le", 10),
        ("libx265", "yuv420p10le", 10),
        ("libx264", "yuv422p", 8),
        ("libx264", "yuv444p", 8),
        ("ffv1", "yuv420p12le", 12),
        ("ffv1", "gray", 8),
    ],
)
def test_luma_is_the_stored_plane(tmp_path: Path, codec: str, pixel_format: str, bits: int) -> None:
    path = write_video(
        tmp_path / "clip.mkv", moving_square(3, 64, 96), codec=codec, pixel_format=pixel_format
    )
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        plane = frame.planes[0]
        samples = np.frombuffer(bytes(plane), np.uint16 if bits > 8 else np.uint8)
        samples = samples.reshape(plane.height, -1)[:, :96].astype(float)
    expected = np.minimum(np.floor(samples / 2 ** (bits - 8) + 0.5), 255)
    with open_video(path) as video:
        first = next(iter(video.frames()))
        np.testing.assert_array_equal(first.luma(), expected)
        assert first.rgb().shape == (64, 96, 3)


def test_rgb_streams_have_a_luma(tmp_path: Path) -> None:
    pixels = next(moving_square(1, 64, 96))
    path = write_video(tmp_path / "clip.mkv", [pixels], codec="ffv1", pixel_format="bgr0")
    with open_video(path) as video:
        (frame,) = video.frames()
        np.testing.assert_array_equal(frame.rgb(), pixels)
        expected = 16 + (pixels @ np.array([0.299, 0.587, 0.114])) * 219 / 255
        assert np.abs(frame.luma() - expected).max() < 2


@pytest.mark.parametrize(("height", "width"), [(61, 97), (2, 2), (33, 17)])
def test_odd_sizes(tmp_path: Path, height: int, width: int) -> None:
    frames = moving_square(4, height, width, square_px=min(height, 16) // 2 + 1)
    path = write_video(tmp_path / "clip.mkv", frames, codec="ffv1", pixel_format="yuv444p")
    with open_video(path) as video:
        for frame in video.frames():
            assert frame.rgb().shape == (height, width, 3)
            assert frame.luma().shape == (height, width)
            assert frame.motion is not None
            assert frame.motion.shape == (2, -(-height // 4), -(-width // 4), 2)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_turns_pixels(tmp_path: Path, degrees: int) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(4, 64, 96))
    with open_video(path) as video:
        upright = [(frame.rgb(), frame.luma()) for frame in video.frames(signals=False)]
    set_mp4_rotation(path, degrees)
    with open_video(path) as video:
        for frame, (rgb, luma) in zip(video.frames(), upright, strict=True):
            np.testing.assert_array_equal(frame.rgb(), np.rot90(rgb, -degrees // 90))
            np.testing.assert_array_equal(frame.luma(), np.rot90(luma, -degrees // 90))


def test_padding_of_the_decoder_is_cut_off() -> None:
    frame = av.VideoFrame(50, 30, "yuv420p")
    for plane in frame.planes:
        plane.update(np.full(plane.buffer_size, 9, np.uint8).tobytes())
    assert coded_luma(frame).shape == (30, 50)
