"""Speed and memory of training: python scripts/bench/train.py [PART ...] [--size tiny].

- ``steps``: tokens per second, share of the peak and memory of the same mixed samples (a third each
  of codec clips of 8 mosaics, images and texts) taken four ways: one per optimiser step; one by
  one, accumulated to the steps of the packed way; padded batches of these; packed rows.
- ``visual``: what a visual token costs relative to a text token, and by the count of operations.
- ``loss``: peak memory of the chunked loss and of one that holds all logits.
- ``start``: a data path of ``--lines`` lines, with its index and without: time and memory to open
  it; time to pack it, to plan an epoch, and to resume at its end.
- ``balance``: padding and waiting that balanced and packed orders save.
- ``host``: time of one core for each stage of a codec sample of 8 mosaics, beside bare decoding.
- ``wait``: how fast pictures load, and how long runs wait for them with 0, 1 and 2 workers.

Ratios are of one run. Weights and pictures are random. ``--size 2b`` (the large encoder with a
decoder of Qwen3-1.7B's shape, bfloat16) wants a GPU. On a CPU the peak is that of a large product
of matrices, measured as well.
"""

import argparse
import sys
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX
from llava.data.collator import Batch, Collator
from llava.data.dataset import Item
from llava.data.sampler import packed_rows
from llava.model.loss import LanguageHead
from llava.train.batches import to_device
from llava.train.parts import PARTS
from llava.train.run.flops import FlopCounter, count_flops_of
from measure import measure
from onevision_encoder.patches import grid_positions, uniform_slots
from run_kit.speed import peak_flops
from train_data import bench_balance, bench_host, bench_start, bench_wait
from train_material import build, make_item, make_items

SIDE = {"tiny": 8, "small": 12, "2b": 36}
"""Patches per side of a mosaic."""
ROW_TOKENS = {"tiny": 1024, "small": 2048, "2b": 16384}
WAYS = ("one sample per step", "one by one, accumulated", "padded batches", "packed rows")


def make_steps(way: str, items: list[Item], row_tokens: int, image_token: int) -> list[list[Batch]]:
    """Return the batches of each optimiser step."""
    if way == WAYS[0]:
        return [[Collator(0, image_token)([item])] for item in items]
    lengths = np.array([len(item["input_ids"]) for item in items])
    rows = packed_rows(np.arange(len(items)), lengths, row_tokens, 0)
    packs = [rows.samples_of(np.array([row])) for row in range(len(rows))]
    chosen = [[items[sample] for sample in pack] for pack in packs]
    if way == WAYS[1]:
        return [[Collator(0, image_token)([item]) for item in pack] for pack in chosen]
    return [[Collator(0, image_token, packed=way == WAYS[3])(pack)] for pack in chosen]


def run_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Batch]) -> None:
    """Run forward and backward passes, and one step of the optimiser."""
    device = model.device
    supervised = sum(batch["layout"].num_supervised for batch in batches)
    for batch in batches:
        inputs = to_device({name: batch[name] for name in batch if name != "info"}, device)
        model(**inputs, num_items_in_batch=supervised).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()


def run_steps(model: Any, optimizer: torch.optim.Optimizer, steps: list[list[Batch]]) -> float:
    """Seconds of all steps."""
    started = time.perf_counter()
    for step in steps:
        run_step(model, optimizer, step)
    return time.perf_counter() - started


def count_operations(counter: FlopCounter, steps: list[list[Batch]]) -> float:
    """Operations of all steps."""
    return sum(
        counter.step(
            batch["info"].sample_tokens,
            batch["info"].segment_patches,
            batch["layout"].num_supervised,
        )
        for step in steps
        for batch in step
    )


def measured_peak() -> float:
    """Operations per second of a large product of matrices on the CPU."""
    one = torch.randn(1536, 1536)
    product = one @ one
    started = time.perf_counter()
    for _ in range(5):
        torch.matmul(one, one, out=product)
    return 5 * 2 * 1536**3 / (time.perf_counter() - started)


