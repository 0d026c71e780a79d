"""Attention and features of the device against those of the host, and the tests marked gpu."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from gpu_parts.bench import COMPILED, FIRST, THEN, Bench, Figures, LeftOutError, need
from gpu_parts.encoder import TINY, Grids, packed
from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel
from onevision_encoder.export import SIZES
from onevision_encoder.varlen import varlen_attention

ROOT = Path(__file__).parents[3]
TESTS = ("tests/onevision_encoder/test_gpu.py", "tests/llava/train/test_waiting.py")
COMPILES = "flex or compiled"
GRIDS: Grids = [(2, 12, 12), (1, 16, 16), (1, 3, 5)]
HEADS = {"encoder": (16, 16, 64, False), "decoder": (16, 8, 128, True)}
"""Heads, heads of keys and values, width, and whether a token sees only those before it."""
LENGTHS = (5, 700, 1, 64, 130)
MOST_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.02}


def run(bench: Bench) -> None:
    """Compare attention and features, then run the tests."""
    for name in HEADS:
        bench.case(f"attention, {name}", lambda name=name: attention(bench, name), stage=FIRST)
    for dtype in (torch.float32, torch.bfloat16):
        name = f"features, {str(dtype).partition('.')[2]}"
        bench.case(name, lambda dtype=dtype: features(bench, dtype), seconds=10, stage=FIRST)
    case = f"not ({COMPILES})"
    bench.case("tests marked gpu", lambda: tests(bench, case), seconds=60, stage=THEN)
    if not bench.tiny:
        case = "tests marked gpu that compile"
        bench.case(case, lambda: tests(bench, COMPILES), seconds=90, stage=COMPILED)


def attention(bench: Bench, name: str) -> Figures:
    """Return how far ``varlen`` on the device is from float32 arithmetic on the host.

    Differences are norms divided by the norm of what is right.

    Raises:
        LeftOutError: if nothing is computed.
        RuntimeError: if values or gradients differ by more than rounding.
    """
    if bench.device.type == "meta":
        raise LeftOutError("nothing is computed on meta")
    torch.manual_seed(0)
    heads, key_heads, width, is_causal = HEADS[name]
    total = sum(LENGTHS)
    given = [torch.randn(1, n, total, width).to(bench.dtype) for n in (heads, key_heads, key_heads)]
    slope = torch.randn(1, total, heads, width).to(bench.dtype)
    bounds = torch.tensor((0, *LENGTHS)).cumsum(0).int()
    module: Any = nn.Module()
    module.num_key_value_groups = heads // key_heads

    def reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = [
            scaled_dot_product_attention(
                *(x[:, :, start:end] for x in (query, key, value)),
                is_causal=is_causal,
                enable_gqa=True,
            )
            for start, end in pairwise(bounds.tolist())
        ]
        return torch.cat(parts, dim=2).transpose(1, 2)

    def measured(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        edges = bounds.to(bench.device)
        options = {"is_causal": is_causal, "sample_lengths": LENGTHS}
        return varlen_attention(
            module,
            query,
            key,
            value,
            None,
            cu_seq_lens_q=edges,
            max_length_q=max(LENGTHS),
            **options,
        )[0]

    def results(attend: Any, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        inputs = [x.to(device, dtype, copy=True).requires_grad_() for x in given]
        mixed = attend(*inputs)
        gradients = torch.autograd.grad(mixed, inputs, slope.to(device, dtype))
        return [x.detach().float().cpu() for x in (mixed, *gradients)]

    expected = results(reference, torch.device("cpu"), torch.float32)
    actual = results(measured, bench.device, bench.dtype)
    names = ("values", "of queries", "of keys", "of values")
    found = {
        one: float(f"{float((a - e).norm() / e.norm()):.2g}")
        for one, a, e in zip(names, actual, expected, strict=True)
    }
    if not all(value < MOST_DIFFERENCE[bench.dtype] for value in found.values()):
        raise RuntimeError(f"differences from the host: {found}")
    return {"differences": found}


def tests(bench: Bench, chosen: str) -> Figures:
    """Run pytest on the files that have tests for a GPU.

    Args:
        bench: this part of the run.
        chosen: the tests, as pytest's ``-k`` takes them.

    Raises:
        LeftOutError: if there is no GPU or no pytest.
        RuntimeError: if a test did not pass.
    """
    need("pytest", "the tests")
    if bench.device.type == "meta":
        raise LeftOutError("the tests for a GPU need one")
    report = bench.out / f"tests{'_compiled' if chosen == COMPILES else ''}.xml"
    report.unlink(missing_ok=True)
    selection = "gpu" if bench.device.type == "cuda" else "not slow and not gpu"
    files = TESTS if bench.device.type == "cuda" else TESTS[1:]
    command = [sys.executable, "-m", "pytest", "-q", "-m", selection, f"--junitxml={report}"]
    # A trial runs one of the files that the machine with the GPU will run.
    command += ["-k", "every_kind_of_read" if bench.tiny else chosen, "-o", "timeout=90"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if not report.is_file():
        raise RuntimeError(f"pytest: exit code {done.returncode}: {done.stdout[-400:]}")
    suite: Any = ElementTree.parse(report).getroot().find("testsuite")
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    bad = [
        str(case.get("name"))
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    if bad or counts["tests"] == counts["skipped"]:
        raise RuntimeError(f"{counts}; not passed: {', '.join(bad)}; see {report.name}")
    return counts


def features(bench: Bench, dtype: torch.dtype) -> Figures:
    """Return the differences between the features of the device and float32 ones of the host."""
    if bench.device.type == "meta":
        raise LeftOutError("nothing is computed on meta")
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    model = OneVisionEncoderModel(OneVisionEncoderConfig(**(TINY if bench.tiny else SIZES["base"])))
    host = replace(bench, device=torch.device("cpu"))
    arguments, lengths = packed(GRIDS, model, host)
    with torch.no_grad():
        expected = model.eval().forward_packed(*arguments, lengths=lengths, output_layer=-2)
        model.to(bench.device, dtype)
        patches, positions, bounds = (tensor.to(bench.device) for tensor in arguments)
        actual = model.forward_packed(
            patches.to(dtype), positions, bounds, lengths=lengths, output_layer=-2
        )
    difference = (actual.float().cpu() - expected).abs()
    return {
        "backend": model.config._attn_implementation,
        "largest": float(f"{float(difference.max()):.3g}"),
        "mean": float(f"{float(difference.mean()):.3g}"),
        "feature_size": round(float(expected.abs().mean()), 3),
    }
