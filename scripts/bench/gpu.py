"""Everything that only a GPU can show, in one command: python scripts/bench/gpu.py --minutes 12.

Parts:

- ``correctness``: features and attention against those of the host; the tests marked gpu.
- ``encoder``: forward, forward and backward; base and large; one clip, eight images, mixed; every
  backend; compiled blocks.
- ``step``: forward and backward pass of encoder large with a decoder of Qwen3-1.7B's and 0.6B's
  shape on a packed row of 16384 tokens; checkpointed, selective; its profile; Liger's loss.
- ``sft``: 30 steps through scripts/sft_ov_encoder.sh, ZeRO-2 where DeepSpeed is installed; memory
  as ``validate --memory`` predicts it and as measured.
- ``generation``: time to the first token, tokens per second, codec clips and frames.

The most telling cases of all parts run first, then the others, then those that compile. Figures of
every case are written at once into ``OUT/gpu.json``; the same command continues with what is
missing. Cases run in a second process. It is ended with all that it started when a case takes far
longer than expected or the minutes are over, and started again where a case ended it or broke its
device. What cannot run here is left out, with a line that says why. ``--device cpu`` tries all of
it with tiny models and data; ``--device meta`` builds models of full size without values and
computes nothing. The data come from ``gpu_parts/assets.py``; ``gpu_bundle.sh`` packs code, data and
missing packages for a machine without a network.
"""

import argparse
import faulthandler
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for _folder in ("scripts/bench", "llava_next", "Compressed_Video_Reader"):
    if str(ROOT / _folder) not in sys.path:
        sys.path.insert(0, str(ROOT / _folder))

import psutil  # noqa: E402
import torch  # noqa: E402

from gpu_parts.bench import (  # noqa: E402
    FAILED,
    LEFT_OUT,
    STAGES,
    Bench,
    DeviceLostError,
    Results,
    describe,
)
from gpu_parts.report import build_page, text  # noqa: E402
from run_kit.speed import peak_flops  # noqa: E402

PARTS = ("correctness", "encoder", "step", "sft", "generation")
LEAST_SECONDS = 15
BEGIN_AGAIN = 75
"""Exit code of the second process where another one must go on, and of one that was ended."""


def run_cases(args: argparse.Namespace) -> int:
    """Run all cases in this process; returns 0, or ``BEGIN_AGAIN`` to go on in another process."""
    # The other process asks where this one is before it ends it.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    device = torch.device(args.device)
    results = Results.read(args.out / "gpu.json")
    torch.set_float32_matmul_precision("highest")
    if device.type != "cuda":
        torch.set_num_threads(1)
    tiny = device.type == "cpu" or args.tiny
    assets = args.assets
    if tiny or (device.type == "meta" and not (assets / "mixture.jsonl").is_file()):
        assets = args.work / "trial_assets"
        if not (assets / "mixture.jsonl").is_file():
            import_module("gpu_parts.assets").write_data(assets, tiny=True)
    for stage in STAGES:
        for part in args.parts:
            bench = Bench(
                part=part,
                device=device,
                tiny=tiny,
                out=args.out,
                work=args.work,
                assets=assets,
                deadline=args.deadline,
                results=results,
                peak=peak_flops(device, args.peak_tflops),
                chosen=args.cases,
                stage=stage,
                parent=os.getppid(),
            )
            try:
                import_module(f"gpu_parts.{part}").run(bench)
            except DeviceLostError as error:
                print(f"the process begins again: {error}", flush=True)
                return BEGIN_AGAIN
            except Exception as error:  # noqa: BLE001  the other parts still have figures to give
                why = f"{type(error).__name__}: {error}"[:600]
                results.cases[f"{part}: all of it"] = {"status": FAILED, "why": why}
                results.write()
    return 0


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, directly or not."""
    if process.poll() is not None:
        return
    tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for one in tree:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def watch(command: list[str], path: Path, deadline: float) -> int | None:
    """Run a process that works on cases; end it when time is up or a case is overdue.

    Args:
        command: the process.
        path: the file of results that it writes.
        deadline: ``time.time()`` at which it ends.

    Returns:
        Its exit code, ``BEGIN_AGAIN`` after an overdue case, None where time was up.
    """
    process = subprocess.Popen(command)
    try:
        while True:
            try:
                return process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                pass
            if time.time() > deadline:
                return None
            if Results.read(path).end_overdue(time.time()) is not None:
                process.send_signal(signal.SIGUSR1)  # prints where each thread is
                time.sleep(1)
                end_tree(process)
                results = Results.read(path)
                key = results.end_overdue(time.time())
                results.write()
                print(f"{key}: {results.cases[key]['why'] if key else 'just done'}", flush=True)
                return BEGIN_AGAIN
    finally:
        end_tree(process)


def run_all(args: argparse.Namespace) -> int:
    """Run the parts in a second process; print the table and write the page."""
    deadline = time.time() + 60 * args.minutes
    path = args.out / "gpu.json"
    results = Results.read(path)
    results.machine = describe(torch.device(args.device), args.peak_tflops)
    results.settle_running()
    if args.retry:
        results.forget_failed()
    results.write()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    command = [sys.executable, __file__, *args.given, "--deadline", str(deadline)]
    code: int | None = BEGIN_AGAIN
    before: dict[str, object] = {"": ""}
    while code and time.time() + LEAST_SECONDS < deadline:
        reached = {key: case["status"] for key, case in Results.read(path).cases.items()}
        if reached == before:
            print("error: the process ends without reaching another case", file=sys.stderr)
            break
        before = reached
        code = watch(command, path, deadline)
        if code:
            print(f"the process ended with code {code}", flush=True)
    results = Results.read(path)
    results.settle_running()
    results.write()
    page = args.out / "gpu.html"
    page.write_text(build_page(results), encoding="utf-8")
    print(text(results))
    left_out = sum(case["status"] == LEFT_OUT for case in results.cases.values())
    finished = sum(results.is_finished(key) for key in results.cases)
    print(f"\n{finished} of {len(results.cases)} cases finished, {left_out} of them left out")
    if code != 0:
        print("not all cases have been reached; the same command continues")
    print(f"{path}\n{page}")
    unknown = [text for text in args.cases if not any(text in key for key in results.cases)]
    if unknown and code == 0:
        print(f"error: no case of these parts has {unknown} in its name", file=sys.stderr)
        return 2
    return 0 if finished == len(results.cases) and code == 0 else 1


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns an exit code: 1 if a case failed or has not been reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="folder of results")
    parser.add_argument("--assets", type=Path, help="folder of assets.py (default OUT/assets)")
    parser.add_argument(
        "--work", type=Path, help="folder of what is not kept, 5 GB (default OUT/work)"
    )
    parser.add_argument("--minutes", type=float, default=12, help="time after which it ends")
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
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.given = list(sys.argv[1:] if argv is None else argv)
    args.out = args.out.resolve()
    args.assets = args.out / "assets" if args.assets is None else args.assets.resolve()
    args.work = args.out / "work" if args.work is None else args.work.resolve()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device found; --device cpu or --device meta try the script")
    for name, value in (("TOKENIZERS_PARALLELISM", "false"), ("HF_HUB_OFFLINE", "1")):
        os.environ.setdefault(name, value)
    return run_all(args) if args.deadline is None else run_cases(args)


if __name__ == "__main__":
    sys.exit(main())
