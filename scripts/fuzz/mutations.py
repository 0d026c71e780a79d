"""Sound clips, and reproducible ways to damage them.

Axis legend: frames are uint8 (H, W, 3) RGB.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from kinds import make_kinds
from numpy.random import Generator
from numpy.typing import NDArray

_NUM_FRAMES = 12
_TRIES = 4
_ENCODER_SECONDS = 20

_ENCODERS = {
    "h264": ("libx264", "x264-params", "keyint=6:scenecut=0:bframes=2:ref=3:repeat-headers=1"),
    "h264_cavlc": ("libx264", "x264-params", "keyint=6:cabac=0:slices=3:bframes=0:ref=2"),
    "h264_fields": ("libx264", "x264-params", "keyint=6:tff=1:bframes=1"),
    "hevc": (
        "libx265",
        "x265-params",
        "keyint=6:min-keyint=6:bframes=2:amp=1:rect=1:repeat-headers=1",
    ),
    "hevc_wpp": ("libx265", "x265-params", "keyint=6:pools=2:wpp=1:ctu=16:max-tu-size=16"),
}
_SIZES = ((96, 64), (128, 96), (56, 48))
"""Width and height; chosen by turns."""

_DEEP = ("h264_deep", "hevc_deep")
_CONTAINERS = ("mp4", "mkv", "raw")


def make_seeds(folder: Path) -> list[Path]:
    """Encode the sound clips: each encoder setting in each container, and the unusual kinds."""
    folder.mkdir(parents=True)
    paths = []
    names = [*_ENCODERS, *_DEEP]
    for place, (name, container) in enumerate((n, c) for n in names for c in _CONTAINERS):
        base = name.removesuffix("_deep")
        suffix = name.split("_")[0] if container == "raw" else container
        path = folder / f"{name}_{place}.{suffix}"
        pixel_format = "yuv420p10le" if name in _DEEP else "yuv420p"
        _make(path, base, _SIZES[place % len(_SIZES)], pixel_format)
        paths.append(path)
    paths += [_changing_size(folder, standard, paths) for standard in ("h264", "hevc")]
    return paths + make_kinds(folder)


def mutant(seeds: list[Path], seed: int, number: int) -> tuple[str, str, bytes]:
    """File ``number`` of a seed: what was done to it, its suffix, and its bytes."""
    generator = np.random.default_rng([seed, number])
    path = seeds[number % len(seeds)]
    data = path.read_bytes()
    steps = []
    for _ in range(int(generator.integers(1, 4))):
        name = str(generator.choice(list(_MUTATIONS)))
        other = seeds[int(generator.integers(len(seeds)))].read_bytes()
        data = _MUTATIONS[name](data, other, generator) or data
        steps.append(name)
    return f"{path.name}: {', '.join(steps)}", path.suffix[1:], data


def _make(path: Path, encoder: str, size: tuple[int, int], pixel_format: str) -> None:
    """Encode in a process of its own: the thread pool of x265 may wait for itself forever."""
    for _ in range(_TRIES):
        arguments = (path, encoder, size, pixel_format)
        process = get_context("fork").Process(target=_encode, args=arguments)
        process.start()
        process.join(_ENCODER_SECONDS)
        if process.exitcode == 0:
            return
        process.kill()
        process.join()
    raise RuntimeError(f"the encoder did not finish {path.name} in {_TRIES} tries")


def _encode(path: Path, encoder: str, size: tuple[int, int], pixel_format: str) -> None:
    codec, parameter, value = _ENCODERS[encoder]
    # Without its assembler x264 gives the same bytes everywhere.
    quiet = "log-level=none:" + ("asm=0" if codec == "libx264" else "pools=none:frame-threads=1")
    # With its index first, an MP4 that is cut or shifted still opens.
    options = {
        "fflags": "+bitexact",
        **({"movflags": "faststart"} if path.suffix == ".mp4" else {}),
    }
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.options = {"preset": "veryfast", "threads": "1", parameter: f"{quiet}:{value}"}
        for number, picture in enumerate(_content(*size)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _content(width_px: int, height_px: int) -> Iterator[NDArray[np.uint8]]:
    """Waves that slide over each other, and a little noise."""
    generator = np.random.default_rng(width_px)
    rows, columns = np.mgrid[:height_px, :width_px]
    for number in range(_NUM_FRAMES):
        wave = np.sin((columns + 1.3 * number) / 5) + np.sin((rows - 0.8 * number) / 7)
        picture = 128 + 45 * wave[..., None] + generator.normal(0, 4, (height_px, width_px, 3))
        yield np.clip(picture, 0, 255).astype(np.uint8)


def _changing_size(folder: Path, standard: str, paths: list[Path]) -> Path:
    """Raw streams of different sizes end to end."""
    parts = [path.read_bytes() for path in paths if path.suffix == f".{standard}"]
    joined = folder / f"{standard}_sizes.{standard}"
    joined.write_bytes(b"".join(parts))
    return joined


def _flip_bits(data: bytes, other: bytes, generator: Generator) -> bytes:
    changed = bytearray(data)
    for place in generator.integers(0, 8 * len(data), int(2 ** generator.uniform(0, 7))):
        changed[place >> 3] ^= 1 << (place & 7)
    return bytes(changed)


def _truncate(data: bytes, other: bytes, generator: Generator) -> bytes:
    return data[: int(generator.integers(1, len(data)))]


def _overwrite(data: bytes, other: bytes, generator: Generator) -> bytes:
    start, size = _range(data, generator, 200)
    fill = (b"\0" * size, b"\xff" * size, generator.bytes(size))[generator.integers(3)]
    return data[:start] + fill + data[start + size :]


def _remove(data: bytes, other: bytes, generator: Generator) -> bytes:
    start, size = _range(data, generator, 2000)
    return data[:start] + data[start + size :]


def _repeat(data: bytes, other: bytes, generator: Generator) -> bytes:
    start, size = _range(data, generator, 2000)
    return data[: start + size] + data[start:]


def _splice(data: bytes, other: bytes, generator: Generator) -> bytes:
    return data[: generator.integers(1, len(data))] + other[generator.integers(len(other)) :]


def _insert(data: bytes, other: bytes, generator: Generator) -> bytes:
    start, size = _range(other, generator, 1500)
    place = int(generator.integers(len(data)))
    return data[:place] + other[start : start + size] + data[place:]


def _shuffle_units(data: bytes, other: bytes, generator: Generator) -> bytes:
    """Drop, double and reorder the units between start codes."""
    units = data.split(b"\0\0\1")
    if len(units) < 3:
        return _flip_bits(data, other, generator)
    chosen = generator.choice(len(units) - 1, len(units) - 1) + 1
    order = np.where(generator.random(len(chosen)) < 0.8, np.arange(1, len(units)), chosen)
    return b"\0\0\1".join([units[0], *(units[place] for place in order)])


def _damage_headers(data: bytes, other: bytes, generator: Generator) -> bytes:
    """Flip bits close to parameter sets and slice headers, where sizes and counts are coded."""
    marks = [place for mark in _HEADER_MARKS for place in _find_all(data, mark)]
    if not marks:
        return _flip_bits(data, other, generator)
    changed = bytearray(data)
    for _ in range(int(generator.integers(1, 4))):
        place = marks[generator.integers(len(marks))] + int(generator.integers(3, 24))
        changed[min(place, len(data) - 1)] ^= 1 << int(generator.integers(8))
    return bytes(changed)


_HEADER_MARKS = (
    b"\0\0\1",
    b"\x01avcC",
    b"avcC",
    b"hvcC",
    b"\x67\x64",
    b"\x42\x01\x01",
    b"stsz",
    b"tkhd",
    b"pasp",
    b"colr",
    b"vide",
    b"moov",
)


def _find_all(data: bytes, mark: bytes) -> Iterator[int]:
    place = data.find(mark)
    while place >= 0:
        yield place
        place = data.find(mark, place + 1)


def _range(data: bytes, generator: Generator, longest: int) -> tuple[int, int]:
    start = int(generator.integers(len(data)))
    return start, min(int(generator.integers(1, longest)), len(data) - start)


_MUTATIONS: dict[str, Callable[[bytes, bytes, Generator], bytes]] = {
    "flip bits": _flip_bits,
    "truncate": _truncate,
    "overwrite": _overwrite,
    "remove": _remove,
    "repeat": _repeat,
    "splice": _splice,
    "insert": _insert,
    "shuffle units": _shuffle_units,
    "damage headers": _damage_headers,
}
