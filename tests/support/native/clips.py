"""Clips that make encoders use every tool: names, options, and content with fractional motion.

Axis legend: frames are uint8 (H, W, 3) RGB.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from support.media import texture, write_video

HEIGHT_PX, WIDTH_PX = 96, 128
NUM_FRAMES = 14

_PATIENCE_SECONDS = (3, 6, 12, 24, 48)
"""How long each try to encode may take; it takes less than a second on an idle machine."""

_H264_OFF = "no-deblock=1:weightp=0:weightb=0:scenecut=0"
_H264_RICH = "ref=4:me=umh:subme=9:mixed-refs=1:partitions=all:8x8dct=1:trellis=1:psy=0"
_H265_OFF = "no-deblock=1:no-sao=1:no-weightp=1:no-weightb=1:no-scenecut=1"
_H265_RICH = (
    "ref=4:rect=1:amp=1:me=star:subme=5:max-merge=5:rd=4:tu-inter-depth=4:limit-refs=0:"
    "min-cu-size=8"
)
_H265_SLICES = "slices=3:pools=2:wpp=1"
"""Without a pool of threads x265 writes broken slices."""

_B_PYRAMID = "bframes=4:b-adapt=0:b-pyramid=normal"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of stream.

    Attributes:
        codec: encoder name.
        params: the encoder's own options, colon separated.
        pixel_format: of the coded picture.
        options: options of FFmpeg's encoder wrapper.
        implicit_weights: bi-prediction is weighted by distance.
        content: a name from ``CONTENTS``.
        height_px, width_px: of the picture.
    """

    codec: str
    params: str = ""
    pixel_format: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    implicit_weights: bool = False
    content: str = "wandering"
    height_px: int = HEIGHT_PX
    width_px: int = WIDTH_PX

    @property
    def bit_depth(self) -> int:
        """Of the samples."""
        return 10 if "10" in self.pixel_format else 8

    @property
    def standard(self) -> str:
        """``h264`` or ``hevc``."""
        return "hevc" if self.codec == "libx265" else "h264"


def _h264(*params: str, **settings: object) -> Kind:
    return Kind(codec="libx264", params=":".join(params), **settings)  # type: ignore[arg-type]


def _h265(*params: str, **settings: object) -> Kind:
    return Kind(codec="libx265", params=":".join(params), **settings)  # type: ignore[arg-type]


UNFILTERED: dict[str, Kind] = {
    "h264-p": _h264(_H264_OFF, "bframes=0:ref=1:subme=9:crf=28"),
    "h264-p-refs": _h264(_H264_OFF, _H264_RICH, "bframes=0:crf=30"),
    "h264-b-spatial": _h264(_H264_OFF, _H264_RICH, _B_PYRAMID, "direct=spatial:crf=30"),
    "h264-b-temporal": _h264(_H264_OFF, _H264_RICH, _B_PYRAMID, "direct=temporal:crf=34"),
    "h264-b-strict": _h264(_H264_OFF, _H264_RICH, "bframes=3:b-adapt=0:b-pyramid=strict:crf=24"),
    "h264-cavlc": _h264(_H264_OFF, _H264_RICH, _B_PYRAMID, "cabac=0:8x8dct=0:crf=28"),
    "h264-cavlc-8x8": _h264(_H264_OFF, _H264_RICH, _B_PYRAMID, "cabac=0:crf=28"),
    "h264-slices": _h264(_H264_OFF, _H264_RICH, _B_PYRAMID, "slices=5:crf=28"),
    "h264-matrices": _h264(_H264_OFF, _H264_RICH, _B_PYRAMID, "cqm=jvt:crf=22"),
    "h264-constrained-intra": _h264(_H264_OFF, _H264_RICH, "constrained-intra=1:crf=26"),
    "h264-open-gop": _h264(_H264_OFF, _H264_RICH, _B_PYRAMID, "open-gop=1:keyint=5:crf=26"),
    "h264-fine": _h264(_H264_OFF, _H264_RICH, _B_PYRAMID, "qp=6"),
    "h264-refresh": _h264(_H264_OFF, "intra-refresh=1:keyint=8:bframes=0:crf=26"),
    "h264-cropped": _h264(_H264_OFF, _H264_RICH, _B_PYRAMID, "crf=26", height_px=90, width_px=122),
    "hevc-p": _h265(_H265_OFF, "bframes=0:ref=1:subme=5:crf=28"),
    "hevc-p-refs": _h265(_H265_OFF, _H265_RICH, "bframes=0:crf=30"),
    "hevc-b": _h265(_H265_OFF, _H265_RICH, "bframes=4:b-adapt=0:b-pyramid=1:crf=28"),
    "hevc-b-flat": _h265(_H265_OFF, _H265_RICH, "bframes=3:b-adapt=0:no-b-pyramid=1:crf=34"),
    "hevc-slices": _h265(_H265_OFF, _H265_RICH, "bframes=3:b-adapt=0:crf=28", _H265_SLICES),
    "hevc-wpp": _h265(
        _H265_OFF,
        _H265_RICH,
        "bframes=3:b-adapt=0:pools=2:wpp=1:ctu=16:max-tu-size=16:tu-inter-depth=3:crf=28",
    ),
    "hevc-ctu16": _h265(
        _H265_OFF, _H265_RICH, "bframes=4:b-adapt=0:ctu=16:max-tu-size=16:tu-inter-depth=3:crf=24"
    ),
    "hevc-min-cu16": _h265(_H265_OFF, _H265_RICH, "bframes=4:b-adapt=0:min-cu-size=16:crf=28"),
    "hevc-open-gop": _h265(
        _H265_OFF, _H265_RICH, "bframes=3:b-adapt=0:open-gop=1:keyint=6:min-keyint=6:crf=28"
    ),
    "hevc-signhide-off": _h265(_H265_OFF, _H265_RICH, "no-signhide=1:bframes=3:b-adapt=0:qp=12"),
    "hevc-cropped": _h265(
        _H265_OFF, _H265_RICH, "bframes=3:b-adapt=0:crf=26", height_px=90, width_px=122
    ),
    "hevc-no-tmvp": _h265(_H265_OFF, _H265_RICH, "no-temporal-mvp=1:bframes=3:b-adapt=0:crf=26"),
}
"""Tier 1: 8-bit 4:2:0 progressive streams with in-loop filters off. All of them must be exact."""

