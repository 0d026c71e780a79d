"""Read what the codec says about a frame, and draw it: picture, motion, residual.

python examples/gallery/read_signals.py [VIDEO] [--out signals.png] [--frame 21]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cv_reader import open_video
from made import made_clip


def grey(values: np.ndarray, brightest: float, size: tuple[int, int]) -> Image.Image:
    """Return an array as a grey picture of a size (width, height); ``brightest`` becomes white."""
    scaled = np.clip(values / max(brightest, 1e-6), 0, 1) * 255
    return Image.fromarray(scaled.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the codec signals of one frame.")
    parser.add_argument("video", nargs="?", type=Path, help="video to read (default: a made clip)")
    parser.add_argument("--out", type=Path, default=Path("signals.png"), help="picture to write")
    parser.add_argument("--frame", type=int, default=21, help="number of the frame")
    options = parser.parse_args(argv)
    path = options.video or made_clip(options.out.parent)

    with open_video(path) as video:
        exactness = ", ".join(f"{name} {how}" for name, how in video.exactness.items())
        print(f"{video.index.num_frames} frames of {video.index.codec_name}: {exactness}")
        frame = next(video.frames([options.frame]))
    if frame.motion is None or frame.residual_y is None:
        raise SystemExit("error: this video has no codec signals; see `cv_reader doctor`")

    picture = Image.fromarray(frame.rgb())
    motion_px = np.hypot(*np.moveaxis(frame.motion[0].astype(float) / 4, -1, 0))
    print(f"type {frame.pict_type}, {frame.packet_bytes} bytes, up to {motion_px.max():.2f} px")
    panels = [
        picture,
        grey(motion_px, motion_px.max(), picture.size),
        grey(np.abs(frame.residual_y), float(np.abs(frame.residual_y).max()), picture.size),
    ]
    sheet = Image.new("RGB", (sum(p.width for p in panels) + 16, picture.height), "white")
    for number, panel in enumerate(panels):
        sheet.paste(panel, (number * (picture.width + 8), 0))
    sheet.save(options.out)
    print(options.out)


if __name__ == "__main__":
    main()
