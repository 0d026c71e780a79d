"""Show a clip as four panels in motion: original, uniform frames, energy, selected patches.

python examples/gallery/animate.py [VIDEO] [--out codec.gif]

``cv_reader visualize VIDEO -o codec.gif`` makes the same animation in full size and all colours.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageSequence

from cv_reader.commands.main import main as cv_reader
from made import made_clip

WIDTH_PX, EVERY, COLOURS, FRAME_MILLISECONDS = 760, 2, 48, 160


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a small animation of what is kept.")
    parser.add_argument("video", nargs="?", type=Path, help="video to show (default: a made clip)")
    parser.add_argument("--out", type=Path, default=Path("codec.gif"), help="GIF to write")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        video = options.video or made_clip(Path(folder))
        full = Path(folder) / "full.gif"
        if code := cv_reader(["visualize", str(video), "-o", str(full)]):
            raise SystemExit(code)
        with Image.open(full) as animation:
            frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(animation)]
    size = (WIDTH_PX, round(frames[0].height * WIDTH_PX / frames[0].width))
    small = [frame.resize(size, Image.Resampling.LANCZOS) for frame in frames[::EVERY]]
    # One palette from all frames: the most frequent colours, and the most different ones, so that
    # what shows for a moment keeps its colour.
    sheet = Image.new("RGB", (size[0], size[1] * len(small)))
    for number, frame in enumerate(small):
        sheet.paste(frame, (0, number * size[1]))
    methods = (Image.Quantize.MEDIANCUT, Image.Quantize.MAXCOVERAGE)
    colours = [(sheet.quantize(COLOURS, way).getpalette() or [])[: 3 * COLOURS] for way in methods]
    palette = Image.new("P", (1, 1))
    palette.putpalette(sum(colours, []))
    first, *rest = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in small]
    first.save(options.out, save_all=True, append_images=rest, duration=FRAME_MILLISECONDS, loop=0)
    print(options.out)


if __name__ == "__main__":
    main()
