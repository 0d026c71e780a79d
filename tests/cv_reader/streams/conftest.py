"""Streams that were recorded, and ways to damage them."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import av
import pytest

from cv_reader.streams.settings import StreamSettings, live_config
from support.media import moving_square, write_video

RATE = 25


def small(**settings: Any) -> StreamSettings:
    """Settings for small pictures: windows of half a second that look at every second picture."""
    config: dict[str, Any] = {
        "square_size": 64,
        "patch_size": 8,
        "sequence_length": 32,
        "num_images": 8,
    }
    config |= settings.pop("config", {})
    reading: dict[str, Any] = {"slots_per_second": 12.5, "backoff_seconds": 0.0} | settings
    return StreamSettings(config=live_config(**config), **reading)


def recorded(path: Path, num_frames: int = 50, *, key_every: int = 10, **options: Any) -> Path:
    """A square that moves over a still texture, 48 x 64 pixels."""
    height, width = options.pop("height_px", 48), options.pop("width_px", 64)
    frames = moving_square(num_frames, height, width, (0, 2), square_px=16, **options)
    params = f"keyint={key_every}:min-keyint={key_every}:scenecut=0"
    return write_video(path, frames, frame_rate=RATE, options={"x264-params": params})


def packets_of(path: Path) -> list[av.Packet]:
    packets: list[av.Packet] = []
    with av.open(str(path)) as container:
        packets += (packet for packet in container.demux(video=0) if packet.size)
    return packets


def remuxed(path: Path, change: Callable[[list[av.Packet]], Iterable[av.Packet]]) -> bytes:
    """A transport stream of the packets of another, changed on the way."""
    buffer = io.BytesIO()
    with av.open(str(path)) as source, av.open(buffer, "w", format="mpegts") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in change([p for p in source.demux(video=0) if p.size]):
            packet.stream = stream
            target.mux(packet)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("streams") / "clip.ts")
