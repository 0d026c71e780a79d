"""A training step of encoder and decoder on a packed row, and what its time is spent on."""

import re
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from gpu_parts.bench import FIRST, THEN, Bench, Figures, LeftOutError, need
from gpu_parts.material import SHAPES, build, packed_batch, step
from gpu_parts.memory import LiveBytes
from llava.data.training_memory import ModelSize, training_gigabytes
from llava.model.loss import LanguageHead
from llava.train.parts import PARTS
from llava.train.run.flops import count_flops_of
from onevision_encoder.varlen import VARLEN

ENCODER_BY_SDPA = "encoder by sdpa"
"""Decoder by varlen. On Hopper sdpa is cuDNN, which may be faster for one long segment."""
WAYS = ("checkpointed", "plain", "selective")
FAMILIES = {
    "attention": r"flash|fmha|attention|sdpa|varlen|softmax_warp",
    "matrix products": r"gemm|nvjet|cutlass|matmul|cublas|xmma|aten::mm|aten::addmm",
    "norms": r"norm",
    "loss": r"cross_entropy|nll_loss|log_softmax|softmax",
    "copies": r"memcpy|memset|copy|cat_|index|gather|scatter|embedding",
    "optimiser": r"adam|multi_tensor",
}
"""Kernel families by their names, the first that fits; the rest are element-wise operations."""


def run(bench: Bench) -> None:
    """Measure steps, then profile one, then compare losses."""
    for size in ("1.7b",) if bench.tiny else reversed(SHAPES):
        stage = FIRST if size == "1.7b" else THEN
        for way in WAYS:
            bench.case(f"{size}, {way}", _case(bench, size, way, None), seconds=15, stage=stage)
    bench.case("1.7b, profile", lambda: profile(bench), seconds=20, stage=FIRST)
    for backend in ("sdpa", ENCODER_BY_SDPA):
        case = _case(bench, "1.7b", "checkpointed", backend)
        bench.case(f"1.7b, checkpointed, {backend}", case, seconds=15)
    bench.case("loss, chunked", lambda: chunked_loss(bench), seconds=6)
    bench.case("loss, Liger", lambda: liger_loss(bench), seconds=30)


def _case(bench: Bench, size: str, way: str, backend: str | None) -> Callable[[], Figures]:
    return lambda: measure(bench, size, way, backend)


def measure(bench: Bench, size: str, way: str, backend: str | None) -> Figures:
    """Return the figures of forward and backward pass of one packed row."""
    model, batch = build(bench, size), packed_batch(bench)
    if backend is None and bench.device.type == "meta":
        backend = VARLEN  # what a model takes on a GPU
    if backend == ENCODER_BY_SDPA:
        if bench.device.type == "meta":
            raise LeftOutError("a choice of kernels for a GPU")
        model.set_attn_implementation(VARLEN)
        model.model.vision_tower.vision_tower.set_attn_implementation("sdpa")
    elif backend is not None:
        model.set_attn_implementation(backend)
    if way != "plain":
        model.selects_saved_operations = way == "selective"
        model.gradient_checkpointing_enable()
    work, info = step(model, batch), batch["info"]
    supervised = batch["layout"].num_supervised
    counter = count_flops_of(model, PARTS)
    operations = counter.step(info.sample_tokens, info.segment_patches, supervised)
    tokens = sum(info.sample_tokens)
    return {
        **bench.rates(bench.seconds(work), tokens, operations),
        "tokens": tokens,
        "visual_patches": sum(info.segment_patches),
        "backend": model.config._attn_implementation,
        **memory(bench, model, work, tokens),
        "host_waits": waits(bench, work),
        "loss": None if bench.device.type == "meta" else round(float(work()), 4),
    }


