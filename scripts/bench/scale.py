"""What a million, a hundred million and a billion videos cost: cores, hours, bytes, inodes, money.

    python scripts/bench/scale.py [VIDEO ...] [--copies 8] [--keep measured.json]
        [--cores 1000] [--price 0.0425] [--task_ms local=0.05 ray=1.64]

``precompute`` runs with one worker over one copy of each video and over ``--copies`` more of them;
the difference is what a video costs: processor seconds, which other work on the machine disturbs
less than the clock, and bytes read. The same assets as shards give the sizes of a tar. Everything
else is arithmetic, printed as Markdown: ``--cores`` at a time, ``--price`` for an hour of one of
them, and ``--task_ms``, the driver's processor time for a task by ``prepare.py tasks``.

``--keep FILE`` keeps what was measured, and a later run computes from the file: other prices need
no measuring. Without videos, clips are made: 360p and 1080p of 10 s, 1080p of 60 s.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from clips import looped, made_clip
from measure import Measured, measure

COUNTS = {"1 M": 10**6, "100 M": 10**8, "1 B": 10**9}
SHARD_SAMPLES = 1000
COMMAND = [sys.executable, "-m", "cv_reader.commands.main"]


@dataclass(frozen=True)
class Cost:
    """What one video costs."""

    name: str
    video_bytes: int
    read_bytes: float
    core_seconds: float
    folder_bytes: float
    folder_inodes: float
    tar_bytes: float


def main() -> None:
    """Measure, or read what was measured, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="*", type=Path, help="videos to measure")
    parser.add_argument("--copies", type=int, default=8, help="copies of each that are measured")
    parser.add_argument("--cores", type=int, default=1000, help="cores that work at a time")
    parser.add_argument(
        "--price",
        type=float,
        default=0.0425,
        help="price of one core for an hour; the default is that of a c5.2xlarge of AWS by the "
        "example in its manual (0.34 USD for 8 virtual cores)",
    )
    parser.add_argument(
        "--task_ms",
        nargs="*",
        default=[],
        metavar="ENGINE=MS",
        help="milliseconds of the driver's processor for a task, by engine",
    )
    parser.add_argument("--keep", type=Path, metavar="FILE", help="file of what was measured")
    args = parser.parse_args()
    if args.keep and args.keep.exists():
        costs = [Cost(**row) for row in json.loads(args.keep.read_text())]
    else:
        with tempfile.TemporaryDirectory() as folder:
            videos = args.videos or made_clips(Path(folder))
            costs = [cost_of(path, args.copies) for path in videos]
        if args.keep:
            args.keep.write_text(json.dumps([asdict(cost) for cost in costs], indent=1))
    engines = {name: float(ms) for name, ms in (text.split("=") for text in args.task_ms)}
    for table in (
        videos_table(costs),
        engines_table(costs, engines),
        scale_table(costs, args.cores, args.price),
    ):
        sys.stdout.write("\n" + "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n")


def made_clips(folder: Path) -> list[Path]:
    """Return the videos of a run without arguments."""
    large = made_clip(folder, "h264", 1080, 1920, 300)
    return [made_clip(folder, "h264", 360, 640, 300), large, looped(large, 6)]


def cost_of(video: Path, copies: int) -> Cost:
    """Measure what one more video costs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one, more = (prepare(video, folder / str(n), n) for n in (1, 1 + copies))
        assets = folder / str(1 + copies) / "assets"
        tars = folder / "tars"
        measure([*COMMAND, "convert", str(assets), "--to", "tar", "--out", str(tars)])
        held = [path for path in assets.rglob("*") if not path.name.startswith(".")]
        packed = sum(path.stat().st_size for path in tars.glob("shard_*"))
        return Cost(
            name=video.name,
            video_bytes=video.stat().st_size,
            read_bytes=(more.read_bytes - one.read_bytes) / copies,
            core_seconds=(more.cpu_seconds - one.cpu_seconds) / copies,
            folder_bytes=sum(path.stat().st_blocks * 512 for path in held) / (1 + copies),
            folder_inodes=len(held) / (1 + copies),
            tar_bytes=packed / (1 + copies),
        )


def prepare(video: Path, out: Path, count: int) -> Measured:
    """Make evaluation assets of so many copies of a video with one worker and one thread."""
    out.mkdir()
    lines = out / "videos.jsonl"
    rows = [{"video": str(video.resolve()), "key": f"k{number}"} for number in range(count)]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--jsonl", str(lines), "--out_root", str(out), "--num_workers", "1"]
    return measure([*COMMAND, "precompute", *flags, "--num_threads", "1"])


def videos_table(costs: Iterable[Cost]) -> list[list[str]]:
    """Return the rows of what one video costs."""
    rows = [
        ["one video", "its bytes", "read", "core seconds", "folder", "inodes", "in a tar"],
        ["---"] * 7,
    ]
    for cost in costs:
        sizes = (cost.folder_bytes, cost.tar_bytes)
        folder, tar = (f"{size / 1e3:.0f} kB" for size in sizes)
        read = f"{cost.read_bytes / 1e6:.2f} MB"
        first = [cost.name, f"{cost.video_bytes / 1e6:.2f} MB", read, f"{cost.core_seconds:.2f}"]
        rows.append([*first, folder, f"{cost.folder_inodes:.0f}", tar])
    return rows


def engines_table(costs: Iterable[Cost], engines: dict[str, float]) -> list[list[str]]:
    """Return the rows of how many cores one command keeps busy: its time on a task is a limit."""
    rows = [["cores that one command keeps busy", *engines], ["---"] * (1 + len(engines))]
    for cost in costs:
        cores = (1e3 * cost.core_seconds / milliseconds for milliseconds in engines.values())
        rows.append([cost.name, *(f"{number:,.0f}" for number in cores)])
    return rows if engines else []


def scale_table(costs: Iterable[Cost], cores: int, price: float) -> list[list[str]]:
    """Return the rows of what many videos cost."""
    titles = ["videos", "of", "core hours", f"hours on {cores:,} cores"]
    titles += [f"money at {price:g} a core hour", "per million", "read", "folders", "inodes"]
    rows = [[*titles, "tars", "inodes"], ["---"] * 11]
    for name, count in COUNTS.items():
        for cost in costs:
            hours = count * cost.core_seconds / 3600
            row = [name, cost.name, f"{hours:,.0f}", f"{hours / cores:,.1f}"]
            row += [f"{hours * price:,.0f}", f"{hours * price / count * 1e6:,.1f}"]
            row += [terabytes(count * cost.read_bytes), terabytes(count * cost.folder_bytes)]
            row += [f"{count * cost.folder_inodes / 1e6:,.0f} M"]
            row += [terabytes(count * cost.tar_bytes), f"{2 * count / SHARD_SAMPLES:,.0f}"]
            rows.append(row)
    return rows


def terabytes(size: float) -> str:
    """Return a size in terabytes of 10^12 bytes."""
    return f"{size / 1e12:,.1f} TB" if size >= 1e12 else f"{size / 1e12:,.2f} TB"


if __name__ == "__main__":
    main()
