"""Colours and sizes of pictures, by FFmpeg's scaler.

Mosaics become JPEG files, which hold luma and colour differences as video streams do. So planes are
scaled without a conversion to RGB, which costs three times as much.
"""

import functools
import re
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from cv_reader.media.display import Colorimetry

_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.SMPTE170M,
    7: Colorspace.SMPTE240M,
    9: 9,
    10: 9,
}
"""Number of the scaler for each of FFmpeg's matrix numbers (ITU-T H.273); 9 is BT.2020."""

_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
"""Weights of red and blue in the luma, by the same number."""

_FULL_RANGE = 2
_NOTHING = 1e-6
_BT601 = int(Colorspace.ITU601)
_BT2020 = 9
NEUTRAL = 128
"""Colour difference of grey samples."""
_MAX_CONVERTERS = 4
_PLANAR = re.compile(r"(yuv[aj]?4\d\dp|gray)(9le|10le|12le|14le|16le)?")


class Colors(NamedTuple):
    """What luma and colour differences mean.

    Attributes:
        matrix: FFmpeg's number.
        is_full: whether they use all of 0..255.
    """

    matrix: int
    is_full: bool

    @classmethod
    def named(cls, format_name: str, matrix: int, color_range: int) -> "Colors":
        """Return colours by FFmpeg's names and numbers.

        A matrix that is unknown, or not named, is taken as BT.601 at every size of the picture:
        FFmpeg's scaler, and with it OpenCV, torchcodec and decord, reads such files so.
        """
        is_full = color_range == _FULL_RANGE or format_name.startswith("yuvj")
        return cls(matrix if matrix in _MATRICES else _BT601, is_full)

    @property
    def black_luma(self) -> int:
        """Black's sample."""
        return 0 if self.is_full else 16


class Planes(NamedTuple):
    """A picture as its stream holds it, but of 8 bit.

    Attributes:
        samples: uint8 (rows, columns): luma, blue and red difference.
        colors: what they mean.
    """

    samples: list[NDArray[np.uint8]]
    colors: Colors


def are_planar(format_name: str) -> bool:
    """Return whether a pixel format of FFmpeg holds luma and colour differences in separate planes,
    each of which can be scaled alone."""
    return _PLANAR.fullmatch(format_name) is not None


def planar(frame: VideoFrame) -> VideoFrame:
    """Return a picture as planes, of its own size."""
    if are_planar(frame.format.name):
        return frame
    is_rgb = frame.format.is_rgb or frame.format.has_palette
    frame = VideoReformatter().reformat(frame, format="yuv444p")
    if is_rgb:
        frame.colorspace, frame.color_range = _BT601, 0
    return frame


def scaled_planes(
    planes: Sequence[NDArray[Any]],
    bits: int,
    luma_px: tuple[int, int],
    chroma_px: tuple[int, int],
) -> list[NDArray[np.uint8]]:
    """Scale planes: luma bicubically, colour differences by area (bilinearly where they grow).

    Args:
        planes: luma and two colour differences, (rows, columns) of uint8, or of uint16 where
            deeper; or luma alone.
        bits: bits of a sample.
        luma_px: width and height.
        chroma_px: size in pixels of both differences.
    """
    name = "gray" if bits == 8 else f"gray{bits}le"
    luma = _scaled(planes[0], name, luma_px, Interpolation.BICUBIC)
    if len(planes) == 1:
        neutral = np.broadcast_to(np.uint8(NEUTRAL), chroma_px[::-1])
        return [luma, neutral, neutral]
    return [luma, *(_scaled(plane, name, chroma_px, Interpolation.AREA) for plane in planes[1:3])]


def _scaled(
    plane: NDArray[Any],
    name: str,
    size_px: tuple[int, int],
    interpolation: Interpolation,
    target: str = "gray",
) -> NDArray[Any]:
    frame = VideoFrame.from_numpy_buffer(plane, name)
    converter = _converter(name, plane.shape, size_px, interpolation, target)
    scaled = converter.reformat(frame, *size_px, target, interpolation=interpolation)
    return plane_samples(scaled, 0)


def sdr_rgb(
    planes: Sequence[NDArray[Any]],
    bits: int,
    colors: Colorimetry,
    *,
    is_full: bool,
    size_px: tuple[int, int],
) -> NDArray[np.uint8]:
    """Show an HDR picture as SDR; see ``cv_reader.media.tone``.

    Args:
        planes: as ``scaled_planes`` takes them.
        bits: bits of a sample.
        colors: a matrix that is not named is BT.2020.
        is_full: whether samples use the full range.
        size_px: (width, height) to scale to, before anything else.

    Returns:
        uint8 (3, height, width), R, G and B.
    """
    # Imported here: few videos are HDR.
    from cv_reader.media.tone import tone_mapped

    name = "gray" if bits == 8 else f"gray{bits}le"
    scaled = [_scaled(plane, name, size_px, Interpolation.BICUBIC, name) for plane in planes[:3]]
    if len(scaled) == 1:
        scaled += [np.full_like(scaled[0], NEUTRAL << (bits - 8))] * 2
    weights = _WEIGHTS.get(colors.matrix, _WEIGHTS[_BT2020])
    return tone_mapped(scaled, bits, weights, is_full, colors)


