"""Pixels of decoded pictures: what every backend on FFmpeg's decoders shares."""

from collections.abc import Generator, Sequence
from typing import Any, TypedDict, cast

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from cv_reader.backends.orientation import to_cells, turn_cells, turn_pixels, turn_vectors
from cv_reader.media.conversion import (
    Colors,
    Planes,
    converted_frame,
    planar,
    plane_samples,
    scaled_planes,
    sdr_planes,
    sdr_rgb,
)
from cv_reader.media.decoding import Decoded, DecodeOptions, decode
from cv_reader.media.display import Display
from cv_reader.media.frames import CodecFrame, Picture
from cv_reader.media.index import VideoSource

_PICT_TYPES = {1: "I", 2: "P", 3: "B", 4: "P", 5: "I", 6: "P", 7: "I"}
"""FFmpeg's picture types; the rarer ones (sprite, switching, BI) by what they may refer to."""

_AS_CODED = Display()


class ShownPicture:
    """What the pictures of every decoder have in common: their size as shown.

    Args:
        coded_size: columns and rows, cropped.
        display: display settings of their stream.
    """

    def __init__(self, coded_size: tuple[int, int], display: Display) -> None:
        self._coded_size = coded_size
        self._display = display

    @property
    def height_px(self) -> int:
        """Height as shown, in square pixels."""
        return self._display.shown_size(self._coded_size)[1]

    @property
    def width_px(self) -> int:
        """Width as shown, in square pixels."""
        return self._display.shown_size(self._coded_size)[0]

    @property
    def num_rows(self) -> int:
        """Rows as shown."""
        return self._display.turned(self._coded_size)[1]

    @property
    def num_columns(self) -> int:
        """Columns as shown."""
        return self._display.turned(self._coded_size)[0]


