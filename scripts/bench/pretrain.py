"""Speed of pretraining: python scripts/bench/pretrain.py [steps|packed|centres|scale ...].

- ``steps``: whole training steps on made shards: samples and tokens per second, share of the
  device's peak, time without data.
- ``packed``: codec patches as a packed batch against the published way, which tiles them into
  frames again and passes indices; forward and backward pass.
- ``centres``: one step of a head: sampled against all centres, and all drawn labels at once against
  one after the other, as published; and the update of all centres by AdamW.
- ``scale``: the cost of 2,000,000 centres, from a head of 1/64 of them; the formula is printed.

On a CPU with one thread times are processor seconds, else wall seconds; the fastest of the rounds
counts, as other work on the machine only ever adds. The default sizes fit a CPU. On a GPU:
``--device cuda --size large --patch_size 14 --width 1024 --batch 16 --bf16``.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from encoder_training.pretrain.data.made import write_made_set
from encoder_training.pretrain.model import PooledEncoder, build_encoder
from encoder_training.pretrain.objective import CentreHead, Objective
from encoder_training.pretrain.settings import Settings
from encoder_training.pretrain.train import Pretraining
from onevision_encoder import index_positions, patchify
from run_kit.speed import peak_flops

CENTRES, PART = 2_000_000, 64


def seconds(work: Callable[[], object], options: argparse.Namespace) -> float:
    """Return the time of one call: the fastest of the rounds."""
    wall = options.device != "cpu" or options.threads > 1
    clock = time.perf_counter if wall else time.process_time
    found = []
    for _ in range(options.rounds + 1):  # the first one warms up
        started = clock()
        work()
        if options.device != "cpu":
            torch.cuda.synchronize()
        found.append(clock() - started)
    return min(found[1:])


def measured_peak(options: argparse.Namespace) -> float:
    """Return the rate of a large product, where no peak is known."""
    one = torch.randn(1024, 1024, device=options.device)
    return 2 * 1024**3 / seconds(lambda: one @ one, options)


def bench_steps(options: argparse.Namespace) -> None:
    """Time whole steps, with reading, decoding and augmentation of made images."""
    with tempfile.TemporaryDirectory() as folder:
        sets = Path(folder) / "images"
        write_made_set(sets, "image", num_samples=4 * options.batch, size_px=options.image_px)
        settings = Settings(
            output_dir=folder,
            image_set=[str(sets)],
            size=options.size,
            patch_size=options.patch_size,
            image_px=options.image_px,
            image_batch=options.batch,
            max_steps=100,
            use_cpu=options.device == "cpu",
            bf16=options.bf16,
            compile=options.compile,
            attn_implementation=options.attention,
        )
        run = Pretraining(settings, torch.device(options.device))
        run.start_data()
        results = []
        took = seconds(lambda: results.append(run.step()), options)
    result = results[-1]
    known = peak_flops(torch.device(options.device), options.peak_tflops)
    peak = known or measured_peak(options)
    print(f"steps of {result.samples} images of {options.image_px} px, {options.size}:")
    print(
        f"  {took:.3f} s a step, {result.samples / took:.1f} samples/s, "
        f"{result.tokens / took:.0f} tokens/s, MFU "
        f"{result.flops / took / peak:.3f} of {peak / 1e9:.0f} GFLOP/s"
        f"{'' if known else ' (a product of 1024 x 1024 matrices)'}, "
        f"data wait {min(one.wait_seconds for one in results):.3f} s"
    )


def bench_packed(options: argparse.Namespace) -> None:
    """Time codec patches both ways; features must agree."""
    grid = options.image_px // options.patch_size
    frames, count = 64, 8 * grid * grid
    encoder = build_encoder(options.size, patch_size=options.patch_size, image_px=options.image_px)
    encoder = encoder.to(options.device)
    pooled = PooledEncoder(encoder)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(options.clips, 3, frames, options.image_px, options.image_px).to(
        options.device
    )
    chosen = torch.stack(
        [torch.randperm(frames * grid * grid, generator=generator)[:count].sort().values]
        * options.clips
    ).to(options.device)

    def published() -> Tensor:
        patches = patchify(pixels, options.patch_size).gather(
            1, chosen[..., None].expand(-1, -1, 3 * options.patch_size**2)
        )
        side = options.patch_size
        tiles = patches.view(options.clips, 8, grid, grid, 3, side, side)
        clip = tiles.permute(0, 4, 1, 2, 5, 3, 6).reshape(
            options.clips, 3, 8, options.image_px, options.image_px
        )
        return encoder(clip, chosen, gather_visible=False).pooler_output

    def packed() -> Tensor:
        patches = patchify(pixels, options.patch_size)
        patches = patches.gather(1, chosen[..., None].expand(-1, -1, patches.shape[-1]))
        bounds = torch.arange(options.clips + 1, dtype=torch.int32) * count
        positions = index_positions(chosen, grid, grid).flatten(0, 1)
        return pooled(patches.flatten(0, 1), positions, bounds)

    with torch.no_grad():
        difference = float((published() - packed()).abs().max())
    times = [seconds(lambda w=work: w().sum().backward(), options) for work in (published, packed)]
    print(f"{options.clips} clips of {count} codec patches, {options.size}, forward and backward:")
    print(f"  tiled into frames {times[0]:.3f} s, packed {times[1]:.3f} s", end="")
    print(f" ({times[0] / times[1]:.2f} times), largest difference {difference:.1e}")


def _head_step(
    options: argparse.Namespace, centres: int, rate: float, columns: int, labels: int
) -> Callable[[], object]:
    """Return one step of a head: forward and backward pass of ``labels`` drawn labels."""
    objective = Objective(sample_rate=rate, labels_per_step=columns)
    head = CentreHead("image", centres, options.width, objective).to(options.device)
    features = torch.randn(options.rows, options.width, device=options.device, requires_grad=True)
    drawn = torch.randint(0, centres, (options.rows, columns), device=options.device)
    dtype = torch.bfloat16 if options.bf16 else None

    def step() -> None:
        for number in range(labels // columns):
            loss = head(features, drawn, [options.rows], step=number, compute_dtype=dtype)
            loss.own_part.backward()

    return step


def bench_centres(options: argparse.Namespace) -> None:
    """Time a head's step by sampling, and by how the drawn labels are computed."""
    centres = options.centres
    print(f"{options.rows} rows x {centres} centres x {options.width}, 8 drawn labels:")
    for name, rate, columns in (
        ("rate 0.1, all labels at once", 0.1, 8),
        ("rate 0.1, one label after the other", 0.1, 1),
        ("all centres, all labels at once", 1.0, 8),
    ):
        took = seconds(_head_step(options, centres, rate, columns, 8), options)
        print(f"  {name}: {took:.3f} s")
    print(f"  AdamW over all centres: {_update_seconds(options, centres):.3f} s")