TIER2: dict[str, Kind] = {
    "h264-implicit": _h264(
        _H264_OFF, _H264_RICH, _B_PYRAMID, "weightb=1:crf=26", implicit_weights=True
    ),
    "h264-lossless": _h264(_H264_OFF, _H264_RICH, _B_PYRAMID, "qp=0"),
    "h264-pcm": _h264(_H264_OFF, _H264_RICH, "bframes=1:qp=1", content="noisy corner"),
    "h264-pcm-cavlc": _h264(
        _H264_OFF, _H264_RICH, "bframes=1:cabac=0:qp=1", content="noisy corner"
    ),
    "h264-fake-interlaced": _h264(_H264_OFF, _H264_RICH, "bframes=2:fake-interlaced=1:crf=26"),
    "h264-10bit": _h264(_H264_OFF, _H264_RICH, _B_PYRAMID, "crf=26", pixel_format="yuv420p10le"),
    "h264-422": _h264(_H264_OFF, _H264_RICH, _B_PYRAMID, "crf=26", pixel_format="yuv422p"),
    "h264-444": _h264(_H264_OFF, _H264_RICH, _B_PYRAMID, "crf=26", pixel_format="yuv444p"),
    "hevc-transform-skip": _h265(_H265_OFF, _H265_RICH, "tskip=1:bframes=3:b-adapt=0:qp=12"),
    "hevc-scaling-list": _h265(
        _H265_OFF, _H265_RICH, "scaling-list=default:bframes=3:b-adapt=0:crf=20"
    ),
    "hevc-lossless": _h265(_H265_OFF, _H265_RICH, "lossless=1:bframes=3:b-adapt=0"),
    "hevc-cu-lossless": _h265(_H265_OFF, _H265_RICH, "cu-lossless=1:bframes=3:b-adapt=0:qp=8"),
    "hevc-10bit": _h265(
        _H265_OFF, _H265_RICH, "bframes=3:b-adapt=0:crf=26", pixel_format="yuv420p10le"
    ),
    "hevc-422": _h265(_H265_OFF, _H265_RICH, "bframes=3:b-adapt=0:crf=26", pixel_format="yuv422p"),
    "hevc-444": _h265(_H265_OFF, _H265_RICH, "bframes=3:b-adapt=0:crf=26", pixel_format="yuv444p"),
}
"""Exact or refused by name; in-loop filters off, no explicit weights."""

EXPLICIT_WEIGHTS: dict[str, Kind] = {
    "h264-weighted": _h264(
        "no-deblock=1:scenecut=0:weightp=1:bframes=0:ref=1:subme=9:crf=24", content="fading"
    ),
    "hevc-weighted": _h265(
        "no-deblock=1:no-sao=1:no-scenecut=1:weightp=1:bframes=0:ref=1:subme=5:crf=24",
        content="fading",
    ),
}
"""Exact or refused by name; one explicit weight per picture, in-loop filters off."""

FIELD_CODED: dict[str, Kind] = {
    "h264-mbaff": _h264(_H264_OFF, _H264_RICH, "bframes=2:tff=1:crf=26"),
    "h264-mbaff-cavlc": _h264(_H264_OFF, _H264_RICH, "cabac=0:bframes=0:tff=1:crf=26"),
}
"""Motion is refused by name; the pixels are still right."""

