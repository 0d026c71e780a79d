"""Speed and memory of training: python scripts/bench/train.py [steps loss start] [--size tiny].

- ``steps``: tokens per second of one-sample steps and of packed ones, the same mixed samples.
- ``loss``: peak memory of the chunked loss and of one that holds all logits.
- ``start``: a data path of ``--lines`` lines: time and memory to index it, to plan an epoch, and to
  find the batch that a resumed run goes on with.

Ratios are of one run. Weights and pictures are random. ``--size 2b`` (the large encoder with a
decoder of Qwen3-1.7B's shape, bfloat16) wants a GPU.
"""

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llava.batch import VisualSegment
from llava.constants import IGNORE_INDEX
from llava.data.collator import Collator
from llava.data.dataset import Item
from llava.data.mixture import Mixture
from llava.data.sampler import RankBatches, packed_rows, single_rows
from llava.model import LlavaQwen3Config, LlavaQwen3ForCausalLM
from llava.model.loss import LanguageHead
from llava.model.tiny import tiny_model, tiny_tokenizer
from llava.positions import frame_positions, image_positions
from llava.train.flops import count_flops_of, peak_flops
from llava.train.parts import PARTS, set_trainable
from measure import measure
from onevision_encoder import OneVisionEncoderConfig
from onevision_encoder.export import SIZES

PATCH_VALUES = 588
QWEN3_2B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40960,
}


def build(size: str, device: torch.device, attention: str) -> Any:
    """A random model, ready to train."""
    torch.manual_seed(0)
    if size == "tiny":
        model: Any = tiny_model(tiny_tokenizer())
    else:
        vision = OneVisionEncoderConfig(**SIZES["large"], use_head=False)
        config = LlavaQwen3Config(**QWEN3_2B, vision_config=vision.to_dict(), image_token_id=5)
        with torch.device(device):
            model = LlavaQwen3ForCausalLM(config).to(torch.bfloat16)
        model.gradient_checkpointing_enable()
    model.set_attn_implementation(attention)
    set_trainable(model, PARTS)
    return model.to(device).train()


def make_items(image_token: int, count: int, side: int) -> list[Item]:
    """Codec clips, images and texts of different lengths, in turn; grids up to ``side``."""
    random = np.random.default_rng(0)
    items: list[Item] = []
    for number in range(count):
        grid = int(random.integers(max(1, side // 2), side + 1))
        positions = [frame_positions(4, grid, grid, 64), image_positions(grid, grid), None]
        visual = positions[number % 3]
        text = torch.randint(6, 200, (int(random.integers(16, 128)),))
        patches = 0 if visual is None else len(visual)
        ids = torch.cat((torch.full((patches,), image_token), text))
        segments = []
        if visual is not None:
            segments = [VisualSegment(torch.randn(patches, PATCH_VALUES), visual, (patches,))]
        labels = ids.masked_fill(torch.arange(len(ids)) < patches + 8, IGNORE_INDEX)
        items.append(
            Item(
                input_ids=ids,
                labels=labels,
                segments=segments,
                sample_id=str(number),
                set_index=0,
                bad_samples=[],
            )
        )
    return items


def run_steps(model: Any, batches: list[Any], device: torch.device) -> float:
    """Seconds of forward and backward passes over all batches, after one to warm up."""
    seconds = 0.0
    for number, batch in enumerate([batches[0], *batches]):
        inputs = {name: _move(value, device) for name, value in batch.items() if name != "info"}
        started = time.perf_counter()
        model(**inputs).loss.backward()
        model.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds += (time.perf_counter() - started) * (number > 0)
    return seconds


def _move(value: Any, device: torch.device) -> Any:
    return None if value is None else value.to(device)


def bench_steps(args: argparse.Namespace) -> None:
    """One-sample steps against packed ones."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(args.size, device, args.attention)
    side, max_tokens = (8, 1024) if args.size == "tiny" else (36, 16384)
    items = make_items(model.config.image_token_id, args.samples, side)
    lengths = np.array([len(item["input_ids"]) for item in items])
    rows = packed_rows(np.arange(len(items)), lengths, max_tokens, 0)
    ways = {
        "one sample per step": [Collator(0)([item]) for item in items],
        f"packed, {max_tokens} tokens": [
            Collator(0, packed=True)([items[sample] for sample in rows.samples_of(np.array([row]))])
            for row in range(len(rows))
        ],
    }
    counter, peak = count_flops_of(model, PARTS), peak_flops(device, args.peak_tflops)
    print(f"\n{args.size} on {device}: {len(items)} samples, {lengths.sum()} tokens")
    first = None
    for name, batches in ways.items():
        seconds = run_steps(model, batches, device)
        first = first or seconds
        flops = sum(
            counter.step(
                batch["info"].sample_tokens,
                batch["info"].segment_patches,
                int((batch["labels"] != IGNORE_INDEX).sum()),
            )
            for batch in batches
        )
        share = "" if peak is None else f"  MFU {flops / seconds / peak:.3f}"
        print(
            f"{name:<24} {len(batches):>4} steps {lengths.sum() / seconds:>10.0f} tokens/s"
            f"  {first / seconds:.2f}x{share}"
        )
    if device.type == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")


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


def run_index(path: Path) -> None:
    """Index a data path and read its last entry."""
    mixture = Mixture(path)
    mixture.read(len(mixture) - 1)


def bench_start(args: argparse.Namespace) -> None:
    """Index, plan and resume."""
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "x" * 200}]
    with tempfile.TemporaryDirectory() as folder:
        for lines in (args.lines // 100, args.lines):
            path = Path(folder) / f"{lines}.jsonl"
            entry = json.dumps({"image": "a.jpg", "conversations": turns}) + "\n"
            path.write_text(entry * lines)
            measured = measure(partial(run_index, path))
            print(
                f"\n{lines} lines, {path.stat().st_size / 1e6:.0f} MB: indexed in "
                f"{measured.wall_seconds:.2f} s, peak {measured.peak_rss_bytes / 1e6:.0f} MB"
            )
    lengths = np.random.default_rng(0).integers(50, 12000, args.lines)
    started = time.perf_counter()
    rows = packed_rows(np.arange(args.lines), lengths, 16384, 0)
    print(f"packed into {len(rows)} rows in {time.perf_counter() - started:.1f} s")
    singles = single_rows(np.arange(args.lines))
    for name, costs in (("by chance", None), ("balanced", lengths)):
        batches = RankBatches(singles, batch_rows=1, world_size=8, costs=costs)
        started = time.perf_counter()
        batches.batch(0, 0)
        planned = time.perf_counter() - started
        batches.batch(0, len(batches) - 1)
        found = time.perf_counter() - started - planned
        print(f"{name}: epoch planned in {planned:.2f} s, its last batch found in {found:.6f} s")


def main(argv: list[str] | None = None) -> int:
    """Print the figures; returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = {"steps": bench_steps, "loss": bench_loss, "start": bench_start}
    parser.add_argument("parts", nargs="*", default=list(parts), metavar="steps|loss|start")
    parser.add_argument("--size", choices=("tiny", "2b"), default="tiny")
    parser.add_argument("--attention", default="sdpa", help="backend of encoder and decoder")
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--peak_tflops", type=float)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--lines", type=int, default=1_000_000)
    args = parser.parse_args(argv)
    unknown = sorted(set(args.parts) - parts.keys())
    if unknown:
        parser.error(f"unknown parts: {', '.join(unknown)}; known: {', '.join(parts)}")
    for part in args.parts:
        parts[part](args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
