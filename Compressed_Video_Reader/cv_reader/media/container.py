"""Opening a file: its video stream, its first picture, and FFmpeg's errors in our own words."""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av import error as error_classes
from av.codec.context import ThreadType
from av.container import InputContainer
from av.error import FFmpegError
from av.sidedata.sidedata import SideData, SideDataContainer
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from cv_reader.errors import CorruptVideoError, UnsupportedVideoError, VideoNotFoundError
from cv_reader.media.container_header import check_claims
from cv_reader.media.display import Colorimetry, Display, Orientation, usable_aspect
from cv_reader.media.h264 import ShownBySequence
from cv_reader.partial_files import find_partial, open_binary

MAX_SIDE_PX = 16384
MAX_AREA_PX = 1 << 26
"""Larger pictures are refused before anything is allocated for them; 8K video has half of it."""

MAX_PARAMETER_BYTES = 1 << 20
"""Larger records of a codec's parameters are refused; usual ones have some hundred bytes."""

DECODE_ERRORS = (FFmpegError, ValueError)
"""What PyAV raises for a packet that cannot be decoded; the second where no decoder will open."""

_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails
"""Covers and previews, which players do not show as the video."""

_TEXT_CODECS = ("ansi", "bintext", "xbin", "idf")
"""FFmpeg draws plain text files as pictures under these names."""


