"""Speed and memory of reading a video and of making its assets, against plain decoding:

    python scripts/bench/read.py VIDEO [--backend auto] [--num_threads 1] [--repeats 1]

Each line is measured in a process of its own, all in one run, so that ratios compare.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av

from cv_reader import open_video, read_index
from cv_reader.assets import AssetConfig
from cv_reader.assets.make import collect_mosaics, select_from_video
from cv_reader.errors import VideoError
from cv_reader.reader import ReadOptions
from cv_reader.select.mosaics import sort_rows, write_mosaics
from cv_reader.select.selection import sample_frame_ids
from measure import measure

UNIFORM_FRAMES = 64


def plain_decode(path: str, num_threads: int) -> None:
    """PyAV alone: decode every frame, touch nothing."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_count = num_threads
        stream.thread_type = "AUTO" if num_threads > 1 else "SLICE"
        for _ in container.decode(stream):
            pass


def read(path: str, backend: str, num_threads: int, signals: bool, uniform: bool) -> None:
    """Read all frames or 64 uniform ones, with or without their maps."""
    with open_video(path, backend, num_threads=num_threads) as video:
        count = video.index.num_frames
        ids = sorted(set(sample_frame_ids(count, UNIFORM_FRAMES).tolist())) if uniform else None
        for _ in video.frames(ids, signals=signals):
            pass


def stages(path: str, backend: str, num_threads: int) -> None:
    """Stage 1 and stage 2 of one video: score, select, read the pixels again, pack, write."""
    config = AssetConfig()
    options = ReadOptions(backend=backend, num_threads=num_threads)
    selection = select_from_video(Path(path), config, options)
    rows = sort_rows(selection.rows, config.order)
    mosaics = collect_mosaics(Path(path), rows, selection.frame_ids, config, options)
    with tempfile.TemporaryDirectory() as folder:
        write_mosaics(mosaics, Path(folder), stem="mosaic", quality=config.jpg_quality)


def main(argv: list[str] | None = None) -> int:
    """Print the table; returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", help="video to read")
    parser.add_argument("--backend", default="auto", help="backend to read with")
    parser.add_argument("--num_threads", type=int, default=1, help="number of decoding threads")
    parser.add_argument(
        "--repeats", type=int, default=1, help="number of runs, of which the fastest counts"
    )
    options = parser.parse_args(argv)
    try:
        index = read_index(options.video)
        with open_video(options.video, options.backend) as video:
            backend = video.backend
    except VideoError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{index!r}, {index.is_key.sum()} key frames, backend {backend}")
    reading = partial(read, options.video, backend, options.num_threads)
    works: dict[str, tuple[Callable[[], object], int]] = {
        "plain PyAV decode": (
            partial(plain_decode, options.video, options.num_threads),
            index.num_frames,
        ),
        "index": (partial(read_index, options.video), index.num_frames),
        "read, pixels": (partial(reading, False, False), index.num_frames),
        "read, all maps": (partial(reading, True, False), index.num_frames),
        "64 uniform, pixels": (partial(reading, False, True), UNIFORM_FRAMES),
        "64 uniform, all maps": (partial(reading, True, True), UNIFORM_FRAMES),
        "stage 1 + 2": (
            partial(stages, options.video, backend, options.num_threads),
            index.num_frames,
        ),
    }
    print(f"{'work':<22}{'wall s':>8}{'cpu s':>8}{'frames/s':>10}{'peak MB':>9}{'cpu/plain':>11}")
    plain = 0.0
    for name, (work, frames) in works.items():
        best = min(measure(work) for _ in range(options.repeats))
        plain = plain or best.cpu_seconds
        print(
            f"{name:<22}{best.wall_seconds:>8.2f}{best.cpu_seconds:>8.2f}"
            f"{frames / best.wall_seconds:>10.0f}{best.peak_rss_bytes / 1e6:>9.0f}"
            f"{best.cpu_seconds / plain:>11.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