def _update_seconds(options: argparse.Namespace, centres: int) -> float:
    weights = torch.nn.Parameter(torch.randn(centres, options.width, device=options.device))
    weights.grad = torch.zeros_like(weights)
    return seconds(torch.optim.AdamW([weights]).step, options)


def bench_scale(options: argparse.Namespace) -> None:
    """Extrapolate to 2 M centres from 1/64 of them, and from half of that."""
    part = CENTRES // PART
    sizes = (part // 2, part)
    steps = [seconds(_head_step(options, size, 0.1, 8, 8), options) for size in sizes]
    updates = [_update_seconds(options, size) for size in sizes]
    print(f"2,000,000 centres x {options.width} at rate 0.1, {options.rows} rows, from 1/{PART}:")
    print("  t(C) = a + b C, with a and b from the heads of 1/128 and 1/64 of the centres")
    for name, (half, whole) in (("forward and backward", steps), ("AdamW", updates)):
        slope = (whole - half) / (sizes[1] - sizes[0])
        start = max(whole - slope * sizes[1], 0.0)
        print(
            f"  {name}: {half:.3f} s at {sizes[0]}, {whole:.3f} s at {sizes[1]}; "
            f"one device {start + slope * CENTRES:.2f} s, "
            f"one of 8 {start + slope * CENTRES / 8:.2f} s a step"
        )
    memory = CENTRES * options.width * 4
    print(f"  centres {memory / 1e9:.1f} GB, with AdamW's moments {3 * memory / 1e9:.1f} GB in all")


BENCHES = {
    "steps": bench_steps,
    "packed": bench_packed,
    "centres": bench_centres,
    "scale": bench_scale,
}


def main(argv: list[str] | None = None) -> int:
    """Run the chosen benchmarks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benches", nargs="*", help=f"of {', '.join(BENCHES)}; default all")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU (default 1)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (default 3)")
    parser.add_argument("--size", default="tiny", help="tiny, base, large, huge (default tiny)")
    parser.add_argument("--patch_size", type=int, default=14, help="in pixels (default 14)")
    parser.add_argument("--image_px", type=int, default=112, help="side of frames (default 112)")
    parser.add_argument("--batch", type=int, default=16, help="images of a step (default 16)")
    parser.add_argument("--clips", type=int, default=2, help="clips of a batch (default 2)")
    parser.add_argument("--rows", type=int, default=64, help="rows of a head (default 64)")
    parser.add_argument("--width", type=int, default=256, help="of a feature (default 256)")
    parser.add_argument("--centres", type=int, default=20_000, help="of a head (default 20000)")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile the blocks")
    parser.add_argument("--attention", default="sdpa", help="attention backend (default sdpa)")
    parser.add_argument("--peak_tflops", type=float, help="peak of the device")
    options = parser.parse_args(argv)
    unknown = set(options.benches) - set(BENCHES)
    if unknown:
        parser.error(f"benches must be of {', '.join(BENCHES)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    for name, bench in BENCHES.items():
        if not options.benches or name in options.benches:
            bench(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