_LENIENT: dict[str, Any] = (
    {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
)
"""Accept metadata in any encoding; PyAV does so by itself from version 19."""


_WITHOUT_DECODING = {"skip_frame": "all"}


@dataclass(frozen=True)
class FirstPicture:
    """What only a decoded picture says about a stream.

    Attributes:
        width_px: coded width, cropped, before rotation.
        height_px: coded height, cropped, before rotation.
        stored_width_px: coded width before cropping.
        stored_height_px: coded height before cropping.
        display: how pictures are shown.
    """

    width_px: int
    height_px: int
    stored_width_px: int
    stored_height_px: int
    display: Display


@contextmanager
def open_stream(
    path: str, *, without_decoding: bool = False, stream_index: int | None = None
) -> Generator[tuple[InputContainer, VideoStream]]:
    """Open a local file, and find the video stream that players show.

    Args:
        path: the file.
        without_decoding: PyAV decodes its first picture at most. FFmpeg then need not decode some
            in advance to learn how far pictures are reordered.
        stream_index: take this stream, found before: FFmpeg's choice depends on how much it read.

    Raises:
        VideoNotFoundError: nothing to open at the path.
        CorruptVideoError: the file is empty or ends before its first packet.
        UnsupportedVideoError: not a video, no video stream, no decoder, or absurd dimensions.
    """
    _check_file(path)
    if stream_index is None:
        check_claims(path)
    spared = _WITHOUT_DECODING if without_decoding and _declares_all(path) else {}
    with _open(path, spared) as container:
        stream = _choose_stream(container, path, stream_index)
        if stream.codec_context.extradata_size > MAX_PARAMETER_BYTES:
            raise UnsupportedVideoError(
                path,
                f"its codec's parameters of {stream.codec_context.extradata_size} bytes exceed the "
                f"limit of {MAX_PARAMETER_BYTES}; re-encode it",
            )
        if stream.width == 0 and _is_animated_webp(path):
            raise UnsupportedVideoError(
                path, "is an animated WebP, which FFmpeg does not decode; convert it to MP4 or GIF"
            )
        check_size(stream.width, stream.height, path)
        yield container, stream


def describe(error: FFmpegError) -> str:
    """Return FFmpeg's own words for an error, without its number and the path."""
    return (error.strerror or type(error).__name__).rstrip(".")


def set_threads(stream: VideoStream, num_threads: int, *, by_frame: bool) -> None:
    """Choose how many threads decode, and whether several pictures may be decoded at once."""
    stream.codec_context.thread_count = num_threads
    parallel = by_frame and num_threads > 1
    stream.codec_context.thread_type = ThreadType.AUTO if parallel else ThreadType.SLICE


def side_data(frame: VideoFrame, name: str, path: str) -> SideData | None:
    """Return a frame's side data by its FFmpeg name, or None.

    ``frame.side_data`` is not used: it stores a container in the frame that points back at the
    frame, a cycle that keeps every picture in memory until the garbage collector happens to run.
    A container of our own goes away with the last reference.

    Raises:
        UnsupportedVideoError: the frame carries side data of a kind that PyAV does not know.
    """
    try:
        return _all_side_data(frame).get(name)
    except ValueError as error:
        raise UnsupportedVideoError(path, f"{error}; convert it with a plain encoder") from error


def _all_side_data(frame: VideoFrame) -> Mapping[str, SideData]:
    """Return all side data by name; PyAV also accepts other keys."""
    all_data = SideDataContainer(frame)  # pyright: ignore[reportCallIssue] (no __init__ in the stub)
    return cast(Mapping[str, SideData], all_data)


def first_picture(frame: VideoFrame, stream: VideoStream, path: str) -> FirstPicture:
    """Read off a decoded picture what its stream's pictures are and how they are shown.

    Raises:
        UnsupportedVideoError: the picture is turned by anything but right angles, or its
            dimensions are absurd.
    """
    check_size(frame.width, frame.height, path)
    context = stream.codec_context
    display = declared_display(stream)
    orientation = _orientation(frame, path)
    return FirstPicture(
        width_px=frame.width,
        height_px=frame.height,
        stored_width_px=max(context.coded_width, frame.width),
        stored_height_px=max(context.coded_height, frame.height),
        display=replace(display, orientation=orientation),
    )


def declared_display(stream: VideoStream, sequence: ShownBySequence | None = None) -> Display:
    """Return how pictures are shown, but for their orientation, by the container and the codec.

    The container's sample aspect ratio comes before the codec's, and the codec's colours before the
    container's, as in FFmpeg.

    Args:
        stream: whose decoder has seen a picture, or parameters of the codec.
        sequence: what H.264's parameters say, where the decoder has seen none.
    """
    context = stream.codec_context
    found = cast(Any, stream).sample_aspect_ratio or context.sample_aspect_ratio or Fraction(1)
    aspect: tuple[int, int] = (found.numerator, found.denominator)
    colors = Colorimetry(
        context.colorspace, context.color_range, context.color_trc, context.color_primaries
    )
    if sequence is not None:
        if not stream.sample_aspect_ratio and sequence.sample_aspect[0]:
            aspect = sequence.sample_aspect
        said = (sequence.matrix, sequence.color_range, sequence.transfer, sequence.primaries)
        unsaid = Colorimetry()
        colors = Colorimetry(
            *(
                theirs if theirs != nothing else ours
                for theirs, nothing, ours in zip(said, unsaid, colors, strict=True)
            )
        )
    return Display(sample_aspect=usable_aspect(*aspect), colors=colors)


def _check_file(path: str) -> None:
    if not os.path.exists(path):
        raise VideoNotFoundError(path, "no such file; check the path")
    if not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a pipe or a device"
        raise VideoNotFoundError(path, f"is {kind}, not a video file; give one file")
    if not os.access(path, os.R_OK):
        raise VideoNotFoundError(path, "may not be read; change its permissions")
    if os.path.getsize(path) == 0:
        raise CorruptVideoError(path, "is empty (0 bytes); copy or download it again")


def _declares_all(path: str) -> bool:
    """Return whether a file looks like an MP4, whose header says what other formats leave to the
    pictures."""
    with open_binary(path) as file:
        return file.read(8)[4:] == b"ftyp"


def _open(path: str, options: dict[str, str]) -> InputContainer:
    try:
        # "file:" keeps a colon in a name from being taken for a protocol, and the whitelist keeps
        # a play list from leading to the network.
        is_whole = find_partial(path) is None
        opened = cast(Any, av.open)(
            f"file:{path}" if is_whole else open_binary(path),
            options=options,
            container_options={"protocol_whitelist": "file"},
            **_LENIENT,
        )
        return cast(InputContainer, opened)
    except error_classes.EOFError as error:
        raise CorruptVideoError(path, "ends before its first packet; copy it again") from error
    except FFmpegError as error:
        with open_binary(path) as file:
            head = file.read(12)
        if head[4:8] == b"ftyp":
            reason = "is an MP4 whose index (moov) is missing or damaged, most likely truncated"
            raise CorruptVideoError(path, f"{reason}; copy or download it again") from error
        reason = f"is not a video that FFmpeg recognises ({describe(error)})"
        raise UnsupportedVideoError(path, f"{reason}; convert it or leave it out") from error


def _choose_stream(container: InputContainer, path: str, stream_index: int | None) -> VideoStream:
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & _NO_VIDEO and _is_decodable(stream)
    ]
    if stream_index is not None:
        streams = [stream for stream in streams if stream.index == stream_index]
    if not streams:
        if any(not stream.disposition & _NO_VIDEO for stream in container.streams.video):
            raise UnsupportedVideoError(path, "no decoder for its video stream; convert it")
        raise UnsupportedVideoError(
            path, f"holds no video stream (only: {_other_kinds(container)}); leave it out"
        )
    best = container.streams.best("video")
    stream = max(streams, key=lambda stream: _rank(stream, best))
    if stream.codec_context.codec.canonical_name in _TEXT_CODECS:
        raise UnsupportedVideoError(path, "is a text file, not a video; leave it out")
    return stream


