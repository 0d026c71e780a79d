"""The tests marked gpu, and features of the device against those of the host."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from gpu_parts.bench import Bench, Figures, LeftOutError, need
from gpu_parts.encoder import TINY, Grids, packed
from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel
from onevision_encoder.export import SIZES

ROOT = Path(__file__).parents[3]
TESTS = ("tests/onevision_encoder/test_gpu.py", "tests/llava/train/test_waiting.py")
GRIDS: Grids = [(2, 12, 12), (1, 16, 16), (1, 3, 5)]
MOST_SECONDS = 240


def run(bench: Bench) -> None:
    """Run the tests, then compare features."""
    bench.case("features, float32", lambda: features(bench, torch.float32), seconds=10)
    bench.case("features, bfloat16", lambda: features(bench, torch.bfloat16), seconds=10)
    bench.case("tests marked gpu", lambda: tests(bench), seconds=60)


def tests(bench: Bench) -> Figures:
    """Run pytest on the files that have tests for a GPU.

    Raises:
        LeftOutError: if there is no GPU or no pytest.
    """
    need("pytest", "the tests")
    report = bench.out / "tests.xml"
    selection = "gpu" if bench.device.type == "cuda" else "not slow and not gpu"
    files = TESTS if bench.device.type == "cuda" else TESTS[1:]
    if bench.device.type == "meta":
        raise LeftOutError("the tests for a GPU need one")
    command = [sys.executable, "-m", "pytest", "-q", "-m", selection, f"--junitxml={report}"]
    # A trial runs one of the files that the machine with the GPU will run.
    command += ["-k", "every_kind_of_read"] if bench.tiny else []
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
    )
    if not report.is_file():
        raise RuntimeError(f"pytest: exit code {done.returncode}: {done.stdout[-400:]}")
    suite: Any = ElementTree.parse(report).getroot().find("testsuite")
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    bad = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return {**counts, "not passed": bad}


def features(bench: Bench, dtype: torch.dtype) -> Figures:
    """Return the differences between the features of the device and float32 ones of the host."""
    if bench.device.type == "meta":
        raise LeftOutError("nothing is computed on meta")
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    model = OneVisionEncoderModel(OneVisionEncoderConfig(**(TINY if bench.tiny else SIZES["base"])))
    host = Bench(
        bench.part, torch.device("cpu"), bench.tiny, bench.out, bench.assets, 0, bench.results
    )
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
