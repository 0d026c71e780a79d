"""Clips for tests, made with real encoders through PyAV: small, deterministic, with known content.

Axis legend: frames are uint8 (H, W, 3) RGB.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

os.environ.setdefault("SVT_LOG", "1")  # read by the AV1 encoder when it starts: errors alone

import av  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

Frame = NDArray[np.uint8]

_QUIET: dict[str, dict[str, str]] = {
    "libx264": {
        "threads": "1",
        "preset": "veryfast",
        "bf": "2",
        "x264-params": "log-level=none:asm=0",
    },
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime", "threads": "1"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
}
"""Options that make an encoder quiet, quick and independent of the number of cores.

``asm=0``: x264's assembler makes choices that depend on the addresses of its buffers.
"""


def write_video(
    path: Path,
    frames: Iterable[Frame],
    *,
    codec: str = "libx264",
    frame_rate: int = 25,
    options: Mapping[str, str] | None = None,
    pixel_format: str = "yuv420p",
    pts: Iterable[int] | None = None,
    time_base: Fraction | None = None,
    muxer_options: Mapping[str, str] | None = None,
) -> Path:
    """Encode frames into a file; the suffix of ``path`` chooses the container.

    Args:
        frames: uint8 (H, W, 3), all of one size.
        options: encoder options; they join the quiet ones, ``x264-params`` and ``x265-params`` too.
        pts: presentation time of each frame in ``time_base`` units (default: 0, 1, 2, ...).
        time_base: unit of ``pts`` (default: one frame of ``frame_rate``).
        muxer_options: options of the container.

    Returns:
        ``path``.
    """
    times = iter(pts) if pts is not None else None
    with (
        _ordinary_priority(),
        av.open(
            str(path), "w", options={"fflags": "+bitexact", **(muxer_options or {})}
        ) as container,
    ):
        stream = None
        for number, array in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec, rate=frame_rate)
                stream.height, stream.width = array.shape[:2]
                stream.pix_fmt = pixel_format
                stream.options = _merged_options(codec, options)
                stream.codec_context.time_base = time_base or Fraction(1, frame_rate)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            frame.pts = number if times is None else next(times)
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))
    return path


ClipKind = tuple[str, str, Mapping[str, str]]
"""Encoder, suffix of the file, options of the encoder."""


def clips_by_name(
    folder: Path, kinds: Mapping[str, ClipKind], num_frames: int
) -> Callable[[str], Path]:
    """Return a function that makes a clip of a moving square by its name in ``kinds``, once."""

    def make(name: str) -> Path:
        codec, suffix, options = kinds[name]
        path = folder / f"{name}.{suffix}"
        if not path.exists():
            square = moving_square(num_frames, 64, 96, (1, 3))
            write_video(path, square, codec=codec, options=options)
        return path

    return make


@contextmanager
def _ordinary_priority() -> Generator[None]:
    """Undo what the AV1 encoder does where root runs it: it gives the calling thread, and so all
    processes that are started from there, the highest real-time priority of the machine."""
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def moving_square(
    num_frames: int,
    height_px: int,
    width_px: int,
    velocity: tuple[int, int] = (0, 2),
    *,
    square_px: int = 24,
    start: tuple[int, int] = (8, 8),
    seed: int = 0,
) -> Iterator[Frame]:
    """A textured square that moves over a textured, still background.

    Args:
        velocity: pixels per frame, (down, right); the square wraps around at the borders.
        start: the square's top left corner in frame 0, (row, column).
        seed: of the two textures; equal arguments give equal pixels.

    Yields:
        uint8 (height_px, width_px, 3).
    """
    background = texture(height_px, width_px, seed)
    square = 255 - texture(square_px, square_px, seed + 1)
    for number in range(num_frames):
        frame = background.copy()
        rows = (start[0] + number * velocity[0] + np.arange(square_px)) % height_px
        columns = (start[1] + number * velocity[1] + np.arange(square_px)) % width_px
        frame[np.ix_(rows, columns)] = square
        yield frame


def panning(
    num_frames: int,
    height_px: int,
    width_px: int,
    velocity: tuple[int, int] = (0, 4),
    *,
    seed: int = 0,
) -> Iterator[Frame]:
    """A window that slides over a large texture by ``velocity`` (down, right) pixels per frame.

    The content so moves by ``-velocity``: a block's reference is at ``+velocity``.

    Yields:
        uint8 (height_px, width_px, 3).
    """
    reach = [abs(step) * (num_frames - 1) for step in velocity]
    world = texture(height_px + reach[0], width_px + reach[1], seed)
    for number in range(num_frames):
        row, column = (
            step * number if step >= 0 else extent + step * number
            for step, extent in zip(velocity, reach, strict=True)
        )
        yield world[row : row + height_px, column : column + width_px].copy()


def texture(height_px: int, width_px: int, seed: int = 0) -> Frame:
    """Smooth random texture, uint8 (height_px, width_px, 3), with detail at 4 and 16 pixels."""
    generator = np.random.default_rng(seed)
    image = np.full((height_px, width_px, 3), 128.0)
    for cell_px, amplitude in ((4, 30.0), (16, 60.0)):
        rows, columns = height_px // cell_px + 2, width_px // cell_px + 2
        grid = generator.uniform(-amplitude, amplitude, (rows, columns, 3))
        image += _upsample(_upsample(grid, 0, cell_px, height_px), 1, cell_px, width_px)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def set_mp4_rotation(path: Path, degrees: int, *, is_mirrored: bool = False) -> None:
    """Rewrite the display matrix of an MP4's only track: shown ``degrees`` clockwise turned.

    Any multiple of 90, or 45 for a matrix that no reader of whole pixels can follow; mirrored left
    to right before the turn on request.
    """
    turns = {0: (1, 0), 45: (0.7071, 0.7071), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}
    cosine, sine = turns[degrees]
    across = -1 if is_mirrored else 1
    numbers = (across * cosine, across * sine, 0, -sine, cosine, 0)
    matrix = [round(value * 65536) for value in numbers]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of header fields
    data[at : at + 24] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)


def set_mp4_edit_start(path: Path, media_time: int) -> None:
    """Rewrite the first edit of an MP4's only track to start at ``media_time`` (media units)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4 + 8 + 4  # version 0: flags, count, duration, then media time
    data[at : at + 4] = media_time.to_bytes(4, "big", signed=True)
    path.write_bytes(data)


def _upsample(grid: NDArray[np.float64], axis: int, cell_px: int, size_px: int) -> NDArray:
    """Linear interpolation of a grid along one axis."""
    place = np.arange(size_px) / cell_px
    low = place.astype(np.int64)
    weight = (place - low).reshape([-1 if axis == a else 1 for a in range(grid.ndim)])
    return grid.take(low, axis) * (1 - weight) + grid.take(low + 1, axis) * weight


def _merged_options(codec: str, options: Mapping[str, str] | None) -> dict[str, str]:
    """The quiet options of a codec, overlaid with the caller's."""
    merged = dict(_QUIET.get(codec, {}))
    for name, value in (options or {}).items():
        joins = name.endswith("-params") and name in merged
        merged[name] = f"{merged[name]}:{value}" if joins else value
    return merged
