"""Start-up, order and loading of training data: the parts of train.py that need no model."""

import argparse
import io
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from cv_reader.assets import read_positions
from llava.constants import IMAGE_TOKEN
from llava.data.collator import Batch, Collator
from llava.data.dataset import SupervisedDataset
from llava.data.encoding import tokenize
from llava.data.mixture import Mixture
from llava.data.sampler import RankBatches, packed_rows, single_rows
from llava.model.tiny import tiny_tokenizer, write_tiny_checkpoint
from llava.train.smoke import write_mixture
from llava.train.train import main as train
from llava.visual.config import VisualConfig
from llava.visual.pictures import load_image
from llava.visual.segments import byte_patches, resize_mosaic
from measure import measure
from run_kit.log import read_log

MOSAIC_PX, GRID, MOSAICS = 576, 36, 8


def do_nothing() -> None:
    """Do nothing: measuring this call gives what importing the module takes."""


def open_path(path: Path) -> None:
    """Index a data path, plan an epoch, and read one entry."""
    mixture = Mixture(path)
    batches = RankBatches(single_rows(np.arange(len(mixture))), batch_rows=1, world_size=8)
    mixture.read(batches.batch(0, 0)[0])


def bench_start(args: argparse.Namespace) -> None:
    """Index, plan and resume."""
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "x" * 200}]
    entry = json.dumps({"image": "a.jpg", "conversations": turns})
    least = measure(do_nothing).peak_rss_bytes
    print("\ndata path: indexed, an epoch planned, one entry read")
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("jsonl", "json"):
            for lines in (args.lines // 100, args.lines):
                path = Path(folder) / f"{lines}.{kind}"
                text = f"{entry}\n" * lines if kind == "jsonl" else f"[{','.join([entry] * lines)}]"
                path.write_text(text)
                for state in ("no index", "index"):
                    measured = measure(partial(open_path, path))
                    memory = (measured.peak_rss_bytes - least) / 1e6
                    size = path.stat().st_size / 1e6
                    print(
                        f"{kind:<5} {lines:>8} lines {size:>5.0f} MB, {state:<8} "
                        f"{measured.wall_seconds:>6.2f} s {memory:>6.0f} MB above imports"
                    )
    lengths = np.random.default_rng(0).integers(50, 12000, args.lines)
    started = time.perf_counter()
    rows = packed_rows(np.arange(args.lines), lengths, 16384, 0)
    print(f"packed into {len(rows)} rows in {time.perf_counter() - started:.1f} s")
    singles = single_rows(np.arange(args.lines))
    for name, costs in (("random order", None), ("balanced", lengths)):
        batches = RankBatches(singles, batch_rows=1, costs=costs)
        started = time.perf_counter()
        batches.batch(0, 0)
        planned = time.perf_counter() - started
        batches.set_epoch(0, len(batches) - 1)
        *_, last = batches
        found = time.perf_counter() - started - planned
        assert last == batches.batch(0, len(batches) - 1)
        print(f"{name}: epoch planned in {planned:.2f} s, resumed at its end in {found:.3f} s")


def bench_balance(args: argparse.Namespace) -> None:
    """Measure the padding and the waiting for the slowest rank that grouping by length saves."""
    random = np.random.default_rng(0)
    count = 48000
    visual = random.choice([0, 3280, 4961, 6400, 10368], count, p=[0.2, 0.3, 0.1, 0.1, 0.3])
    lengths = visual + random.lognormal(5.5, 0.8, count).astype(np.int64)
    print("\n8 ranks, 30 % codec clips, 50 % anyres images, 20 % text; in tokens")
    plans = {
        "1 sample, random order": (single_rows(np.arange(count)), False, 1),
        "1 sample, balanced": (single_rows(np.arange(count)), True, 1),
        "4 samples, random order": (single_rows(np.arange(count)), False, 4),
        "4 samples, balanced": (single_rows(np.arange(count)), True, 4),
        "packs of 32768": (packed_rows(np.arange(count), lengths, 32768, 0), False, 1),
    }
    for name, (rows, balanced, batch_rows) in plans.items():
        costs = rows.sums(lengths)
        ranks = [
            RankBatches(
                rows,
                batch_rows=batch_rows,
                world_size=8,
                rank=rank,
                costs=costs if balanced else None,
                drop_last=True,
            )
            for rank in range(8)
        ]
        packed = len(rows) < count
        step = np.array([[_work(lengths[batch], packed) for batch in rank] for rank in ranks])
        padding = 1 - step[..., 0].sum() / step[..., 1].sum()
        waiting = 1 - step[..., 1].mean(0).sum() / step[..., 1].max(0).sum()
        print(f"{name:<22} padding {padding:>5.1%}, ranks wait {waiting:>5.1%} of the time")


def _work(lengths: np.ndarray, packed: bool) -> tuple[int, int]:
    """Tokens of a batch, and those computed with padding."""
    return int(lengths.sum()), int(lengths.sum() if packed else lengths.max() * len(lengths))


def bench_wait(args: argparse.Namespace) -> None:
    """How fast pictures of real size load, and how long a tiny run waits for its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _bench_loading(folder)
        write_tiny_checkpoint(folder / "model")
        write_mixture(folder / "data", samples_per_kind=32)
        print("\nruns of the tiny model: share of the time without a batch, first step left out")
        for workers in (0, 1, 2):
            flags = {
                "model_name_or_path": folder / "model",
                "data_path": folder / "data" / "train.jsonl",
                "output_dir": folder / "run",
                "use_cpu": True,
                "per_device_train_batch_size": 8,
                "num_train_epochs": 3,
                "save_strategy": "no",
                "disable_tqdm": True,
                "dataloader_num_workers": workers,
                "dataloader_persistent_workers": workers > 0,
            }
            code = train(
                [text for flag in flags.items() for text in (f"--{flag[0]}", str(flag[1]))]
            )
            rows = read_log(folder / "run")[1:]
            waited = sum(row["data_wait_seconds"] for row in rows)
            seconds = sum(row["seconds"] for row in rows)
            print(
                f"{workers} workers: {waited / seconds:>6.1%} of {seconds:.1f} s, "
                f"{sum(row['tokens'] for row in rows) / seconds:.0f} tokens/s (exit code {code})"
            )
            shutil.rmtree(folder / "run")


def bench_host(_: argparse.Namespace) -> None:
    """CPU time of one core for each stage of a codec sample, beside what no reader can avoid."""
    print(f"\na codec sample of {MOSAICS} mosaics, ms of one core, least of {_TIMES}")
    kinds = ((MOSAIC_PX, "jpg"), (GRID * 14, "jpg"), (GRID * 14, "ppm"))
    with tempfile.TemporaryDirectory() as name:
        found = [_host_stages(Path(name) / f"{px}_{kind}", px, kind) for px, kind in kinds]
    print(f"  {'':<36}" + "".join(f"{f'{px} px {kind}':>14}" for px, kind in kinds))
    for title in found[0]:
        print(f"  {title:<36}" + "".join(f"{times[title]:>14.2f}" for times in found))
    ratios = [times[_WHOLE] / times[_LIMIT] for times in found]
    print(f"  {'worker, relative to that':<36}" + "".join(f"{ratio:>14.2f}" for ratio in ratios))


_TIMES = 15
"""Repetitions; other work on the machine makes some of them slower."""
_WHOLE, _LIMIT = "worker: whole sample", "bare decoding, or reading of PPM"


def _host_stages(folder: Path, side_px: int, kind: str) -> dict[str, float]:
    """Return the milliseconds of each stage."""
    dataset, image_token = _write_clips(folder, copies=1, side_px=side_px, kind=kind)
    record: Any = dataset.record(0)
    item, tokenizer = dataset[0], tiny_tokenizer()
    [segment] = item["segments"]
    collate = Collator(0, image_token)
    images = [load_image(path) for path in record.images]
    squares = [resize_mosaic(image, GRID, 14) for image in images]
    counts = segment.expansions
    contents = [path.read_bytes() for path in record.images]
    fresh = [segment.patches.clone() for _ in range(_TIMES + 1)]
    pairs = [(x.clone(), x) for x in _travelling(collate([item]))]
    decode = _bare_decoder() if kind == "jpg" else None

    def each(work: Callable[[Any], object], items: Sequence[Any]) -> Callable[[], None]:
        def run() -> None:
            for one in items:  # what it gives is dropped before the next, as in a worker
                work(one)

        return run

    stages: dict[str, Callable[[], object]] = {
        "worker: parse the entry": lambda: dataset.record(0),
        "worker: read and decode mosaics": each(load_image, record.images),
        "worker: resize to patches": each(lambda x: resize_mosaic(x, GRID, 14), images),
        "worker: cut into patches": lambda: byte_patches(squares, 14),
        "worker: positions": lambda: read_positions(record.positions, num_images=MOSAICS),
        "worker: tokens": lambda: tokenize(
            record, counts, tokenizer, template="qwen_1_5", max_length=32768
        ),
        _WHOLE: lambda: dataset[0],
        "worker: collate": lambda: collate([item]),
        "worker: into shared memory": lambda: fresh.pop().share_memory_(),
        "step: copy all that travels once": lambda: [x.copy_(y) for x, y in pairs],
        _LIMIT: each(decode, contents) if decode else each(Path.read_bytes, record.images),
    }
    return {title: _cpu_milliseconds(stage) for title, stage in stages.items()}


def _bare_decoder() -> Callable[[bytes], object]:
    """Return simplejpeg's decoder into one buffer, or Pillow's where that is not installed."""
    if find_spec("simplejpeg"):
        import simplejpeg

        return simplejpeg.decode_jpeg
    print("  (bare decoding by Pillow: simplejpeg, which is faster, is not installed)")

    def decode(content: bytes) -> object:
        return Image.open(io.BytesIO(content)).load()

    return decode


def _travelling(batch: Batch) -> list[Tensor]:
    """Return what a step copies to page-locked memory or to the device."""
    visual, layout = batch["visual"], batch["layout"]
    assert visual is not None
    visuals = [visual.patches, visual.positions, visual.cu_seqlens]
    return [*visuals, batch["input_ids"], batch["labels"], layout.placeholders, layout.supervised]


def _cpu_milliseconds(stage: Callable[[], object]) -> float:
    """Return the least CPU time of a call after a first."""
    stage()
    times: list[float] = []
    for _ in range(_TIMES):
        started = time.process_time()
        stage()
        times.append(time.process_time() - started)
    return 1e3 * min(times)


def _write_clips(
    folder: Path, copies: int, side_px: int = MOSAIC_PX, kind: str = "jpg"
) -> tuple[SupervisedDataset, int]:
    """Write a data set of a made codec clip; return it and the image token."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    names = [f"{number}.{kind}" for number in range(MOSAICS)]
    for name in names:
        cells = random.integers(0, 256, (GRID, GRID, 3), dtype=np.uint8)
        mosaic = Image.fromarray(cells).resize((side_px, side_px), Image.Resampling.BICUBIC)
        mosaic.save(folder / name, quality=95)
    cells = np.indices((MOSAICS, GRID, GRID)).reshape(3, -1).T
    np.save(folder / "positions.npy", cells.astype(np.int32))
    answer = {"from": "gpt", "value": "A clip."}
    turns = [{"from": "human", "value": "<image>" * MOSAICS}, answer]
    entry = {"image": names, "positions_thw": "positions.npy", "conversations": turns}
    (folder / "real.jsonl").write_text((json.dumps(entry) + "\n") * copies)
    tokenizer = tiny_tokenizer()
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    dataset = SupervisedDataset(folder / "real.jsonl", tokenizer, VisualConfig(), max_length=32768)
    return dataset, image_token


def _bench_loading(folder: Path) -> None:
    dataset, image_token = _write_clips(folder, copies=48)
    print(f"\ncodec clips of {MOSAICS} mosaics, {MOSAICS * GRID**2} tokens")
    for workers in (0, 1, 2):
        loader = DataLoader(dataset, collate_fn=Collator(0, image_token), num_workers=workers)
        batches = iter(loader)
        next(batches)
        started = time.perf_counter()
        count = sum(1 for _ in batches)
        seconds = time.perf_counter() - started
        print(
            f"{workers} workers: {count / seconds:>5.1f} clips/s, "
            f"{count / seconds * MOSAICS * GRID**2:>9.0f} visual tokens/s"
        )