class AvPicture(ShownPicture):
    """The pixels of one FFmpeg picture, as shown."""

    def __init__(self, frame: VideoFrame, display: Display = _AS_CODED) -> None:
        super().__init__((frame.width, frame.height), display)
        self._frame = frame

    def rgb(self, size_px: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """uint8 (height_px, width_px, 3), or of another (width, height); BT.601 where no matrix is
        named."""
        display = self._display
        size = display.turned(size_px or (self.width_px, self.height_px))
        if display.tone_maps:
            array: NDArray[Any] = np.moveaxis(self._sdr(size), 0, 2)
        else:
            array = cast(
                NDArray[np.uint8], converted_frame(self._frame, "rgb24", size).to_ndarray()
            )
        return np.ascontiguousarray(turn_pixels(array, display.orientation))

    def planes(self, luma_px: tuple[int, int], chroma_px: tuple[int, int]) -> Planes:
        """Return planes scaled to (width, height), colours as in the stream; HDR as SDR."""
        display = self._display
        sizes = display.turned(luma_px), display.turned(chroma_px)
        if display.tone_maps:
            scaled, colors = sdr_planes(self._sdr(sizes[0]), sizes[1])
        else:
            frame = planar(self._frame)
            colors = Colors.named(frame.format.name, frame.colorspace, frame.color_range)
            scaled = scaled_planes(_samples(frame), frame.format.components[0].bits, *sizes)
        return Planes([turn_pixels(plane, display.orientation) for plane in scaled], colors)

    def luma(self) -> NDArray[np.uint8]:
        """uint8 (H, W), a copy."""
        return turn_pixels(coded_luma(self._frame), self._display.orientation)

    def _sdr(self, size_px: tuple[int, int]) -> NDArray[np.uint8]:
        """uint8 (3, height, width) before the turn: an HDR picture as SDR."""
        frame = planar(self._frame)
        is_full = Colors.named(frame.format.name, frame.colorspace, frame.color_range).is_full
        colors = self._display.colors._replace(matrix=frame.colorspace)
        bits = frame.format.components[0].bits
        return sdr_rgb(_samples(frame), bits, colors, is_full=is_full, size_px=size_px)


def _samples(frame: VideoFrame) -> list[NDArray[Any]]:
    """Return the planes of a planar picture."""
    return [plane_samples(frame, number) for number in range(len(frame.planes))]


def coded_luma(frame: VideoFrame) -> NDArray[np.uint8]:
    """Return the luma of a picture before rotation: uint8 (H, W), a copy.

    Stored values, in the stream's own range; samples of more than 8 bit are rounded to 8. Formats
    without a luma plane (RGB, packed, palette) are converted by FFmpeg's scaler.
    """
    name, bits = frame.format.name, frame.format.components[0].bits
    if not name.startswith(("yuv", "gray")) or bits > 16:
        frame, bits = VideoReformatter().reformat(frame, format="yuv444p"), 8
    plane = frame.planes[0]
    stored = np.frombuffer(memoryview(plane), np.uint8)[: plane.line_size * frame.height]
    lines = stored.reshape(frame.height, plane.line_size)
    if bits == 8:
        return lines[:, : frame.width].copy()
    samples = (
        lines[:, : 2 * frame.width].copy().view(">u2" if frame.format.is_big_endian else "<u2")
    )
    return narrowed(samples, bits)


def narrowed(samples: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Return samples of ``bits`` bit rounded to 8; those of 8 bit unchanged."""
    if bits == 8:
        return samples
    rounded = (samples.astype(np.uint32) + (1 << (bits - 9))) >> (bits - 8)
    return np.minimum(rounded, 255).astype(np.uint8)


def frame_facts(source: VideoSource, decoded: Decoded) -> "FrameFacts":
    """Return what a PyAV frame says without its maps, for ``CodecFrame(**facts, ...)``."""
    picture = AvPicture(decoded.frame, source.index.display)
    return shared_facts(source, decoded.number, int(decoded.frame.pict_type), picture)


def shared_facts(
    source: VideoSource, number: int, pict_type: int, picture: Picture
) -> "FrameFacts":
    """Return the same for any decoder's frame; ``pict_type`` is FFmpeg's number."""
    index = source.index
    is_key = bool(index.is_key[number])
    end = index.pts_seconds[0] + index.duration_seconds
    following = index.pts_seconds[number + 1] if number + 1 < index.num_frames else end
    return {
        "index": number,
        "pts_seconds": float(index.pts_seconds[number]),
        "duration_seconds": float(following - index.pts_seconds[number]),
        "pict_type": _PICT_TYPES.get(pict_type, "I" if is_key else "P"),
        "is_key": is_key,
        "packet_bytes": int(index.packet_bytes[number]),
        "picture": picture,
    }


class FrameFacts(TypedDict):
    """The fields of ``CodecFrame`` that every backend fills in alike."""

    index: int
    pts_seconds: float
    duration_seconds: float
    pict_type: str
    is_key: bool
    packet_bytes: int
    picture: Picture


def read_pixels(source: VideoSource, ids: Sequence[int], num_threads: int) -> Generator[CodecFrame]:
    """Decode frames without their maps: the cheapest read.

    Pictures that are not requested and that nothing refers to are not decoded.
    """
    packets, number = source.packets, np.asarray(ids, np.int64)
    needed = packets.is_reference.copy()
    needed[packets.packet_of_frame[number]] = needed[packets.last_of_frame[number]] = True
    for decoded in decode(source, ids, DecodeOptions(num_threads), needed):
        if decoded.is_wanted:
            yield CodecFrame(**frame_facts(source, decoded))


def assemble(
    source: VideoSource,
    decoded: Decoded,
    *,
    motion: NDArray[np.int16],
    motion_ref: NDArray[np.int16],
    residual_y: NDArray[np.int16],
    block_px: int,
) -> CodecFrame:
    """Return a frame as shown, from maps of the picture as coded.

    Args:
        motion: int16 (2, y, x, 2), per block of ``block_px``.
        motion_ref: int16 (2, y, x).
        residual_y: int16 (H, W).
    """
    height, width = residual_y.shape
    orientation = source.index.display.orientation
    vectors = to_cells(motion, block_px, height, width)
    directions = to_cells(motion_ref, block_px, height, width)
    return CodecFrame(
        **frame_facts(source, decoded),
        motion=turn_vectors(vectors, orientation, height, width),
        motion_ref=turn_cells(directions, orientation, height, width),
        residual_y=turn_pixels(residual_y, orientation),
    )
