"""The script for a GPU, tried without one: every part but training on meta and on the CPU."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from support.paths import ROOT

SCRIPT = ROOT / "scripts" / "bench" / "gpu.py"


@pytest.fixture(scope="module", autouse=True)
def _paths() -> Any:
    folder = str(SCRIPT.parent)
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def _bench(folder: Path, part: str, device: str = "meta", **options: Any) -> Any:
    module = import_module("gpu_parts.bench")
    results = import_module("gpu_parts.results").Results.read(folder / "gpu.json")
    settings = {"deadline": time.time() + 600, **options}
    return module.Bench(
        part=part,
        device=torch.device(device),
        tiny=True,
        out=folder,
        work=folder / "work",
        assets=folder / "assets",
        results=results,
        **settings,
    )


def _cases(folder: Path) -> dict[str, dict[str, Any]]:
    return json.loads((folder / "gpu.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.slow
def test_encoder_and_step_run_on_meta_and_count_what_a_gpu_would_do(tmp_path: Path) -> None:
    import_module("gpu_parts.assets").write_data(tmp_path / "assets", tiny=True)
    import_module("gpu_parts.encoder").run(_bench(tmp_path, "encoder"))
    import_module("gpu_parts.step").run(_bench(tmp_path, "step"))
    cases = _cases(tmp_path)
    assert {case["status"] for case in cases.values()} == {"done", "left out"}
    done = [key for key, case in cases.items() if case["status"] == "done"]
    for backend in ("varlen", "sdpa"):
        for shape in ("1 x 10368", "8 x 1296", "mixed"):
            assert f"encoder: large, {shape}, {backend}" in done
    assert {"step: 1.7b, plain", "step: 1.7b, checkpointed", "step: 1.7b, selective"} <= set(done)
    assert cases["step: 1.7b, plain"]["tokens"] > 900
    assert "flash-attn is not installed" in cases["encoder: large, mixed, flash_attention_2"]["why"]


def test_the_encoders_operations_are_those_of_its_matrices() -> None:
    from onevision_encoder import OneVisionEncoderConfig

    count = import_module("gpu_parts.bench").encoder_operations
    config = OneVisionEncoderConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2
    )
    # Per token: the patch embedding, then 2 blocks of 4 square matrices and the two of the MLP.
    linear = 2 * (588 * 64 + 2 * (4 * 64 * 64 + 2 * 64 * 128)) * 7
    # Scores and weighted sums of segments of 5 and 2 tokens.
    attention = 2 * 2 * 2 * 64 * (5**2 + 2**2)
    assert count(config, [5, 2], 2) == linear + attention


def test_finished_cases_are_not_run_again_and_failed_ones_only_when_asked(tmp_path: Path) -> None:
    calls: list[str] = []

    def fails() -> dict[str, Any]:
        calls.append("fails")
        raise KeyError("broken")

    def works() -> dict[str, Any]:
        calls.append("works")
        return {"seconds": 1.0}

    def run(**options: Any) -> None:
        bench = _bench(tmp_path, "part", **options)
        bench.case("a", works)
        bench.case("b", fails)
        bench.case("c", works, seconds=1e9)

    run()
    assert _cases(tmp_path)["part: c"]["status"] == "no time left"
    assert _cases(tmp_path)["part: b"]["why"] == "KeyError: 'broken'"
    run()
    assert calls == ["works", "fails"]
    results = _bench(tmp_path, "part").results
    results.forget_failed()
    results.write()
    run()
    assert calls == ["works", "fails", "fails"]


def test_a_case_that_loses_the_device_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an illegal access: its own error is kept, and no case after it fails by it."""
    module = import_module("gpu_parts.bench")

    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    bench = _bench(tmp_path, "part")
    with monkeypatch.context() as patch, pytest.raises(module.DeviceLostError, match="part: a"):
        patch.setattr(module.Bench, "_wait", broken)
        bench.case("a", broken)
    assert "illegal memory" in _cases(tmp_path)["part: a"]["why"]
    again = _bench(tmp_path, "part")
    for name in ("a", "b"):
        again.case(name, dict)
    assert [case["status"] for case in _cases(tmp_path).values()] == ["failed", "done"]


_CASES = """
import subprocess, sys, time
from gpu_parts.bench import FIRST, LAST

def hangs():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "gpu_bench_hangs"])
    time.sleep(60)

def run(bench):
    bench.case("late", dict, stage=LAST)
    bench.case("hangs", hangs, seconds=0, stage=FIRST)
    bench.case("early", dict, stage=FIRST)
    bench.case("dies", lambda: sys.exit("gone"))
"""


