"""Colours as JPEG files mean them, against arithmetic on RGB."""

from typing import Any

import numpy as np
import pytest

from cv_reader.media.conversion import Colors, are_planar, jpeg_planes

WEIGHTS = {1: (0.2126, 0.0722), 4: (0.3, 0.11), 5: (0.299, 0.114), 7: (0.212, 0.087)}
"""Red and blue weights of FFmpeg's matrix numbers."""


def _coded(rgb: Any, matrix: Any, full: bool) -> tuple[Any, ...]:
    """Luma and both differences of pixels, as floats."""
    red, blue = WEIGHTS[matrix]
    luma = rgb @ np.array([red, 1 - red - blue, blue])
    by_blue = (rgb[..., 2] - luma) / (2 - 2 * blue)
    by_red = (rgb[..., 0] - luma) / (2 - 2 * red)
    scales, black = ((1, 1), 0) if full else ((219 / 255, 224 / 255), 16)
    return luma * scales[0] + black, by_blue * scales[1] + 128, by_red * scales[1] + 128


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("color_range", [1, 2])
@pytest.mark.parametrize("times", [1, 2])
def test_colours_stay_what_they_are(matrix: int, color_range: int, times: int) -> None:
    rgb = np.random.default_rng(matrix).integers(20, 235, (9, 12, 3)).astype(float)
    rgb = rgb.repeat(times, axis=0).repeat(times, axis=1)
    luma, blue, red = _coded(rgb, matrix, color_range == 2)
    chroma = np.stack([blue, red])[:, ::times, ::times]
    planes = [np.rint(part).astype(np.uint8) for part in (luma, chroma)]
    found = jpeg_planes(*planes, Colors.named("yuv420p", matrix, color_range))
    expected = _coded(rgb, 5, full=True)
    for part, whole in zip((found[0], *found[1]), expected, strict=True):
        right = whole if part.shape == whole.shape else whole[::times, ::times]
        assert np.abs(part - right).max() < 1.7
        assert abs((part - right).mean()) < 0.2


def test_unknown_matrices_are_taken_as_bt601() -> None:
    assert Colors.named("yuv420p", 2, 0) == Colors(5, is_full=False)
    assert Colors.named("yuvj420p", 2, 0) == Colors(5, is_full=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("yuv420p", True), ("yuva444p10le", True), ("gray", True), ("yuv420p10be", False)]
    + [(name, False) for name in ("nv12", "yuyv422", "rgb24", "gbrp", "grayf32le", "yuv444p9")],
)
def test_only_whole_planes_are_scaled_alone(name: str, expected: Any) -> None:
    assert are_planar(name) == expected
