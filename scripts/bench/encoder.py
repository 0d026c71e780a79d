"""Speed and memory of the encoder: python scripts/bench/encoder.py [--size large] [--memory].

All ratios are of one run, in which the runs that are compared take turns; the median counts. On a
CPU times are processor seconds of one thread, so that other work on the machine disturbs them
little. Blocks cost the same each, so a few of them are enough. Weights are random.

Axis letters: B samples, L tokens of a sample, P tokens of a packed batch, N heads, K width of a
head, D width.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import linear, pad, scaled_dot_product_attention

from measure import measure
from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel, grid_positions
from onevision_encoder.export import SIZES

MIXED_GRIDS = [(8, 36, 36), (1, 80, 80)] + [(1, 16, 16)] * 4
"""Frames, rows and columns: a codec clip of 10368 tokens, a large image, four small ones."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def build(size: str, dtype: str, device: str, layers: int) -> OneVisionEncoderModel:
    """A random encoder of a published size with fewer blocks, without the head."""
    torch.manual_seed(0)
    settings = {**SIZES[size], "num_hidden_layers": layers, "use_head": False}
    model = OneVisionEncoderModel(OneVisionEncoderConfig(**settings, rope_precision="query"))
    return model.to(device=device, dtype=getattr(torch, dtype)).eval()


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
    """The block loop restated without this package's code: (B, L, 3 * p * p) to (B, L, D)."""
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
    """The plain restatement, one call per segment."""
    return torch.cat([run_plain(model, *part, eager_attention) for part in parts])


def run_padded(model: OneVisionEncoderModel, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """A padded batch with a mask over the keys."""
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


def seconds(calls: Sequence[Callable[[], object]], device: str, repeats: int) -> list[float]:
    """The median of each call over some rounds: processor time on a CPU, else wall time.

    A round before them is not counted.
    """
    rounds = [[_timed(call, device) for call in calls] for _ in range(repeats + 1)]
    return [median(taken) for taken in zip(*rounds[1:], strict=True)]


def _timed(call: Callable[[], object], device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def once(name: str, size: str, dtype: str, device: str, layers: int, grids: list) -> None:
    """Build and run once: what the peak memory is measured of."""
    torch.set_num_threads(1)
    model = build(size, dtype, device, layers)
    with torch.inference_mode():
        RUNS[name](model, segments(model, grids))


def peak_mib(name: str, options: argparse.Namespace, grids: list) -> float:
    """Peak memory of one run in MiB: resident memory on a CPU, else allocated on the device."""
    arguments = (name, options.size, options.dtype, options.device, options.layers, grids)
    if options.device == "cpu":
        return measure(partial(once, *arguments)).peak_rss_bytes / 2**20
    torch.cuda.reset_peak_memory_stats()
    once(*arguments)
    return torch.cuda.max_memory_allocated() / 2**20


def matrix_rate(options: argparse.Namespace) -> float:
    """Multiply-add operations per second, counted as two, of a large matrix product."""
    side = 1024 if options.device == "cpu" else 8192
    dtype = getattr(torch, options.dtype)
    left, right = torch.randn(2, side, side, dtype=dtype, device=options.device)
    (taken,) = seconds([lambda: left @ right], options.device, 3 * options.repeats)
    return 2 * side**3 / taken


def model_flops(model: OneVisionEncoderModel, tokens: int) -> float:
    """Operations of the blocks for one segment."""
    width, inner = model.config.hidden_size, model.config.intermediate_size
    per_token = 2 * (4 * width**2 + 2 * width * inner) + 4 * tokens * width
    return model.config.num_hidden_layers * tokens * per_token


def compare(
    model: OneVisionEncoderModel, options: argparse.Namespace, grids: list, names: list[str]
) -> None:
    """Print seconds, memory, the ratio to the first name and how far outputs are from its."""
    parts = segments(model, grids)
    tokens = sum(len(patches) for patches, _ in parts)
    runs = [partial(RUNS[name], model, parts) for name in names]
    expected = runs[0]()
    differences = [(run() - expected).abs().max().item() for run in runs]
    taken = seconds(runs, options.device, options.repeats)
    for name, each, difference in zip(names, taken, differences, strict=True):
        memory = f"{peak_mib(name, options, grids):8.0f} MiB" if options.memory else ""
        print(
            f"  {tokens:6d} tokens  {name:7s} {each:9.3f} s  {each / taken[0]:5.2f}x "
            f"{memory}  largest difference {difference:.1e}",
            flush=True,
        )


def main(argv: list[str] | None = None) -> int:
    """Print the tables; returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--attention", default="sdpa", help="backend of the encoder")
    parser.add_argument("--layers", type=int, default=1, help="blocks")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--eager_sides", type=int, nargs="*", default=[32, 64, 91])
    parser.add_argument("--growth_sides", type=int, nargs="*", default=[32, 64, 102, 203])
    parser.add_argument("--memory", action="store_true", help="also peak memory, in new processes")
    parser.add_argument("--compile", action="store_true", help="compile the blocks")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    model = build(options.size, options.dtype, options.device, options.layers)
    model.set_attn_implementation(options.attention)
    if options.compile:
        for layer in model.encoder.layers:
            layer.compile(dynamic=True)
    print(f"{options.size}, {options.dtype}, {options.device}, {options.attention}")
    with torch.inference_mode():
        print("(a) one image: ours against the eager block loop, restated")
        for side in options.eager_sides:
            compare(model, options, [(1, side, side)], ["packed", "eager"])
        print("(b) mixed batch: one call against a loop and a padded batch")
        compare(model, options, MIXED_GRIDS, ["packed", "loop", "padded"])
        rate = matrix_rate(options)
        print(f"(c, d) growth; a matrix product runs at {rate / 1e9:.1f} GFLOP/s")
        for side in options.growth_sides:
            parts = segments(model, [(1, side, side)])
            run = partial(run_packed, model, parts)
            (taken,) = seconds([run], options.device, options.repeats)
            speed = model_flops(model, side * side) / taken
            print(
                f"  {side * side:6d} tokens {taken:9.3f} s {taken / side**2 * 1e6:7.1f} us/token "
                f"{side**2 / taken:9.0f} tokens/s "
                f"{speed / 1e9:7.1f} GFLOP/s {speed / rate:5.0%} of the matrix rate",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
