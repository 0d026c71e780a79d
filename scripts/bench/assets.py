"""Time and memory of video to assets, where the time goes, and how it grows with workers.

    python scripts/bench/assets.py [VIDEO ...] [--backends native pyav] [--copies 8] [--hour]

Per video and backend: stage 1, stage 2, both in one decode, and one pass to an evaluation asset, as
commands (wall, processor time, peak memory of any one process, start of the interpreter included);
the share of each step of that pass, measured in this process; and what selecting costs relative to
reading: (energy + selection + packing) / decoding of the same frames, motion and residual included.
Then videos per second of a run over copies of the video, with one worker and with two. Where
lmms-video-utils is installed, its two modes are measured too. Without videos, clips are made: 360p
and 1080p of 10 s, 1080p of 60 s, and with ``--hour`` 360p of one hour.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from clips import looped, made_clip
from cv_reader import open_video, read_index
from cv_reader.assets import make
from cv_reader.reader import ReadOptions, Video
from cv_reader.select.cheap import sampled_frames
from cv_reader.select.config import AssetConfig
from cv_reader.select.energy import CellScorer
from cv_reader.select.mosaics import write_mosaics
from measure import Measured, measure

TOOLS = Path(__file__).resolve().parents[2] / "Compressed_Video_Reader" / "tool"
ONE_PASS = "offline_precompute_llava_codec_assets.py"
PEER = """
import sys
from lmms_video_utils import fetch_codec_video
settings = {"target_canvas": 8, "backend": "pyav", "device": "cpu", "score_mode": sys.argv[2]}
fetch_codec_video(sys.argv[1], **settings)
"""
PEER_MODES = ("framediff", "mvwarp")
PIPELINE = ("energy", "selection", "packing")


class Clock:
    """Processor seconds by step; time of a step inside another counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of the block to a step."""
        self._count()
        self._running.append(name)
        try:
            yield
        finally:
            self._count()
            self._running.pop()

    def _count(self) -> None:
        now = time.process_time()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def calls(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, its calls timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.step(name):
                return function(*args, **kwargs)

        return timed

    def items(self, name: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Any]:
        """Return the function that makes an iterator, with the making of each item timed."""

        def timed(*args: Any, **kwargs: Any) -> Iterator[Any]:
            items, end = iter(function(*args, **kwargs)), object()
            while True:
                with self.step(name):
                    item = next(items, end)
                if item is end:
                    return
                yield item

        return timed


TIMED = (
    (make, "square_frame", "packing"),
    (make, "arrange_rows", "selection"),
    (make.Chooser, "choose", "selection"),
    (make.Chooser, "add", "energy"),
    (CellScorer, "pass_by", "energy"),
)
"""Owner and name of the functions that ``select_and_pack`` calls, and the step that each is."""


def time_steps(path: Path, backend: str, config: AssetConfig) -> dict[str, float]:
    """Return processor seconds of each step of one pass from video to mosaics."""
    clock = Clock()
    with ExitStack() as stack:
        frames = clock.items("decode", Video.frames)
        stack.enter_context(patch.object(Video, "frames", frames))
        packing = clock.items("packing", make.pack_pictures)
        stack.enter_context(patch.object(make, "pack_pictures", packing))
        for owner, name, step in TIMED:
            timed = clock.calls(step, getattr(owner, name))
            stack.enter_context(patch.object(owner, name, timed))
        _, _, mosaics = make.select_and_pack(path, config, ReadOptions(backend=backend))
    with clock.step("jpeg"), tempfile.TemporaryDirectory() as folder:
        write_mosaics(mosaics, Path(folder), stem="x", quality=config.jpg_quality)
    return dict(clock.seconds)


def time_pixels(path: Path, backend: str, config: AssetConfig) -> float:
    """Return processor seconds of decoding the sampled frames once more, as stage 2 does."""
    started = time.process_time()
    with open_video(path, backend) as video:
        frame_ids, _ = sampled_frames(video.index, config)
        for _ in video.frames(np.unique(frame_ids).tolist(), signals=False):
            pass
    return time.process_time() - started


def time_commands(path: Path, backend: str) -> None:
    """Print what the commands take from start to end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        turns = [{"from": "human", "value": "<video>"}]
        row = {"id": "x", "video": str(path.resolve()), "conversations": turns}
        data = folder / "data.json"
        data.write_text(json.dumps([row]))
        lines = folder / "data.jsonl"
        lines.write_text(json.dumps({"video": row["video"], "key": "x"}))
        shared = ["--num_workers", "1", "--backend", backend]
        whole = "--keep_first_full_frame"
        first = ["--dataset_path", data, "--out_root", folder / "1", whole]
        second = ["--input_dataset", data, "--visidx_root", folder / "1"]
        second += ["--out_image_root", folder / "2", "--out_jsonl", folder / "2.jsonl"]
        both = ["--dataset_path", data, "--visidx_root", folder / "4", whole]
        both += ["--out_image_root", folder / "5", "--out_jsonl", folder / "5.jsonl"]
        tools = {
            "stage 1": ["stage1.py", *first],
            "stage 2": ["stage2.py", *second],
            "stage 1,2": [ONE_PASS, "--stage", "1,2", *both],
            "one pass": [ONE_PASS, "--jsonl", lines, "--out_root", folder / "3"],
        }
        for label, (tool, *arguments) in tools.items():
            show(label, measure([sys.executable, TOOLS / str(tool), *arguments, *shared]))


