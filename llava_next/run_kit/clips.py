"""Encode made clips: for the study, pretraining, the quickstart and the benchmarks."""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from run_kit.files import replace_file


def encode_clip(
    path: Path,
    pictures: Iterable[NDArray[np.uint8]],
    *,
    codec: str = "libx264",
    frame_rate: int = 25,
    options: Mapping[str, str],
) -> None:
    """Encode pictures as one video, which appears whole.

    Equal pictures give equal files where ``options`` keep the encoder on one thread.

    Args:
        path: file to write or replace; its suffix names the container.
        pictures: uint8 (H, W, 3) RGB, all of one even size; at least one.
        codec: FFmpeg's name of the encoder.
        frame_rate: pictures per second.
        options: options of the encoder.

    Raises:
        ValueError: there is no picture.
    """
    stream: Any = None
    with replace_file(path) as partial, av.open(str(partial), "w") as container:
        for picture in pictures:
            if stream is None:
                rate = Fraction(frame_rate)
                stream = container.add_stream(codec, rate=rate, options=dict(options))
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if stream is None:
            raise ValueError(f"{path}: a clip needs at least one picture")
        container.mux(stream.encode(None))
