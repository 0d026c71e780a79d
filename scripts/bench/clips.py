"""Clips for benchmarks: encoded on the spot, made longer by looping their packets.

Axis legend: frames are uint8 (H, W, 3) RGB.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from run_kit.clips import encode_clip

FRAME_RATE = 30
KEY_INTERVAL_FRAMES = 250

_ENCODERS = {
    "h264": ("libx264", {"preset": "veryfast", "crf": "23", "x264-params": "log-level=none"}),
    "hevc": ("libx265", {"preset": "ultrafast", "crf": "26", "x265-params": "log-level=none"}),
}


def made_clip(
    folder: Path,
    codec: str,
    height_px: int,
    width_px: int,
    num_frames: int,
    *,
    crf: int | None = None,
) -> Path:
    """Return a clip of moving content, encoded once and kept in the folder."""
    quality = "" if crf is None else f"_crf{crf}"
    path = folder / f"{codec}_{height_px}p_{num_frames}{quality}.mp4"
    if path.exists():
        return path
    encoder, options = _ENCODERS[codec]
    pictures = _content(height_px, width_px, num_frames)
    options = {**options, "g": str(KEY_INTERVAL_FRAMES)}
    if crf is not None:
        options["crf"] = str(crf)
    encode_clip(path, pictures, codec=encoder, frame_rate=FRAME_RATE, options=options)
    return path


def looped(path: Path, times: int) -> Path:
    """Return a longer file next to the clip, which repeats its packets without encoding."""
    target = path.with_name(f"{path.stem}_x{times}.mp4")
    if target.exists():
        return target
    partial = target.with_suffix(".partial.mp4")
    with av.open(str(path)) as source:
        video = source.streams.video[0]
        packets = [
            (bytes(packet), packet.pts, packet.dts, packet.is_keyframe)
            for packet in source.demux(video)
            if packet.size
        ]
        period = round(len(packets) / FRAME_RATE / video.time_base)
        with av.open(str(partial), "w") as container:
            stream = container.add_stream_from_template(video, opaque=True)
            stream.time_base = video.time_base
            for turn in range(times):
                for data, pts, dts, is_key in packets:
                    packet = av.Packet(data)
                    packet.stream, packet.time_base = stream, Fraction(video.time_base)
                    packet.pts, packet.dts = pts + turn * period, dts + turn * period
                    packet.is_keyframe = is_key
                    container.mux(packet)
    return partial.rename(target)


def _content(height_px: int, width_px: int, num_frames: int) -> Iterator[NDArray[np.uint8]]:
    """Yield pictures of a panning texture with noise, and of discs that move over it."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(30, 220, (height_px // 16 + 2, width_px // 16 + 80, 3))
    world = coarse.astype(np.uint8).repeat(16, 0).repeat(16, 1)
    noise = generator.integers(0, 12, (4, height_px, width_px, 3), dtype=np.uint8)
    rows, columns = np.ogrid[:height_px, :width_px]
    for number in range(num_frames):
        left = 2 * number % (16 * 78)
        picture = world[:height_px, left : left + width_px] + noise[number % 4]
        for disc in range(4):
            row = height_px * (0.2 + 0.2 * disc) + 30 * np.sin(number / 9 + disc)
            column = (width_px * 0.2 * disc + (3 + disc) * number) % width_px
            inside = (rows - row) ** 2 + (columns - column) ** 2 < (height_px / 12) ** 2
            picture[inside] = (40 * disc + 50, 200 - 30 * disc, 90)
        yield picture
