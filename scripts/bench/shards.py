"""Training reads tars against folders: processor milliseconds a sample, bytes and inodes.

    python scripts/bench/shards.py [--reads 300] [--folder FOLDER] [--store s3://BUCKET/FOLDER]

Two sets of made assets, each as folders and as shards: real sizes (8 mosaics of 576 pixels) in 40
shards of 10, where the pictures take the time; and small ones (8 mosaics of 56 pixels) in 40 shards
of 1,000, where finding the files does. Samples are read in random order, as training does, by
``SupervisedDataset`` in this process. The files are in the page cache for both. With ``--store``
the same files are uploaded there and read from it, by an empty cache; milliseconds by the clock.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from cv_reader.commands.convert.shards import ShardWriter
from cv_reader.remote.transfer import put_file
from llava.data.dataset import SupervisedDataset
from llava.model.tiny import tiny_tokenizer
from llava.visual.config import VisualConfig

MOSAICS, SHARDS, MODELS = 8, 40, 10
SETS = {"8 x 576 px, 40 shards of 10": (36, 16, 10), "8 x 56 px, 40 shards of 1,000": (4, 14, 1000)}
"""Name to cells of a side, pixels of a cell, samples of a shard."""


def main() -> None:
    """Write both sets, and read each from folders and from shards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=300, help="number of samples to read")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's)")
    parser.add_argument("--store", help="folder of a store from which they are read as well")
    args = parser.parse_args()
    for name, (grid, cell_px, shard_samples) in SETS.items():
        with tempfile.TemporaryDirectory(dir=args.folder) as text:
            folder = Path(text)
            order = random.Random(0).sample(range(SHARDS * shard_samples), args.reads + 1)
            write_set(folder, grid, cell_px, shard_samples, set(order))
            taken = {kind: read_set(folder, kind, order) for kind in ("folders", "tars")}
            _print(name, taken)
            if args.store:
                # Elsewhere for each set: a process looks an object up once.
                upload(folder, f"{args.store}/{grid}x{grid}")
                os.environ["CV_READER_CACHE"] = str(folder / "cache")
                taken = {
                    kind: read_set(folder, f"{kind}_of_the_store", order, time.perf_counter)
                    for kind in ("folders", "tars")
                }
                _print(f"{name}, from {args.store}", taken)


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


def upload(folder: Path, store: str) -> None:
    """Put folders and shards into a store, and write their lines with addresses."""
    for kind in ("folders", "tars"):
        for path in sorted((folder / kind).rglob("*")):
            if path.is_file():
                put_file(path, f"{store}/{path.relative_to(folder)}")
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
