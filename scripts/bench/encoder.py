"""Speed and memory of the encoder: python scripts/bench/encoder.py [--size large] [--memory].

(a) attention against the eager block loop, (b) a packed mixed batch against a loop over its
segments and against a padded batch, (c) the cost of a token against the model's operations and the
rate of a matrix product, (d) growth with the number of tokens.

Ratios are of one run, in which the runs that are compared take turns; the fastest of the rounds
counts, as other work on the machine only ever adds. On a CPU with one thread times are processor
seconds, else wall seconds. Blocks cost the same each, so one is enough. Weights are random.

Axis letters: B samples, L tokens of a sample, P tokens of a packed batch, N heads, K width of a
head, D width.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear, pad, scaled_dot_product_attention

from measure import measure
from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel, grid_positions
from onevision_encoder.export import SIZES

MIXED_GRIDS = [(8, 36, 36), (1, 80, 80)] + [(1, 16, 16)] * 4
"""Frames, rows and columns: a codec clip of 10368 tokens, a large image, four small ones."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def build(options: argparse.Namespace) -> OneVisionEncoderModel:
    """Return a random encoder of a published size with fewer blocks, without the head."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    settings = {**SIZES[options.size], "num_hidden_layers": options.layers, "use_head": False}
    model = OneVisionEncoderModel(OneVisionEncoderConfig(**settings, rope_precision="query"))
    model.set_attn_implementation(options.attention)
    if options.compile:
        for layer in model.encoder.layers:
            layer.compile(dynamic=True)
    return model.to(device=options.device, dtype=getattr(torch, options.dtype)).eval()


def segments(model: OneVisionEncoderModel, grids: list) -> list[tuple[Tensor, Tensor]]:
    """Random patches (L, 3 * p * p) and positions (L, 3) of each grid."""
    width = 3 * model.config.patch_size**2
    made = []
    for frames, rows, columns in grids:
        slots = torch.arange(frames, device=model.device)
        patches = torch.randn(frames * rows * columns, width, device=model.device)
        made.append((patches.to(model.dtype), grid_positions(slots, rows, columns)))
    return made


def run_packed(model: OneVisionEncoderModel, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """All segments in one call."""
    lengths = torch.tensor([0] + [len(patches) for patches, _ in parts])
    patches, positions = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return model.forward_packed(patches, positions, lengths.cumsum(0).int())


def run_loop(model: OneVisionEncoderModel, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """One call per segment."""
    return torch.cat([run_packed(model, [part]) for part in parts])


def eager_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention (B, N, L, K) with all scores in memory, as the reference implementation has it."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return scores.softmax(-1) @ value


def _plain_rotate(tensor: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    partner = torch.stack((-tensor[..., 1::2], tensor[..., 0::2]), dim=-1).flatten(-2)
    return tensor * cosine + partner * sine


def run_plain(
    model: OneVisionEncoderModel, patches: Tensor, positions: Tensor, attend: Attend
) -> Tensor:
    """Run the blocks without this package's code: (B, L, 3 * p * p) to (B, L, D)."""
    angles = model.video_rope.forward_from_positions(positions)
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(-3)
    cosine, sine = angles.cos().to(model.dtype), angles.sin().to(model.dtype)
    tokens = linear(patches, model.embeddings.patch_embedding.weight.flatten(1))
    tokens = model.layernorm_pre(tokens)
    for layer in model.encoder.layers:
        attention, inputs = layer.self_attn, layer.layer_norm1(tokens)
        query, key, value = (
            project(inputs).unflatten(-1, (-1, attention.head_dim)).transpose(-2, -3)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = _plain_rotate(query, cosine, sine), _plain_rotate(key, cosine, sine)
        mixed = attend(query, key, value).transpose(-2, -3).flatten(-2)
        tokens = tokens + attention.out_proj(mixed)
        tokens = tokens + layer.mlp(layer.layer_norm2(tokens))
    return tokens


def run_eager(model: OneVisionEncoderModel, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Run the plain restatement, one call per segment."""
    return torch.cat([run_plain(model, *part, eager_attention) for part in parts])


def run_padded(model: OneVisionEncoderModel, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Run a padded batch with a mask over the keys."""
    longest = max(len(patches) for patches, _ in parts)
    patches, positions = (
        torch.stack([pad(tensor, (0, 0, 0, longest - len(tensor))) for tensor in tensors])
        for tensors in zip(*parts, strict=True)
    )
    lengths = torch.tensor([len(part) for part, _ in parts], device=patches.device)
    seen = torch.arange(longest, device=patches.device) < lengths[:, None]
    attend = partial(scaled_dot_product_attention, attn_mask=seen[:, None, None])
    return run_plain(model, patches, positions, attend)[seen]


RUNS = {"packed": run_packed, "loop": run_loop, "eager": run_eager, "padded": run_padded}


def seconds(
    calls: Sequence[Callable[[], object]], options: argparse.Namespace, repeats: int
) -> list[float]:
    """Return the shortest time of each call over some rounds."""
    rounds = [[_timed(call, options) for call in calls] for _ in range(repeats)]
    return [min(taken) for taken in zip(*rounds, strict=True)]


def _timed(call: Callable[[], object], options: argparse.Namespace) -> float:
    on_gpu = options.device != "cpu"
    clock = time.process_time if not on_gpu and options.threads == 1 else time.perf_counter
    if on_gpu:
        torch.cuda.synchronize()
    start = clock()
    call()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


def once(name: str, options: argparse.Namespace, grids: list) -> None:
    """Build and run once: what the peak memory is measured of."""
    model = build(options)
    with torch.inference_mode():
        RUNS[name](model, segments(model, grids))


def peak_mib(name: str, options: argparse.Namespace, grids: list) -> float:
    """Peak memory of one run in MiB: resident memory on a CPU, else allocated on the device."""
    if options.device == "cpu":
        return measure(partial(once, name, options, grids)).peak_rss_bytes / 2**20
    torch.cuda.reset_peak_memory_stats()
    once(name, options, grids)
    return torch.cuda.max_memory_allocated() / 2**20


def matrix_rate(options: argparse.Namespace) -> float:
    """Operations per second, additions included, of a large matrix product."""
    side = 1024 if options.device == "cpu" else 8192
    dtype = getattr(torch, options.dtype)
    left, right = torch.randn(2, side, side, dtype=dtype, device=options.device)
    (taken,) = seconds([lambda: left @ right], options, 20)
    return 2 * side**3 / taken


def model_flops(model: OneVisionEncoderModel, tokens: int) -> float:
    """Operations of the blocks for one segment."""
    width, inner = model.config.hidden_size, model.config.intermediate_size
    per_token = 2 * (4 * width**2 + 2 * width * inner) + 4 * tokens * width
    return model.config.num_hidden_layers * tokens * per_token


def compare(
    model: OneVisionEncoderModel, options: argparse.Namespace, grids: list, names: list[str]
) -> None:
    """Print seconds, the ratio to the first name and how far outputs are from its; or memory."""
    parts = segments(model, grids)
    tokens = sum(len(patches) for patches, _ in parts)
    if options.memory:
        peaks = [f"{name} {peak_mib(name, options, grids):.0f} MiB" for name in names]
        print(f"  {tokens:6d} tokens  {', '.join(peaks)}", flush=True)
        return
    runs = [partial(RUNS[name], model, parts) for name in names]
    expected = runs[0]()
    differences = [(run() - expected).abs().max().item() for run in runs]
    taken = seconds(runs, options, 1 if "padded" in names else options.repeats)
    for name, each, difference in zip(names, taken, differences, strict=True):
        print(
            f"  {tokens:6d} tokens  {name:7s} {each:9.3f} s  {each / taken[0]:5.2f}x "
            f"  largest difference {difference:.1e}",
            flush=True,
        )


def growth(model: OneVisionEncoderModel, options: argparse.Namespace) -> None:
    """Print the cost of a token for images of growing size."""
    rate = matrix_rate(options)
    print(f"(c, d) growth; a matrix product runs at {rate / 1e9:.1f} GFLOP/s")
    for side in options.growth_sides:
        tokens = side * side
        run = partial(run_packed, model, segments(model, [(1, side, side)]))
        (taken,) = seconds([run], options, max(2, 41_000 // tokens))
        speed = model_flops(model, tokens) / taken
        print(
            f"  {tokens:6d} tokens {taken:9.3f} s {taken / tokens * 1e6:7.1f} us/token "
            f"{tokens / taken:9.0f} tokens/s "
            f"{speed / 1e9:7.1f} GFLOP/s {speed / rate:5.0%} of the matrix rate",
            flush=True,
        )


def main(argv: list[str] | None = None) -> int:
    """Print the tables; returns an exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="base", help="size of the encoder")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="type of weights and activations",
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="device to run on"
    )
    parser.add_argument("--attention", default="sdpa", help="attention backend of the encoder")
    parser.add_argument("--compile", action="store_true", help="compile the blocks of the encoder")
    parser.add_argument("--layers", type=int, default=1, help="number of blocks")
    parser.add_argument(
        "--parts",
        choices=["a", "b", "cd"],
        nargs="+",
        default=["a", "b", "cd"],
        help="measurements to make",
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="number of rounds; padding is measured once"
    )
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    parser.add_argument(
        "--eager_sides",
        type=int,
        nargs="*",
        default=[32, 64, 91],
        help="sides of pictures with eager attention, in patches",
    )
    parser.add_argument(
        "--growth_sides",
        type=int,
        nargs="*",
        default=[32, 64, 102, 144, 203],
        help="sides of pictures for the growth of time, in patches",
    )
    parser.add_argument(
        "--memory", action="store_true", help="measure only the peak memory of (a) and (b)"
    )
    options = parser.parse_args(argv)
    model = build(options)
    print(f"{options.size}, {options.dtype}, {options.device}, {options.attention}")
    with torch.inference_mode():
        if "a" in options.parts:
            print("(a) one image: ours against the eager block loop, restated")
            for side in options.eager_sides:
                compare(model, options, [(1, side, side)], ["packed", "eager"])
        if "b" in options.parts:
            print("(b) mixed batch: one call against a loop and a padded batch")
            for other in ("loop", "padded"):
                compare(model, options, MIXED_GRIDS, ["packed", other])
        if "cd" in options.parts and not options.memory:
            growth(model, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