@pytest.mark.slow
def test_a_case_that_hangs_or_ends_the_process_does_not_keep_the_others(tmp_path: Path) -> None:
    """The script itself; its first part is replaced by cases that do so."""
    folder = tmp_path / "scripts" / "bench"
    shutil.copytree(SCRIPT.parent, folder)
    for name in ("llava_next", "Compressed_Video_Reader"):
        (tmp_path / name).symlink_to(ROOT / name)
    (folder / "gpu_parts" / "correctness.py").write_text(_CASES, encoding="utf-8")
    bench = folder / "gpu_parts" / "bench.py"
    text = bench.read_text(encoding="utf-8")
    bench.write_text(text.replace("LIMIT_FACTOR = 30, 3\n", "LIMIT_FACTOR = 0.1, 3\n"))
    command = [sys.executable, str(folder / "gpu.py"), "--out", str(tmp_path / "out")]
    command += ["--device", "cpu", "--parts", "correctness", "--minutes"]
    run = subprocess.run([*command, "1"], capture_output=True, text=True, timeout=120)
    cases = _cases(tmp_path / "out")
    assert run.returncode == 1
    assert list(cases) == [f"correctness: {name}" for name in ("hangs", "early", "dies", "late")]
    assert [case["status"] for case in cases.values()] == ["failed", "done", "failed", "done"]
    assert "ended after" in cases["correctness: hangs"]["why"]
    assert "the process ended within" in cases["correctness: dies"]["why"]
    assert 'correctness.py", line 7 in hangs' in run.stderr
    running = [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]
    assert not any("gpu_bench_hangs" in line for line in running)

    # Time that is up ends a case, too; the next run gives it one more try.
    shutil.rmtree(tmp_path / "out")
    bench.write_text(text)
    started = time.monotonic()
    run = subprocess.run([*command, "0.4"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 1 and time.monotonic() - started < 24 + 15
    assert _cases(tmp_path / "out")["correctness: hangs"]["status"] == "cut off"
    assert (tmp_path / "out" / "gpu.html").is_file()


def test_a_case_in_which_the_process_ended_is_reported(tmp_path: Path) -> None:
    bench = _bench(tmp_path, "part")
    bench.results.cases["part: a"] = {"status": "running", "until": 0}
    bench.case("a", dict)
    assert _cases(tmp_path)["part: a"]["why"] == "the process ended within this case"


def test_a_case_in_which_the_run_was_ended_runs_once_more(tmp_path: Path) -> None:
    results = _bench(tmp_path, "part").results
    seen: list[str] = []

    def is_ended() -> dict[str, Any]:
        seen.append(_cases(tmp_path)["part: a"]["status"])
        raise KeyboardInterrupt  # a signal: nothing is written

    for _ in range(2):
        results.settle_running()
        results.write()
        with pytest.raises(KeyboardInterrupt):
            _bench(tmp_path, "part").case("a", is_ended)
        results = _bench(tmp_path, "part").results
    results.settle_running()
    results.write()
    _bench(tmp_path, "part").case("a", is_ended)
    assert seen == ["running", "running"]
    assert _cases(tmp_path)["part: a"]["why"] == "two runs were ended within this case"


def test_live_bytes_are_those_of_tensors_that_are_held_at_once() -> None:
    weight = torch.zeros(250)  # 1000 bytes
    with import_module("gpu_parts.memory").LiveBytes([weight]) as live:
        first = torch.zeros(500)  # 2000
        view = first[:10]
        second = weight + 1  # 1000
        del first
        assert live.peak == 4000
        del view
        third = torch.zeros(750)  # 3000, in place of 2000
        assert live.peak == 5000
    assert len(second) + len(third) == 1000


def test_a_case_is_overdue_some_time_after_it_should_have_ended(tmp_path: Path) -> None:
    results = _bench(tmp_path, "part").results
    times = {"started": 100.0, "expected": 5.0, "until": 145.0}
    results.cases = {"a": {"status": "done"}, "b": {"status": "running", **times}}
    assert results.end_overdue(144.0) is None
    assert results.end_overdue(146.0) == "b"
    assert results.cases["b"] == {
        "status": "failed",
        "why": "ended after 46 s, because it takes about 5 s",
    }


def test_the_most_telling_cases_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is run: what each stage would run is only listed."""
    module = import_module("gpu_parts.bench")
    listed: list[tuple[int, str, float]] = []

    def note(bench: Any, name: str, run: Any, *, seconds: float = 5, stage: int = 2) -> None:
        listed.append((stage, f"{bench.part}: {name}", seconds))

    monkeypatch.setattr(module.Bench, "case", note)
    for part in ("correctness", "encoder", "step", "sft", "generation"):
        bench = _bench(tmp_path, part)
        bench.tiny = False
        import_module(f"gpu_parts.{part}").run(bench)
    first = [name for stage, name, _ in listed if stage == module.FIRST]
    goals = {key for key, *_ in import_module("gpu_parts.report").GOALS}
    assert goals <= set(first)
    assert sum(seconds for stage, _, seconds in listed if stage == module.FIRST) < 7 * 60
    slow = [name for stage, name, seconds in listed if stage < module.COMPILED and seconds > 75]
    assert not slow
    compiled = re.compile("flex|compile|static")
    assert all(stage >= module.COMPILED for stage, name, _ in listed if compiled.search(name))


def test_no_case_starts_when_the_process_that_watches_has_ended(tmp_path: Path) -> None:
    calls: list[int] = []
    _bench(tmp_path, "part", parent=os.getppid()).case("a", lambda: {"calls": calls.append(1)})
    with pytest.raises(SystemExit, match="watches"):
        _bench(tmp_path, "part", parent=os.getpid()).case("b", lambda: {"calls": calls.append(2)})
    assert calls == [1]


def test_only_chosen_cases_run(tmp_path: Path) -> None:
    bench = _bench(tmp_path, "part", chosen=["large", "part: b"])
    for name in ("small, 1", "large, 1", "b"):
        bench.case(name, dict)
    assert set(_cases(tmp_path)) == {"part: large, 1", "part: b"}


@pytest.mark.parametrize(
    ("kernel", "family"),
    [
        ("void pytorch_flash::flash_fwd_kernel<...>", "attention"),
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_TNT", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "matrix products"),
        ("void at::native::vectorized_layer_norm_kernel<float>", "norms"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("void at::native::vectorized_elementwise_kernel<4, GeluCUDA>", "element-wise"),
    ],
)
def test_kernels_have_families(kernel: str, family: str) -> None:
    assert import_module("gpu_parts.step").family(kernel) == family


def test_the_report_says_what_goals_became(tmp_path: Path) -> None:
    results = _bench(tmp_path, "sft").results
    rates = {"seconds": 0.1, "tokens_per_second": 100, "mfu": 0.5}
    results.cases = {
        "encoder: large, 1 x 10368, varlen": {"status": "done", "forward and backward": rates},
        "sft: 1.7b, packed, checkpointed": {"status": "done", "mfu": 0.3, "tokens_per_second": 90},
        "sft: 1.7b, one sample a step, checkpointed": {"status": "done", "tokens_per_second": 45},
        "step: loss, Liger": {"status": "left out", "why": "needs <liger>"},
        "correctness: features, float32": {"status": "done", "largest": 2e-4},
    }
    report = import_module("gpu_parts.report")
    text, page = report.text(results), report.build_page(results)
    assert "forward and backward: mfu 45%: reached, 50.0%" in text
    assert "packed, checkpointed: mfu 40%: missed, 30.0%" in text
    assert "1.7b, packed: mfu 40%: not measured" in text
    assert "2.00 times (goal 1.5)" in text
    assert "needs &lt;liger&gt;" in page
    assert "largest difference: missed, 0.0002 (goal 0.0001)" in text
    assert "wait for data, packed rows: not measured (goal 0.03)" in text


@pytest.mark.slow
def test_the_data_of_a_gpu_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real assets of a made clip, and every entry of the mixture."""
    assets, material = (import_module(f"gpu_parts.{name}") for name in ("assets", "material"))
    monkeypatch.setattr(assets, "CLIPS", {"h264": ("h264", 180, 320)})
    monkeypatch.setattr(assets, "CLIP_FRAMES", 160)
    assets.write_data(tmp_path / "assets", tiny=False)
    bench = _bench(tmp_path, "step", "cpu")
    bench.tiny = False
    lines = [material.dataset(bench, name) for name in ("mixture.jsonl", "generation.jsonl")]
    assert [len(lines[1][line]["segments"][0].patches) for line in range(3)] == [10368, 2592, 10368]
    shares = [line["id"].partition("_")[0] for line in map(json.loads, _lines(tmp_path))]
    assert [shares.count(kind) for kind in ("codec", "image", "text")] == [48, 80, 32]
    batch = material.packed_batch(bench)
    assert batch["input_ids"].shape[1] > 0.95 * material.ROW_TOKENS
    assert 10368 in batch["visual"].segment_lengths


def _lines(folder: Path) -> list[str]:
    return (folder / "assets" / "mixture.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_whole_script_runs_without_a_gpu(device: str, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "--device", device, "--out", str(tmp_path)]
    for again in (False, True):
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
        cases = _cases(tmp_path)
        assert {case["status"] for case in cases.values()} == {"done", "left out"}
        parts = {key.partition(":")[0] for key in cases}
        assert parts == {"encoder", "step", "sft", "correctness", "generation"}
        assert ("took_seconds" in run.stdout) is not again
    assert (tmp_path / "gpu.html").is_file()
    if device == "meta":
        for size in ("1.7b", "0.6b"):
            case = cases[f"step: {size}, checkpointed"]
            # What the validator says is enough, and no more than half too much.
            ratio = case["predicted_if_checkpointed_gigabytes"] / case["peak_gigabytes"]
            assert 1 <= ratio < 1.5
    if device == "cpu":
        assert cases["sft: 1.7b, packed"]["tokens_per_second"] > 0
        assert cases["correctness: tests marked gpu"]["failures"] == 0