def run_way(way: str, args: argparse.Namespace) -> None:
    """Train on all samples three times, after a step to warm up, and print the best time."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(args.size, device, args.attention)
    items = make_items(model.config.image_token_id, args.samples, SIDE[args.size])
    steps = make_steps(way, items, ROW_TOKENS[args.size], model.config.image_token_id)
    tokens = sum(len(item["input_ids"]) for item in items)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    run_step(model, optimizer, max(steps, key=lambda step: sum(b["labels"].numel() for b in step)))
    seconds = min(run_steps(model, optimizer, steps) for _ in range(3))
    flops = count_operations(count_flops_of(model, PARTS), steps)
    peak = peak_flops(device, args.peak_tflops) or args.measured_peak
    print(
        f"{way:<24} {len(steps):>4} steps {tokens:>7} tokens {tokens / seconds:>8.0f} tokens/s "
        f"MFU {flops / seconds / peak:.3f}",
        end="",
        flush=True,
    )
    if device.type == "cuda":
        print(f"  {torch.cuda.max_memory_allocated() / 1e9:.1f} GB on the GPU", end="", flush=True)


def bench_steps(args: argparse.Namespace) -> None:
    """Measure the four ways, each in a process of its own."""
    print(f"\n{args.size}, {args.samples} samples, rows of {ROW_TOKENS[args.size]} tokens")
    args.measured_peak = measured_peak()  # once, so that shares compare like rates
    for way in WAYS:
        measured = measure(partial(run_way, way, args))
        print(f"  peak {measured.peak_rss_bytes / 1e6:.0f} MB", flush=True)


def bench_visual(args: argparse.Namespace) -> None:
    """Seconds of visual and of text tokens, and what the count of operations expects."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = "small" if args.size == "tiny" else args.size
    model = build(size, device, args.attention)
    counter, side = count_flops_of(model, PARTS), SIDE[size]
    print(f"\n{size} on {device}: time of a step relative to a text of {4 * side**2} tokens")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    kinds = {
        "text": None,
        "image, 2 x 2": grid_positions(uniform_slots(1), 2 * side, 2 * side),
        "clip of 4 mosaics": grid_positions(uniform_slots(4), side, side),
        "clip of 8 mosaics": grid_positions(uniform_slots(8), side, side),
    }
    base: tuple[float, float] | None = None
    for name, visual in kinds.items():
        text = 4 * side**2 if visual is None else side
        token = model.config.image_token_id
        batch = Collator(0, token)([make_item(token, visual, text, name)])
        flops = count_operations(counter, [[batch]])
        seconds = min(run_steps(model, optimizer, [[batch]]) for _ in range(6))
        base = base or (seconds, flops)
        took, expected = seconds / base[0], flops / base[1]
        print(f"{name:<18} {took:>5.2f}x, expected {expected:>5.2f}x: {took / expected - 1:>+6.1%}")


def run_loss(chunked: bool, tokens: int, supervised: int, vocabulary: int) -> None:
    """One loss and its gradients, in this process."""
    head = LanguageHead(256, vocabulary, bias=False)
    hidden = torch.randn(tokens, 256, requires_grad=True)
    labels = torch.randint(0, vocabulary, (tokens,))
    labels[: tokens - supervised] = IGNORE_INDEX
    if chunked:
        rows = labels != IGNORE_INDEX
        loss: Tensor = head(hidden[rows], labels[rows], torch.tensor(float(supervised)))[0]
    else:
        loss = torch.nn.functional.cross_entropy(head(hidden).float(), labels)
    loss.backward()


def bench_loss(args: argparse.Namespace) -> None:
    """Peak memory of both losses."""
    print(f"\nloss of {args.tokens} tokens, vocabulary {args.vocabulary}, above a sample of one")
    least = measure(partial(run_loss, True, 1, 1, args.vocabulary)).peak_rss_bytes
    for supervised in (args.tokens // 16, args.tokens):
        for name, chunked in (("all logits", False), ("chunked", True)):
            work = partial(run_loss, chunked, args.tokens, supervised, args.vocabulary)
            measured = measure(work)
            megabytes = (measured.peak_rss_bytes - least) / 1e6
            print(
                f"{name:<12} {supervised:>6} supervised {megabytes:>8.0f} MB "
                f"{measured.wall_seconds:>6.1f} s"
            )


PARTS_OF_BENCH = {
    "steps": bench_steps,
    "visual": bench_visual,
    "loss": bench_loss,
    "start": bench_start,
    "balance": bench_balance,
    "wait": bench_wait,
    "host": bench_host,
}


def main(argv: list[str] | None = None) -> int:
    """Print the figures; returns an exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts",
        nargs="*",
        default=list(PARTS_OF_BENCH),
        metavar="PART",
        help="measurements to make",
    )
    parser.add_argument("--size", choices=tuple(SIDE), default="tiny", help="size of the model")
    parser.add_argument(
        "--attention", default="sdpa", help="attention backend of encoder and decoder"
    )
    parser.add_argument("--samples", type=int, default=96, help="number of samples")
    parser.add_argument("--peak_tflops", type=float, help="peak of the device, for its utilisation")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a row")
    parser.add_argument(
        "--vocabulary", type=int, default=32768, help="number of tokens of the vocabulary"
    )
    parser.add_argument("--lines", type=int, default=1_000_000, help="lines of the data file")
    args = parser.parse_args(argv)
    unknown = sorted(set(args.parts) - PARTS_OF_BENCH.keys())
    if unknown:
        parser.error(f"unknown parts: {', '.join(unknown)}; known: {', '.join(PARTS_OF_BENCH)}")
    for part in args.parts:
        PARTS_OF_BENCH[part](args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