def _is_animated_webp(path: str) -> bool:
    """Return whether a file is a WebP whose extended header has the flag for animations."""
    with open_binary(path) as file:
        header = file.read(21)
    is_extended = header[:4] == b"RIFF" and header[8:16] == b"WEBPVP8X"
    return is_extended and len(header) == 21 and bool(header[20] & 2)


def _other_kinds(container: InputContainer) -> str:
    """Name the kinds of streams but video.

    ``Stream.type`` is not used: for a kind that FFmpeg does not know, as in damaged files, PyAV 15
    reads from a null pointer and crashes.
    """
    streams = container.streams
    kinds = {"audio": streams.audio, "data": streams.data, "subtitle": streams.subtitles}
    return ", ".join(name for name, found in kinds.items() if found) or "nothing known"


def _is_decodable(stream: VideoStream) -> bool:
    # PyAV types the context as always there; it is None where FFmpeg has no decoder.
    return cast(object, stream.codec_context) is not None


def _rank(stream: VideoStream, best: Stream | None) -> tuple[bool, bool, int, int]:
    """FFmpeg's best stream, unless that is a cover: then a default one, then a large one."""
    return (
        best is not None and stream.index == best.index,
        Disposition.default in stream.disposition,
        stream.width * stream.height,
        -stream.index,
    )


def check_size(width_px: int, height_px: int, path: str) -> None:
    """Refuse pictures of absurd dimensions, before memory is taken for them.

    Raises:
        CorruptVideoError: a side is 0 or less.
        UnsupportedVideoError: a side, or the area, exceeds the limit.
    """
    if width_px == height_px == 0:
        raise CorruptVideoError(
            path,
            "does not say how large its pictures are: its parameter sets are missing, perhaps cut "
            "off with its beginning; copy it again from a key picture on",
        )
    if width_px < 1 or height_px < 1:
        raise CorruptVideoError(
            path, f"declares a picture of {width_px}x{height_px} pixels; copy it again"
        )
    if max(width_px, height_px) > MAX_SIDE_PX or width_px * height_px > MAX_AREA_PX:
        raise UnsupportedVideoError(
            path,
            f"its pictures of {width_px}x{height_px} pixels exceed the limit of {MAX_SIDE_PX} per "
            f"side and {MAX_AREA_PX} in all; scale it down",
        )


def _orientation(frame: VideoFrame, path: str) -> Orientation:
    """Return the orientation by the display matrix, if the picture has one."""
    data = side_data(frame, "DISPLAYMATRIX", path)
    if data is None:
        return Orientation()
    matrix: list[int] = np.frombuffer(bytes(data), "<i4")[[0, 1, 3, 4]].tolist()
    orientation = Orientation.of_matrix(matrix)
    if orientation is None:
        shares = [round(value / (1 << 16), 2) for value in matrix]
        raise UnsupportedVideoError(
            path,
            f"its display matrix {shares} turns the picture by other than right angles; re-encode "
            "it upright",
        )
    return orientation
