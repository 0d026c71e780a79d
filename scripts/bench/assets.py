"""Time and memory of video to assets, and where the time goes.

    python scripts/bench/assets.py VIDEO [VIDEO ...] [--backend auto]

Per video: stage 1 and stage 2 as commands (wall, processor time, peak memory of any one process,
start of the interpreter included); one pass to an evaluation asset; and the share of each step of
that pass, measured in this process. The last line is what selecting costs beside reading:
(energy + selection + packing) / decoding of the same frames, motion and residual included.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cv_reader import open_video
from cv_reader.asset_config import AssetConfig
from cv_reader.energy import CellScorer
from cv_reader.geometry import letterbox
from cv_reader.packing import MosaicPacker, sort_rows, square_frame, write_mosaics
from cv_reader.selection import choose_frame_ids, repeated_slots, select_cells
from measure import measure

TOOLS = Path(__file__).resolve().parents[2] / "Compressed_Video_Reader" / "tool"
PIPELINE = ("energy", "selection", "packing")


class Clock:
    """Processor seconds by step."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of the block to a step."""
        started = time.process_time()
        yield
        self.seconds[name] += time.process_time() - started


def time_steps(path: Path, backend: str, config: AssetConfig) -> dict[str, float]:
    """Processor seconds of each step of one pass from video to mosaics."""
    clock = Clock()
    with open_video(path, backend) as video:
        index = video.index
        box = letterbox(
            index.height_px,
            index.width_px,
            square_px=config.square_size,
            patch_px=config.patch_size,
        )
        frame_ids = choose_frame_ids(index.packet_bytes, config)
        repeated = repeated_slots(frame_ids)
        scorer = CellScorer(box, config)
        scores = np.zeros((config.sequence_length, config.grid, config.grid), np.float32)
        squares = {}
        frames = video.frames(frame_ids[~repeated].tolist())
        for slot in np.flatnonzero(~repeated).tolist():
            with clock.step("decode"):
                frame = next(frames)
                rgb = frame.rgb()
            with clock.step("energy"):
                scores[slot] = scorer.score(frame)
            with clock.step("packing"):
                squares[slot] = square_frame(rgb, box)
    with clock.step("selection"):
        rows = sort_rows(select_cells(scores, box.valid_cells(), repeated, config), config.order)
    with clock.step("packing"):
        packer = MosaicPacker(
            rows,
            square_px=config.square_size,
            patch_px=config.patch_size,
            num_images=config.num_images,
        )
        for slot, square in squares.items():
            packer.add(slot, square)
    with clock.step("jpeg"), tempfile.TemporaryDirectory() as folder:
        write_mosaics(packer.mosaics, Path(folder), stem="x", quality=config.jpg_quality)
    return dict(clock.seconds)


def time_commands(path: Path, backend: str) -> None:
    """Print what the commands take from start to end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        turns = [{"from": "human", "value": "<video>"}]
        row = {"id": "x", "video": str(path.resolve()), "conversations": turns}
        data = folder / "data.json"
        data.write_text(json.dumps([row]))
        (folder / "data.jsonl").write_text(json.dumps({"video": row["video"], "key": "x"}))
        shared = ["--num_workers", "1", "--backend", backend]
        first = ["--dataset_path", data, "--out_root", folder / "1", "--keep_first_full_frame"]
        second = ["--input_dataset", data, "--visidx_root", folder / "1"]
        second += ["--out_image_root", folder / "2", "--out_jsonl", folder / "2.jsonl"]
        offline = ["--jsonl", folder / "data.jsonl", "--out_root", folder / "3"]
        tools = {
            "stage 1": ["stage1.py", *first],
            "stage 2": ["stage2.py", *second],
            "one pass": ["offline_precompute_llava_codec_assets.py", *offline],
        }
        for label, (tool, *arguments) in tools.items():
            taken = measure([sys.executable, TOOLS / str(tool), *arguments, *shared])
            print(
                f"  {label:9} {taken.wall_seconds:7.2f} s wall {taken.cpu_seconds:7.2f} s cpu "
                f"{taken.peak_rss_bytes / 2**20:6.0f} MiB"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--backend", default="auto")
    args = parser.parse_args()
    for path in args.videos:
        print(path)
        time_commands(path, args.backend)
        seconds = time_steps(path, args.backend, AssetConfig())
        total = sum(seconds.values())
        shares = (f"{name} {value / total:.0%}" for name, value in seconds.items())
        print(f"  steps     {total:7.2f} s: {', '.join(shares)}")
        ratio = sum(seconds[name] for name in PIPELINE) / seconds["decode"]
        print(f"  (energy + selection + packing) / decode = {ratio:.2f}")


if __name__ == "__main__":
    main()
