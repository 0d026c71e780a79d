"""What the data of pretraining costs: decoders of JPEG and video, and whole samples.

    python scripts/bench/pretrain_data.py [--repeats 5]

Prints milliseconds of the processor for one picture or clip, one thread. Decoders that are not
installed are left out (simplejpeg and torchcodec are no requirements of this project).
"""

import argparse
import io
import json
import resource
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cv_reader import open_video
from encoder_training.pretrain.data.images import ImageView, image_tokens
from encoder_training.pretrain.data.made import ENCODER_OPTIONS, draw_clip, write_made_set
from encoder_training.pretrain.data.shard_set import open_set
from encoder_training.pretrain.data.videos import VideoSplit, VideoView
from run_kit.clips import encode_clip

SIDE_PX = 224


def processor_seconds() -> float:
    """Return what this process has used so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Return the processor's milliseconds for one call."""
    work()
    start = processor_seconds()
    for _ in range(repeats):
        work()
    return round((processor_seconds() - start) / repeats * 1000, 2)


def photograph(height: int, width: int) -> bytes:
    """Return a JPEG file with coarse and fine structure."""
    random = np.random.default_rng(0)
    coarse = random.normal(128, 50, (height // 16, width // 16, 3)).clip(0, 255).astype(np.uint8)
    large = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(large, np.int64) + random.integers(-8, 9, (height, width, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def jpeg_decoders() -> dict[str, Callable[[bytes], object]]:
    """Return ways from a JPEG file to a picture of 224 x 224."""
    size = (SIDE_PX, SIDE_PX)

    def pillow(data: bytes) -> object:
        return Image.open(io.BytesIO(data)).convert("RGB").resize(size, Image.Resampling.BILINEAR)

    def pillow_scaled(data: bytes) -> object:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", size)
        return image.convert("RGB").resize(size, Image.Resampling.BILINEAR)

    found = {"pillow": pillow, "pillow, scaled decoding": pillow_scaled}
    if find_spec("simplejpeg"):
        import simplejpeg

        def scaled(data: bytes) -> object:
            pixels = simplejpeg.decode_jpeg(
                data, "RGB", min_height=SIDE_PX, min_width=SIDE_PX, min_factor=1
            )
            return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)

        found["simplejpeg, scaled decoding"] = scaled
    return found


def images(repeats: int) -> dict[str, dict[str, float]]:
    """Compare decoders, and the whole sample: crop, flip, patches."""
    rows: dict[str, dict[str, float]] = {}
    view = ImageView(size_px=SIDE_PX)
    random = np.random.default_rng(0)
    for height, width in ((384, 512), (768, 1024), (1536, 2048)):
        data = photograph(height, width)
        row = {
            name: milliseconds(lambda decode=decode, data=data: decode(data), repeats)
            for name, decode in jpeg_decoders().items()
        }
        row["whole sample"] = milliseconds(
            lambda data=data: image_tokens(data, view, random, "bench"), repeats
        )
        rows[f"{width} x {height}"] = row
    return rows


def videos(folder: Path, repeats: int) -> dict[str, float]:
    """Compare ways to read 8 of 64 frames, and the samples of each mode."""
    path = folder / "clip.mp4"
    frames = draw_clip(1, 0, np.random.default_rng(0), 256, 64)
    encode_clip(path, frames, options=ENCODER_OPTIONS)
    ids = list(range(4, 64, 8))

    def reader() -> object:
        with open_video(path) as video:
            return [frame.rgb() for frame in video.at(ids, signals=False)]

    found = {"cv_reader": milliseconds(reader, repeats)}
    if find_spec("torchcodec"):
        from torchcodec.decoders import VideoDecoder

        found["torchcodec"] = milliseconds(
            lambda: VideoDecoder(str(path), num_ffmpeg_threads=1).get_frames_at(ids), repeats
        )
    write_made_set(folder / "set", "video", num_samples=4, size_px=224)
    for name, split in (("codec", (1, 0)), ("chunk", (0, 1)), ("collage", (0, 0))):
        view = VideoView(split=VideoSplit(*split))
        clips = open_set(folder / "set", view=view, batch_size=1)
        batches = clips.batches()
        found[f"sample, {name}"] = milliseconds(lambda batches=batches: next(batches), repeats)
    return found


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="calls that are averaged")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = {"images": images(repeats), "videos": videos(Path(folder), repeats)}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
