"""What live streams cost, against plain decoding, and whether many of them keep up:

    python scripts/bench/streams.py [--seconds 20] [--streams 8] [VIDEO ...]

Made clips of 1080p and 720p at 30 pictures a second (or the videos named) are followed as fast as
they go. A core share is processor time per second of video: below 1 / streams of all cores, so many
streams keep up. The last line follows several streams of the last video at once.
"""

import argparse
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import av

import cv_reader
from clips import looped, made_clip
from cv_reader.streams.settings import StreamSettings, live_config
from measure import Measured, measure
from read import plain_decode

_RATE = 30
_CLIP_FRAMES = 90


def follow(path: str, predict: str) -> None:
    """Follow a stream, and drop what comes out."""
    settings = StreamSettings(config=live_config(predict=predict))
    with cv_reader.stream(path, settings) as live:
        for _ in live:
            pass


def duration_seconds(path: str) -> float:
    count, rate = 0, float(_RATE)
    with av.open(path) as container:
        stream = container.streams.video[0]
        count = sum(packet.size > 0 for packet in container.demux(stream))
        rate = float(stream.average_rate or _RATE)
    return count / rate


def line(name: str, work: Measured, seconds: float) -> str:
    return (
        f"{name:<44}{work.cpu_seconds / seconds:>8.3f} core  {seconds / work.wall_seconds:>6.1f} x "
        f"real time  {work.peak_rss_bytes / 2**20:>6.0f} MiB"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "videos", nargs="*", metavar="VIDEO", help="videos to stream (default: made clips)"
    )
    parser.add_argument(
        "--seconds", type=int, default=20, help="length of the made clips, in seconds"
    )
    parser.add_argument("--streams", type=int, default=8, help="number of streams at once")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f} by other work before the measurement")
    with tempfile.TemporaryDirectory() as folder:
        videos: list[str] = list(options.videos)
        times = max(1, options.seconds * _RATE // _CLIP_FRAMES)
        for height, width in () if videos else ((1080, 1920), (720, 1280)):
            clip = made_clip(Path(folder), "h264", height, width, _CLIP_FRAMES)
            videos.append(str(looped(clip, times)))
        seconds, name = 1.0, ""
        for video in videos:
            seconds = duration_seconds(video)
            name = Path(video).stem
            print(
                line(f"{name}: plain decoding", measure(partial(plain_decode, video, 1)), seconds)
            )
            for predict in ("still", "search"):
                work = measure(partial(follow, video, predict))
                print(line(f"{name}: followed, --predict {predict}", work, seconds), flush=True)
        with ThreadPoolExecutor(options.streams) as pool:
            found = list(
                pool.map(measure, [partial(follow, videos[-1], "still")] * options.streams)
            )
        slowest = max(one.wall_seconds for one in found)
        share = sum(one.cpu_seconds for one in found) / seconds
        print(
            f"{options.streams} streams of {name} at once: the slowest at "
            f"{seconds / slowest:.1f} x real time, {share:.2f} cores in all"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
