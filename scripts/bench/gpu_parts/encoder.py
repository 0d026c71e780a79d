"""The encoder alone: forward, forward and backward, by size, shape of the batch and backend."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.utils.import_utils import is_flash_attn_2_available

from gpu_parts.bench import (
    COMPILED,
    FIRST,
    LAST,
    THEN,
    Bench,
    Figures,
    LeftOutError,
    encoder_operations,
)
from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel, grid_positions
from onevision_encoder.export import SIZES
from onevision_encoder.varlen import is_varlen_available

Grids = list[tuple[int, int, int]]

SHAPES: dict[str, Grids] = {
    "1 x 10368": [(8, 36, 36)],
    "8 x 1296": [(1, 36, 36)] * 8,
    "mixed": [(8, 36, 36), (1, 80, 80), *[(1, 16, 16)] * 4],
}
"""Frames, rows and columns of each segment: a codec clip; eight images; a clip with images."""
TINY_SHAPES: dict[str, Grids] = {
    "1 x 10368": [(2, 4, 4)],
    "8 x 1296": [(1, 4, 4)] * 2,
    "mixed": [(2, 4, 4), (1, 6, 6), (1, 2, 2), (1, 2, 2)],
}
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
}
BACKENDS = ("varlen", "sdpa", "sdpa by flash", "flash_attention_2", "flex_attention", "eager")
"""``sdpa`` is what torch chooses; on Hopper that is cuDNN where it is new enough."""
TELLING = (
    "1 x 10368, varlen",
    "1 x 10368, sdpa by flash",
    "8 x 1296, varlen",
    "8 x 1296, sdpa",
    "mixed, varlen",
)
"""One segment alone is given to ``sdpa``, under ``varlen`` too."""
OUTPUT_LAYER = -2
COMPILED_SECONDS = 45.0


def run(bench: Bench) -> None:
    """Measure every size, shape and backend, and compiled blocks."""
    sizes = ("large",) if bench.tiny else ("large", "base")
    for size in sizes:
        for shape in SHAPES:
            for backend in BACKENDS:
                name = f"{shape}, {backend}"
                stage = FIRST if size == "large" and name in TELLING else THEN
                seconds = 8.0
                if backend == "flex_attention":  # it is always compiled
                    stage, seconds = LAST, COMPILED_SECONDS
                case = _case(bench, size, shape, backend, compiled=False)
                bench.case(f"{size}, {name}", case, seconds=seconds, stage=stage)
    for size in sizes:
        for shape in list(SHAPES)[: 1 if bench.tiny else None]:
            for backend in BACKENDS[: 1 if bench.tiny else 2]:
                name = f"{size}, {shape}, {backend}"
                stage = COMPILED if name == f"large, {TELLING[0]}" else LAST
                case = _case(bench, size, shape, backend, compiled=True)
                bench.case(f"{name}, compiled", case, seconds=COMPILED_SECONDS, stage=stage)


def _case(
    bench: Bench, size: str, shape: str, backend: str, *, compiled: bool
) -> Callable[[], Figures]:
    return lambda: measure(bench, size, shape, backend, compiled=compiled)


def measure(bench: Bench, size: str, shape: str, backend: str, *, compiled: bool) -> Figures:
    """Return the figures of one case.

    Raises:
        LeftOutError: if the backend does not run here.
    """
    check_backend(bench, shape, backend, compiled=compiled)
    sizes: dict[str, Any] = TINY if bench.tiny else SIZES[size]
    torch.manual_seed(0)
    with bench.device:
        model = OneVisionEncoderModel(OneVisionEncoderConfig(**sizes))
    model.to(bench.dtype).train().set_attn_implementation(backend.partition(" by ")[0])
    for parameter in unused(model):
        parameter.requires_grad_(False)
    if compiled:
        torch._dynamo.reset()
        for layer in model.encoder.layers:
            layer.compile(dynamic=False)
    arguments, lengths = packed((TINY_SHAPES if bench.tiny else SHAPES)[shape], model, bench)

    def forward() -> Tensor:
        return model.forward_packed(*arguments, lengths=lengths, output_layer=OUTPUT_LAYER)

    def only_forward() -> None:
        with torch.no_grad():
            forward()

    def both() -> None:
        model.zero_grad()
        forward().float().square().mean().backward()

    kernels = sdpa_kernel(SDPBackend.FLASH_ATTENTION) if " by " in backend else nullcontext()

    blocks = model.config.num_hidden_layers + 1 + OUTPUT_LAYER
    operations = encoder_operations(model.config, lengths, blocks)
    tokens = sum(lengths)
    with kernels:
        return {
            "forward": bench.rates(bench.seconds(only_forward), tokens, operations),
            "forward and backward": bench.rates(bench.seconds(both), tokens, 3 * operations),
            "peak_gigabytes": bench.peak_gigabytes(both),
        }


def check_backend(bench: Bench, shape: str, backend: str, *, compiled: bool) -> None:
    """Say why a backend is left out.

    Raises:
        LeftOutError: naming what is missing.
    """
    if backend == "varlen" and bench.device.type == "cuda" and not is_varlen_available():
        raise LeftOutError("this torch or device has no varlen_attn")
    if backend == "flash_attention_2" and not (
        bench.device.type == "cuda" and is_flash_attn_2_available()
    ):
        raise LeftOutError("flash-attn is not installed")
    if backend == "sdpa by flash" and bench.device.type != "cuda":
        raise LeftOutError("a choice of kernels for a GPU")
    if backend == "flex_attention" and bench.device.type != "cuda":
        raise LeftOutError("flex attention has a backward pass on a GPU alone")
    if backend == "eager" and shape != "8 x 1296":
        raise LeftOutError("eager holds all scores of a segment: 8 x 1296 shows it")
    if compiled and bench.device.type == "meta":
        raise LeftOutError("nothing is compiled for meta")


def packed(
    grids: Grids, model: OneVisionEncoderModel, bench: Bench
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, ...]]:
    """Return random patches, positions and bounds on the device, and lengths on the host."""
    lengths = tuple(frames * rows * columns for frames, rows, columns in grids)
    width = 3 * model.config.patch_size**2
    patches = torch.randn(sum(lengths), width, device=bench.device, dtype=bench.dtype)
    positions = torch.cat(
        [grid_positions(torch.arange(frames), rows, columns) for frames, rows, columns in grids]
    )
    bounds = torch.tensor((0, *lengths)).cumsum(0).int()
    return (patches, positions.to(bench.device), bounds.to(bench.device)), lengths


def unused(model: OneVisionEncoderModel) -> list[Any]:
    """Return the weights above the layer that is read."""
    modules = [model.layernorm_post, model.head, model.encoder.layers[-1]]
    return [weight for module in modules if module is not None for weight in module.parameters()]
