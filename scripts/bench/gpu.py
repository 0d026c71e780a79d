"""Everything that only a GPU can show, in one command: python scripts/bench/gpu.py --minutes 12.

Parts, in this order:

- ``encoder``: forward, forward and backward; base and large; one clip, eight images, mixed; every
  backend; compiled blocks last.
- ``step``: forward and backward pass of encoder large with a decoder of Qwen3-1.7B's and 0.6B's
  shape on a packed row of 16384 tokens; checkpointed, selective; its profile; Liger's loss.
- ``sft``: 30 steps through scripts/sft_ov_encoder.sh, ZeRO-2 where DeepSpeed is installed; memory
  as ``validate --memory`` predicts it and as measured.
- ``correctness``: the tests marked gpu, and features against those of the host.
- ``generation``: time to the first token, tokens per second, codec clips and frames.

Each part is a process of its own. Figures of every case are written at once into ``OUT/gpu.json``;
the same command continues with what is missing. What cannot run here is left out, with a line that
says why. ``--device cpu`` tries all of it with tiny models and data; ``--device meta`` builds
models of full size without values and computes nothing. The data come from ``gpu_parts/assets.py``;
``gpu_bundle.sh`` packs code, data and missing packages for a machine without a network.
"""

import argparse
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for _folder in ("scripts/bench", "llava_next", "Compressed_Video_Reader"):
    if str(ROOT / _folder) not in sys.path:
        sys.path.insert(0, str(ROOT / _folder))

import torch  # noqa: E402

from gpu_parts.bench import LEFT_OUT, Bench, Results, describe  # noqa: E402
from gpu_parts.report import build_page, text  # noqa: E402
from run_kit.speed import peak_flops  # noqa: E402

PARTS = ("encoder", "step", "sft", "correctness", "generation")
LEAST_SECONDS = 15
GRACE_SECONDS = 20


def run_part(args: argparse.Namespace) -> int:
    """Run one part in this process."""
    device = torch.device(args.device)
    results = Results.read(args.out / "gpu.json")
    torch.set_float32_matmul_precision("highest")
    if device.type != "cuda":
        torch.set_num_threads(1)
    tiny = device.type == "cpu" or args.tiny
    assets = args.assets
    if tiny or (device.type == "meta" and not (assets / "mixture.jsonl").is_file()):
        assets = args.out / "trial_assets"
        if not (assets / "mixture.jsonl").is_file():
            import_module("gpu_parts.assets").write_data(assets, tiny=True)
    bench = Bench(
        part=args.child,
        device=device,
        tiny=tiny,
        out=args.out,
        assets=assets,
        deadline=args.deadline,
        results=results,
        peak=peak_flops(device, args.peak_tflops),
        retry=args.retry,
        chosen=args.cases,
    )
    import_module(f"gpu_parts.{args.child}").run(bench)
    return 0


def run_all(args: argparse.Namespace) -> int:
    """Run the parts one after the other; print the table and write the page."""
    deadline = time.time() + 60 * args.minutes
    path = args.out / "gpu.json"
    results = Results.read(path)
    results.machine = describe(torch.device(args.device), args.peak_tflops)
    results.settle_running()
    results.write()
    crashed = False
    for part in args.parts:
        for attempt in (1, 2):
            left = deadline - time.time()
            if left < LEAST_SECONDS:
                break
            command = [sys.executable, __file__, *args.given, "--child", part]
            command += ["--deadline", str(deadline)]
            try:
                code = subprocess.run(command, timeout=left + GRACE_SECONDS).returncode
            except subprocess.TimeoutExpired:
                break
            if code == 0:
                break
            crashed |= attempt == 2
            print(f"{part}: the process ended with code {code} (attempt {attempt})", flush=True)
    results = Results.read(path)
    page = args.out / "gpu.html"
    page.write_text(build_page(results), encoding="utf-8")
    print(text(results))
    left_out = sum(case["status"] == LEFT_OUT for case in results.cases.values())
    finished = sum(results.is_finished(key) for key in results.cases)
    print(f"\n{finished} of {len(results.cases)} cases finished, {left_out} of them left out")
    print(f"{path}\n{page}")
    unknown = [text for text in args.cases if not any(text in key for key in results.cases)]
    if unknown:
        print(f"error: no case of these parts has {unknown} in its name", file=sys.stderr)
        return 2
    return 0 if finished == len(results.cases) and not crashed else 1


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns an exit code: 1 if a case failed or has not been reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="folder of results")
    parser.add_argument("--assets", type=Path, help="folder of assets.py (default OUT/assets)")
    parser.add_argument("--minutes", type=float, default=12, help="time for all of it")
    parser.add_argument(
        "--device", choices=("cuda", "cpu", "meta"), default="cuda", help="cpu and meta are trials"
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="parts, in this order"
    )
    parser.add_argument(
        "--cases", nargs="+", default=[], metavar="TEXT", help="cases with one of these in a name"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on a GPU, too")
    parser.add_argument("--retry", action="store_true", help="run cases that failed once more")
    parser.add_argument("--peak_tflops", type=float, help="peak, if not known by name")
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.given = list(sys.argv[1:] if argv is None else argv)
    args.out = args.out.resolve()
    args.assets = args.out / "assets" if args.assets is None else args.assets.resolve()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device found; --device cpu or --device meta try the script")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return run_part(args) if args.child else run_all(args)


if __name__ == "__main__":
    sys.exit(main())