def sdr_planes(rgb: NDArray[np.uint8], chroma_px: tuple[int, int]) -> Planes:
    """Return R, G and B, uint8 (3, height, width), as JPEG files hold them: luma of that size, and
    colour differences averaged to ``chroma_px``."""
    matrix = np.linalg.inv(_to_rgb(_BT601)).astype(np.float32)
    luma, *chroma = np.tensordot(matrix, rgb.astype(np.float32), 1)
    samples = [_of_8_bit(np.rint(luma))]
    samples += [
        _scaled(_of_8_bit(np.rint(plane + NEUTRAL)), "gray", chroma_px, Interpolation.AREA)
        for plane in chroma
    ]
    return Planes(samples, Colors(_BT601, is_full=True))


def plane_samples(frame: VideoFrame, number: int) -> NDArray[Any]:
    """Return a plane without a copy: (rows, columns) of uint8, or of uint16 where deeper."""
    plane, deep = frame.planes[number], frame.format.components[number].bits > 8
    samples = np.frombuffer(memoryview(plane), np.uint16 if deep else np.uint8)
    columns = plane.line_size // samples.itemsize
    return samples[: plane.height * columns].reshape(-1, columns)[:, : plane.width]


def jpeg_planes(
    luma: NDArray[np.uint8], chroma: NDArray[np.uint8], colors: Colors
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Convert colours to those of JPEG files: BT.601, all of 0..255.

    Args:
        luma: uint8 (height, width).
        chroma: uint8 (2, rows, columns), blue and red difference; a part of that size or the same.
        colors: what they mean.
    """
    (scale, *to_luma), *to_chroma = _to_jpeg(colors)
    blue, red = chroma.astype(np.float32) - NEUTRAL
    # Scaled by a whole number of 256ths, in 16 bit: this plane is the largest, so its cost counts.
    light: NDArray[np.int16] = luma.astype(np.int16)
    np.subtract(light, colors.black_luma, out=light)
    more = light * np.int16(round((scale - 1) * 256))
    more += 128
    more >>= 8
    np.add(light, more, out=light)
    if any(to_luma):
        share = np.rint(to_luma[0] * blue + to_luma[1] * red).astype(np.int16)
        times = len(light) // len(share)
        rows = light.reshape(len(share), times, -1)
        rows += share.repeat(times, axis=1)[:, None]
    turned = [to_blue * blue + to_red * red + NEUTRAL for _, to_blue, to_red in to_chroma]
    return _of_8_bit(light), _of_8_bit(np.rint(turned))


@functools.lru_cache(maxsize=16)
def _to_jpeg(colors: Colors) -> NDArray[np.float32]:
    """Return the matrix (3, 3) that ``jpeg_planes`` applies."""
    matrix = np.linalg.solve(_to_rgb(_BT601), _to_rgb(colors.matrix))
    matrix[np.abs(matrix) < _NOTHING] = 0
    if not colors.is_full:
        matrix *= 255 / np.array([219, 224, 224])
    return matrix.astype(np.float32)


def _of_8_bit(samples: NDArray[Any]) -> NDArray[np.uint8]:
    return np.clip(samples, 0, 255, out=samples).astype(np.uint8)


def _to_rgb(matrix: int) -> NDArray[np.float64]:
    """Return the matrix (3, 3) from luma, blue and red difference (full range, around 0) to RGB."""
    red, blue = _WEIGHTS.get(matrix, _WEIGHTS[_BT601])
    green = 1 - red - blue
    to_red, to_blue = 2 * (1 - red), 2 * (1 - blue)
    return np.array(
        [
            [1, 0, to_red],
            [1, -to_blue * blue / green, -to_red * red / green],
            [1, to_blue, 0],
        ]
    )


def converted_frame(
    frame: VideoFrame, name: str, size_px: tuple[int, int] | None = None
) -> VideoFrame:
    """Convert a picture to another format and (width, height), by its own matrix and range."""
    width, height = size_px or (frame.width, frame.height)
    colors: tuple[int, int] = (frame.colorspace, frame.color_range)
    source = (frame.format.name, frame.width, frame.height, *colors)
    converter = _converter(source, name, (width, height))
    if frame.format.is_rgb:
        return converter.reformat(
            frame, width, height, format=name, interpolation=Interpolation.BICUBIC
        )
    full = frame.color_range == _FULL_RANGE
    return converter.reformat(
        frame,
        width,
        height,
        format=name,
        interpolation=Interpolation.BICUBIC,
        src_colorspace=_MATRICES.get(frame.colorspace, Colorspace.DEFAULT),
        dst_colorspace=Colorspace.DEFAULT,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        # Means nothing for RGB, but settings apply only where source and target differ.
        dst_color_range=ColorRange.MPEG,
    )


class _Kept(threading.local):
    """The last converters of a thread: setting one up costs as much as scaling a small picture."""

    def __init__(self) -> None:
        self.converters: dict[object, VideoReformatter] = {}


_kept = _Kept()


def _converter(*settings: object) -> VideoReformatter:
    # A converter keeps the settings of earlier pictures, so each kind of picture has its own.
    if settings not in _kept.converters:
        if len(_kept.converters) == _MAX_CONVERTERS:
            _kept.converters.clear()
        _kept.converters[settings] = VideoReformatter()
    return _kept.converters[settings]
