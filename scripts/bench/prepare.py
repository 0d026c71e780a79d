"""What preparing many videos costs besides decoding: starting again, overhead of a task, engines.

    python scripts/bench/prepare.py restart [--samples 1000000] [--output tar] [--folder FOLDER]
    python scripts/bench/prepare.py tasks [--samples 20000] [--engines local ray] [--num_workers 2]
    python scripts/bench/prepare.py engines [--copies 40] [--engines local ray] [--num_workers 2]

``restart`` makes an output of so many finished samples, with a ledger, and runs ``precompute`` on
it again. The samples are links to a thousand folders of one asset's files, so that each costs the
system calls of a folder of its own, and not its space; or, with ``--output tar``, in shards.

``tasks`` runs so many empty tasks through each engine, in a process of its own: time and the
driver's processor time per task, and the driver's memory after a thousand tasks and at the end.

``engines`` makes a clip of 360p, and prepares copies of it by each engine: videos per second, the
start of the engine apart, as ratios to the first. By the clock, and by processor seconds of all
processes, which is the ratio on a machine whose cores the workers keep busy, whatever else runs.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from clips import made_clip
from cv_reader.assets.freshness import asked_for
from cv_reader.assets.make import write_evaluation_asset
from cv_reader.commands.convert.shards import ShardWriter
from cv_reader.commands.doctor import versions
from cv_reader.engines import local, on_ray
from cv_reader.engines.tasks import Limits
from cv_reader.ledger import Ledger, Place, ledger_path
from cv_reader.select.config import AssetConfig
from measure import Measured, measure, memory_bytes

CONFIG = AssetConfig(square_size=64, num_images=8, sequence_length=16)
ARGUMENTS = ["--square_size", "64", "--num_images", "8", "--seq_len_frames", "16"]
PRECOMPUTE = [sys.executable, "-m", "cv_reader.commands.main", "precompute"]
NUM_FOLDERS, EARLY_TASKS = 1000, 1000


def main() -> None:
    """Run one of the three measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("restart", "tasks", "engines"))
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--copies", type=int, default=40)
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--engines", nargs="+", default=["local", "ray"])
    parser.add_argument("--output", choices=("folder", "tar"), default="folder")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        {"restart": _restart, "tasks": _tasks, "engines": _engines}[args.what](Path(folder), args)


def _restart(folder: Path, args: argparse.Namespace) -> None:
    clip = made_clip(folder, "h264", 96, 128, 32)
    out, models = folder / "out", folder / "models"
    write_evaluation_asset(clip, key="0", out_root=models, config=CONFIG)
    first = models / "assets" / "0"
    for number in range(1, NUM_FOLDERS):
        (models / "assets" / str(number)).mkdir()
        for path in first.iterdir():
            os.link(path, models / "assets" / str(number) / path.name)
    (out / "assets").mkdir(parents=True)
    data = folder / "videos.jsonl"
    shards = ShardWriter(out / "assets", "shard_", 1000, 1 << 40)
    with data.open("w") as lines:
        for number in range(args.samples):
            key = f"sample{number:09d}"
            if args.output == "tar":
                shards.add(key, first)
            else:
                os.symlink(models / "assets" / str(number % NUM_FOLDERS), out / "assets" / key)
            lines.write(json.dumps({"video": str(clip), "key": key}) + "\n")
    shards.close()
    with Ledger(_ledger(out), asked_for(CONFIG)) as ledger:
        for number in range(args.samples):
            key, tar = f"sample{number:09d}", f"{out}/assets/shard_{number // 1000:06d}.tar"
            place = tar if args.output == "tar" else f"{out}/assets/{key}/"
            ledger.finish(Place(key, [str(clip)], [place]))
    for extra in ([], ["--trust_ledger"]):
        command = [*PRECOMPUTE, "--jsonl", str(data), "--out_root", str(out), *ARGUMENTS]
        command += ["--output", args.output]
        took = measure([*command, *extra, "--num_workers", "2", "--log_every", "1000000"])
        print(
            f"restart over {args.samples} finished samples{''.join(' ' + e for e in extra)}: "
            f"{took.wall_seconds:.1f} s, {took.cpu_seconds:.1f} CPU s, "
            f"{took.peak_rss_bytes / 2**20:.0f} MiB; ledger "
            f"{_ledger(out).stat().st_size / args.samples:.0f} bytes a sample"
        )


def _ledger(out: Path) -> Path:
    return ledger_path(out, "shard00of01")


def _tasks(_folder: Path, args: argparse.Namespace) -> None:
    context = multiprocessing.get_context("spawn")
    for engine in args.engines:
        limits = Limits(num_workers=args.num_workers)
        process = context.Process(target=_run_empty, args=(engine, args.samples, limits))
        process.start()
        process.join()


def _run_empty(engine: str, count: int, limits: Limits) -> None:
    outcomes = _empty(engine, count, limits)
    first = sum(1 for _ in islice(outcomes, EARLY_TASKS))  # the engine has started
    early = memory_bytes("VmHWM")
    started, cpu = time.perf_counter(), time.process_time()
    rest = sum(1 for _ in outcomes)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    late = memory_bytes("VmHWM")
    print(
        f"{engine}: {first + rest} empty tasks, {1e3 * seconds / rest:.3f} ms a task by the clock, "
        f"{1e3 * cpu / rest:.3f} ms of the driver's processor, which takes {late / 2**20:.0f} MiB "
        f"at most ({early / 2**20:.0f} MiB after {first} tasks)",
        flush=True,
    )


def _empty(engine: str, count: int, limits: Limits) -> Iterator[object]:
    if engine == "local":
        return local.run_tasks(abs, range(count), limits)
    choice = on_ray.RayChoice(address="local", versions=versions)
    return on_ray.run_tasks(abs, range(count), limits, choice)


def _engines(folder: Path, args: argparse.Namespace) -> None:
    clip = made_clip(folder, "h264", 360, 640, 300)
    rates: dict[str, tuple[float, float]] = {}
    for engine in args.engines:
        taken: list[Measured] = []
        for copies in (args.num_workers, args.copies + args.num_workers):
            data = folder / "videos.jsonl"
            rows = [{"video": str(clip), "key": f"k{number}"} for number in range(copies)]
            data.write_text("".join(json.dumps(row) + "\n" for row in rows))
            out = folder / f"{engine}{copies}"
            command = [*PRECOMPUTE, "--jsonl", str(data), "--out_root", str(out)]
            command += ["--num_workers", str(args.num_workers), "--num_threads", "1"]
            if engine == "ray":
                command += ["--engine", "ray", "--address", "local"]
            taken.append(measure(command))
        few, many = taken
        rates[engine] = (
            args.copies / (many.wall_seconds - few.wall_seconds),
            args.copies / (many.cpu_seconds - few.cpu_seconds),
        )
        wall, cpu = rates[engine]
        first_wall, first_cpu = rates[args.engines[0]]
        print(
            f"{engine}: {wall:.2f} videos/s once started ({wall / first_wall:.2f} of "
            f"{args.engines[0]}), {cpu:.2f} per processor second ({cpu / first_cpu:.2f}), start "
            f"and {args.num_workers} videos {few.wall_seconds:.1f} s, {few.cpu_seconds:.1f} CPU s",
            flush=True,
        )


if __name__ == "__main__":
    main()
