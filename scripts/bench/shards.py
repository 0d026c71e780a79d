"""Training reads tars against folders: processor milliseconds a sample, bytes and inodes.

    python scripts/bench/shards.py [--reads 300] [--folder FOLDER]
    python scripts/bench/shards.py --store loopback|s3://BUCKET/FOLDER [--store_reads 30]

Two sets of made assets, each as folders and as shards: real sizes (8 mosaics of 576 pixels) in 40
shards of 10, where the pictures take the time; and small ones (8 mosaics of 56 pixels) in 40 shards
of 1,000, where finding the files does. Samples are read in random order, as training does, by
``SupervisedDataset`` in this process. The files are in the page cache for both. With ``--store``
some of the first set are uploaded there, and are read from there too, by an empty cache;
milliseconds by the clock. ``loopback`` is an S3 server of this machine (moto's), which is started
for the run.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from cv_reader.commands.convert.shards import ShardWriter
from cv_reader.remote.addresses import file_system
from cv_reader.remote.transfer import put_file
from llava.data.dataset import SupervisedDataset
from llava.model.tiny import tiny_tokenizer
from llava.visual.config import VisualConfig

KINDS = ("folders", "tars")
MOSAICS, SHARDS, MODELS = 8, 40, 10
START_SECONDS = 60.0
SETS = {"8 x 576 px, 40 shards of 10": (36, 16, 10), "8 x 56 px, 40 shards of 1,000": (4, 14, 1000)}
"""Name to cells of a side, pixels of a cell, samples of a shard."""


def main() -> None:
    """Write both sets, and read each from folders and from shards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=300, help="number of samples to read")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's)")
    parser.add_argument("--store", help="folder of a store to read from too, or loopback")
    parser.add_argument("--store_reads", type=int, default=30, help="samples to read from there")
    args = parser.parse_args()
    if args.store == "loopback":
        with _loopback_store() as store:
            _from_store(store, args)
    elif args.store:
        _from_store(args.store, args)
    else:
        for name, sizes in SETS.items():
            with _made_set(sizes, args.reads, args.folder) as (folder, order):
                _print(name, {kind: read_set(folder, kind, order) for kind in KINDS})


def _from_store(store: str, args: argparse.Namespace) -> None:
    name, sizes = next(iter(SETS.items()))
    with _made_set(sizes, args.store_reads, args.folder) as (folder, order):
        used = {f"shard_{number // sizes[2]:06d}" for number in order}
        upload(folder, store, lambda path: path.parts[0] != "tars" or path.name[:12] in used)
        os.environ["CV_READER_CACHE"] = str(folder / "cache")
        for place, suffix in (("this disk", ""), (store, "_of_the_store")):
            taken = {k: read_set(folder, k + suffix, order, time.perf_counter) for k in KINDS}
            _print(f"{name}, from {place}", taken)


@contextmanager
def _made_set(
    sizes: tuple[int, int, int], reads: int, root: Path | None
) -> Generator[tuple[Path, list[int]]]:
    """Give the folder of a set, and the order of its samples that are read."""
    grid, cell_px, shard_samples = sizes
    with tempfile.TemporaryDirectory(dir=root) as text:
        order = random.Random(0).sample(range(SHARDS * shard_samples), reads + 1)
        write_set(Path(text), grid, cell_px, shard_samples, set(order))
        yield Path(text), order


@contextmanager
def _loopback_store() -> Generator[str]:
    """Start an S3 server of this machine; gives the address of a bucket."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    settings = {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}
    settings |= {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "EC2_METADATA_DISABLED": "true"}
    os.environ.update({f"AWS_{name}": value for name, value in settings.items()})
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > end or server.poll() is not None:
                    raise
                time.sleep(0.2)
        file_system("s3://bucket")[0].mkdir("bucket")
        yield "s3://bucket"
    finally:
        server.terminate()
        server.wait()


def _print(name: str, taken: dict[str, tuple[float, float]]) -> None:
    for kind, (milliseconds, first) in taken.items():
        ratio = taken["folders"][0] / milliseconds
        print(
            f"{name}: {kind}: {milliseconds:.2f} ms a sample ({ratio:.2f} of folders), the first "
            f"{first:.1f} ms",
            flush=True,
        )


def write_set(folder: Path, grid: int, cell_px: int, shard_samples: int, wanted: set[int]) -> None:
    """Write models of assets, shards of copies, folders that link to models, and their lines.

    Only those folders are written that are read.
    """
    generator = np.random.default_rng(0)
    for number in range(MODELS):
        model = folder / "models" / str(number)
        model.mkdir(parents=True)
        side = grid * cell_px
        for mosaic in range(MOSAICS):
            cells = generator.integers(0, 256, (grid, grid, 3), np.uint8)
            picture = Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)
            picture.save(model / f"mosaic_{mosaic:03d}.jpg", quality=95)
        rows = np.indices((MOSAICS, grid, grid)).reshape(3, -1).T
        np.save(model / "positions_thw.npy", rows.astype(np.int32))
        (model / "meta.json").write_text("{}")
    writer = ShardWriter(folder / "tars", "shard_", shard_samples, 1 << 40)
    lines: dict[str, list[str]] = {"folders": [], "tars": []}
    for number in range(SHARDS * shard_samples):
        key, model = f"sample{number:09d}", folder / "models" / str(number % MODELS)
        if number in wanted:
            (folder / "folders" / key).mkdir(parents=True)
            for path in model.iterdir():
                os.link(path, folder / "folders" / key / path.name)
        lines["folders"].append(_line(f"folders/{key}"))
        lines["tars"].append(_line(f"tars/{writer.tar.name}#{key}"))
        writer.add(key, model)
    writer.close()
    for kind, texts in lines.items():
        (folder / f"{kind}.jsonl").write_text("\n".join(texts))


def _line(place: str) -> str:
    turns = [{"from": "human", "value": "<image>" * MOSAICS}, {"from": "gpt", "value": "A clip."}]
    images = [f"{place}/mosaic_{number:03d}.jpg" for number in range(MOSAICS)]
    fields = {"image": images, "positions_thw": f"{place}/positions_thw.npy"}
    return json.dumps({**fields, "conversations": turns})


def upload(folder: Path, store: str, is_read: Callable[[Path], bool]) -> None:
    """Put what is read of folders and shards into a store; write their lines with addresses."""
    for kind in KINDS:
        for path in sorted((folder / kind).rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and is_read(name):
                put_file(path, f"{store}/{name}")
        text = (folder / f"{kind}.jsonl").read_text()
        (folder / f"{kind}_of_the_store.jsonl").write_text(
            text.replace(f'"{kind}/', f'"{store}/{kind}/')
        )


def read_set(
    folder: Path,
    kind: str,
    order: list[int],
    clock: Callable[[], float] = time.process_time,
) -> tuple[float, float]:
    """Read samples in an order.

    Returns:
        Milliseconds of a sample by a clock, and of the first one.
    """
    path = folder / f"{kind}.jsonl"
    dataset = SupervisedDataset(path, tiny_tokenizer(), VisualConfig(), max_length=1 << 20)
    started = clock()
    dataset[order[0]]
    first = clock()
    for index in order[1:]:
        dataset[index]
    return 1e3 * (clock() - first) / len(order[1:]), 1e3 * (first - started)


if __name__ == "__main__":
    main()