FILTERED: dict[str, Kind] = {
    "h264-filtered": _h264(_H264_RICH, _B_PYRAMID, "weightp=0:weightb=0:crf=30"),
    "h264-no-weights": _h264("weightp=0:weightb=0:crf=30"),
    "h264-filtered-slices": _h264(_H264_RICH, _B_PYRAMID, "slices=4:weightp=0:weightb=0:crf=30"),
    "h264-openh264": Kind(
        codec="libopenh264", options={"coder": "cabac", "b": "250000", "profile": "high"}
    ),
    "hevc-filtered": _h265(_H265_RICH, "no-weightp=1:bframes=4:b-adapt=0:sao=1:crf=30"),
    "hevc-default": _h265("no-weightp=1:crf=30"),
    "hevc-filtered-slices": _h265(_H265_SLICES, "bframes=2:sao=1:no-weightp=1:crf=30"),
}
"""Tier 1 with in-loop filters on."""


def wandering(
    num_frames: int = NUM_FRAMES,
    height_px: int = HEIGHT_PX,
    width_px: int = WIDTH_PX,
    *,
    seed: int = 0,
) -> Iterator[NDArray[np.uint8]]:
    """Tiles of texture that move by different fractions of a pixel, and a disc before them.

    Every pair of quarter phases along x and y has tiles of its own; the disc uncovers what only
    intra prediction or an older reference knows.
    """
    for frame in _wandering(num_frames, height_px, width_px, seed):
        yield frame.copy()


@cache
def _wandering(
    num_frames: int, height_px: int, width_px: int, seed: int
) -> tuple[NDArray[np.uint8], ...]:
    frames = []
    margin = 2 * num_frames + 8
    world = texture(height_px + 2 * margin, width_px + 2 * margin, seed).astype(np.float64)
    disc = texture(height_px + 2 * margin, width_px + 2 * margin, seed + 1).astype(np.float64)
    rows, columns = np.mgrid[:height_px, :width_px].astype(np.float64)
    tile = (rows // 24) * 8 + columns // 16
    sign = 1 - 2 * (tile // 16 % 2)
    speed_x, speed_y = 0.25 * sign * (tile % 4), -0.25 * sign * (tile // 4 % 4)
    for number in range(num_frames):
        frame = _sample(
            world, rows + margin + speed_y * number, columns + margin + speed_x * number
        )
        centre = (height_px * (0.3 + 0.03 * number), width_px * (0.2 + 0.045 * number))
        inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < (height_px / 6) ** 2
        inner = _sample(disc, rows - 1.3 * number + margin, columns - 1.8 * number + margin)
        frame = np.where(inside[..., None], inner, frame)
        frames.append(np.clip(np.rint(frame), 0, 255).astype(np.uint8))
    return tuple(frames)


def fading(num_frames: int, height_px: int, width_px: int) -> Iterator[NDArray[np.uint8]]:
    """The wandering tiles, coming up from near black, so that weighting pays."""
    for number, frame in enumerate(wandering(num_frames, height_px, width_px)):
        yield np.rint(frame * (0.15 + 0.85 * number / num_frames)).astype(np.uint8)


def noisy_corner(num_frames: int, height_px: int, width_px: int) -> Iterator[NDArray[np.uint8]]:
    """The wandering tiles next to noise that nothing predicts."""
    generator = np.random.default_rng(0)
    for frame in wandering(num_frames, height_px, width_px):
        frame[:32, :48] = generator.integers(0, 256, (32, 48, 3))
        yield frame


CONTENTS = {"wandering": wandering, "fading": fading, "noisy corner": noisy_corner}


def make(kind: Kind, path: Path, num_frames: int = NUM_FRAMES) -> Path:
    """Encode the content of a kind of stream."""
    if "pools=2" not in kind.params:
        return _encode(kind, path, num_frames)
    # The thread pool of x265 may wait for itself forever, so that a process of its own can be
    # given up.
    for seconds in _PATIENCE_SECONDS:
        process = get_context("fork").Process(target=_encode, args=(kind, path, num_frames))
        process.start()
        process.join(seconds)
        if process.exitcode == 0:
            return path
        process.kill()
        process.join()
    raise RuntimeError(f"x265 did not finish {path.name} in {len(_PATIENCE_SECONDS)} tries")


def _encode(kind: Kind, path: Path, num_frames: int) -> Path:
    params = {f"{kind.codec.removeprefix('lib')}-params": kind.params} if kind.params else {}
    return write_video(
        path,
        CONTENTS[kind.content](num_frames, kind.height_px, kind.width_px),
        codec=kind.codec,
        pixel_format=kind.pixel_format,
        options={**params, **kind.options},
    )


def _sample(
    world: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bilinear samples of (H', W', 3) at fractional positions."""
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    upper = world[top, left] * (1 - right) + world[top, left + 1] * right
    lower = world[top + 1, left] * (1 - right) + world[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down