def memory(bench: Bench, model: Any, work: Callable[[], object], tokens: int) -> Figures:
    """Return the peak of a step and what ``validate --memory`` says, without optimiser states.

    On meta the peak is that of the tensors, counted; the library's sdpa has all scores there.
    """
    peak = bench.peak_gigabytes(work)
    if bench.device.type == "meta" and model.config._attn_implementation == VARLEN:
        model.zero_grad()
        with LiveBytes(model.parameters()) as live:
            work()
        peak = round(live.peak / 1e9, 2)
    size = ModelSize(
        parameters=sum(weight.numel() for weight in model.parameters()),
        width=model.config.hidden_size,
        layers=model.config.num_hidden_layers,
        vocabulary=model.config.vocab_size,
    )
    expected = training_gigabytes(size, row_tokens=tokens, world_size=1, zero_stage=2)
    checkpointed = round(expected["sum"] - expected["optimiser"], 2)
    figures = {"peak_gigabytes": peak, "predicted_if_checkpointed_gigabytes": checkpointed}
    if bench.device.type == "cuda":  # with what the allocator holds and nothing uses
        figures["reserved_gigabytes"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
    return figures


def waits(bench: Bench, work: Callable[[], object]) -> int | None:
    """Return how often the host waits for the device in a step."""
    if bench.device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in found)


def profile(bench: Bench) -> Figures:
    """Return the share of a step's device time by family of kernels, and the longest kernels."""
    if bench.device.type == "meta":
        raise LeftOutError("nothing is computed on meta")
    model, batch = build(bench, "1.7b"), packed_batch(bench)
    model.gradient_checkpointing_enable()
    work = step(model, batch)
    for _ in range(1 if bench.tiny else 3):
        work()
    on_device = bench.device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if on_device:
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with torch.profiler.profile(activities=kinds) as profiler:
        work()
        if on_device:
            torch.cuda.synchronize()
    times: Counter[str] = Counter()
    for event in profiler.key_averages():
        own: Any = event
        is_kernel = "cuda" in str(own.device_type).lower() and not own.is_user_annotation
        if on_device and is_kernel:
            times[own.key] += own.self_device_time_total
        elif not on_device:
            times[own.key] += own.self_cpu_time_total
    total = sum(times.values()) or 1
    families: Counter[str] = Counter()
    for name, microseconds in times.items():
        families[family(name)] += microseconds
    return {
        "device_milliseconds": round(total / 1e3, 2),
        "shares": {name: round(value / total, 4) for name, value in families.most_common()},
        "longest": [[name[:120], round(value / total, 4)] for name, value in times.most_common(15)],
    }


def family(name: str) -> str:
    """Return the family of a kernel."""
    for found, pattern in FAMILIES.items():
        if re.search(pattern, name, re.IGNORECASE):
            return found
    return "element-wise"


def _loss_inputs(bench: Bench) -> tuple[LanguageHead, Any, Any]:
    tokens, width, vocabulary = (64, 32, 256) if bench.tiny else (16384, 2048, 151936)
    torch.manual_seed(0)
    with bench.device:
        head = LanguageHead(width, vocabulary, bias=False).to(bench.dtype)
        hidden = torch.randn(tokens, width, dtype=bench.dtype).requires_grad_()
        targets = torch.randint(vocabulary, (tokens,))
    return head, hidden, targets


def chunked_loss(bench: Bench) -> Figures:
    """Return time, memory and value of this project's loss of 16384 supervised tokens."""
    head, hidden, targets = _loss_inputs(bench)
    divisor = torch.full((), len(targets), dtype=torch.float32, device=bench.device)
    found: list[Any] = []

    def work() -> None:
        head.zero_grad()
        hidden.grad = None
        loss, _ = head(hidden, targets, divisor)
        loss.backward()
        found[:] = [loss.detach()]

    seconds = bench.seconds(work)
    peak = bench.peak_gigabytes(work)
    value = None if bench.device.type == "meta" else round(float(found[0]), 5)
    return {"seconds": seconds, "peak_gigabytes": peak, "loss": value}


def liger_loss(bench: Bench) -> Figures:
    """Return the same of Liger's fused loss."""
    need("liger_kernel", "this comparison")
    if bench.device.type != "cuda":
        raise LeftOutError("Liger's kernels run on a GPU alone")
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    head, hidden, targets = _loss_inputs(bench)
    found: list[Any] = []

    def work() -> None:
        head.zero_grad()
        hidden.grad = None
        loss = liger_fused_linear_cross_entropy(hidden, head.weight, targets, reduction="mean")
        loss = loss[0] if isinstance(loss, tuple) else loss
        loss.backward()
        found[:] = [loss.detach()]

    seconds = bench.seconds(work)
    return {
        "seconds": seconds,
        "peak_gigabytes": bench.peak_gigabytes(work),
        "loss": round(float(found[0]), 5),
    }