def show(label: str, taken: Measured) -> None:
    print(
        f"  {label:9} {taken.wall_seconds:7.2f} s wall {taken.cpu_seconds:7.2f} s cpu "
        f"{taken.peak_rss_bytes / 2**20:6.0f} MiB",
        flush=True,
    )


def time_steps_of(path: Path, backend: str) -> None:
    """Print the share of each step, and their ratio to reading."""
    seconds = time_steps(path, backend, AssetConfig())
    total = sum(seconds.values())
    shares = (f"{name} {value / total:.0%}" for name, value in seconds.items())
    print(f"  steps     {total:7.2f} s cpu: {', '.join(shares)}")
    work = sum(seconds[name] for name in PIPELINE)
    decode, again = seconds["decode"], time_pixels(path, backend, AssetConfig())
    print(
        f"  (energy + selection + packing) / decode = {work / decode:.2f} in one pass, "
        f"{work / (decode + again):.2f} in two stages, which decode twice",
        flush=True,
    )


def time_workers(path: Path, backend: str, copies: int) -> None:
    """Print videos per second of a run over copies of a video."""
    walls = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as name:
            rows = [{"video": str(path.resolve()), "key": str(copy)} for copy in range(copies)]
            lines = Path(name) / "data.jsonl"
            lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
            command = [sys.executable, TOOLS / ONE_PASS, "--jsonl", lines, "--out_root", name]
            command += ["--num_workers", str(workers), "--backend", backend]
            taken = measure([str(part) for part in command])
        walls[workers] = taken.wall_seconds
        print(
            f"  {copies} videos, {workers} workers: {copies / taken.wall_seconds:.2f} videos/s, "
            f"{copies / taken.cpu_seconds:.2f} per processor second, "
            f"{taken.peak_rss_bytes / 2**20:.0f} MiB per process"
        )
    print(f"  2 workers / 1 worker = {walls[1] / walls[2]:.2f}x", flush=True)


def time_peer(path: Path) -> None:
    """Print what lmms-video-utils takes for its mosaics of the same video."""
    for mode in PEER_MODES if read_index(path).codec_name == "h264" else PEER_MODES[:1]:
        show(mode, measure([sys.executable, "-c", PEER, str(path), mode]))


def clips(folder: Path, *, with_hour: bool) -> list[Path]:
    """Return the videos of a run without arguments."""
    large = made_clip(folder, "h264", 1080, 1920, 300)
    made = [made_clip(folder, "h264", 360, 640, 300), large, looped(large, 6)]
    if with_hour:
        made.append(looped(made_clip(folder, "h264", 360, 640, 250), 3600 * 30 // 250))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="*", type=Path, help="videos to read")
    parser.add_argument("--backends", nargs="+", default=["auto"], help="backends to measure")
    parser.add_argument(
        "--copies", type=int, default=8, help="number of videos of the run; 0 = no run"
    )
    parser.add_argument("--hour", action="store_true", help="also measure a video of one hour")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "bench_clips",
        help="folder for made clips",
    )
    args = parser.parse_args()
    for path in args.videos or clips(args.folder, with_hour=args.hour):
        for backend in args.backends:
            print(f"{path} ({backend})", flush=True)
            time_commands(path, backend)
            time_steps_of(path, backend)
            if args.copies:
                time_workers(path, backend, args.copies)
        if importlib.util.find_spec("lmms_video_utils"):
            time_peer(path)


if __name__ == "__main__":
    main()
