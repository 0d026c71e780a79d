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
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for _folder in ("scripts/bench", "llava_next", "Compressed_Video_Reader"):
    if str(ROOT / _folder) not in sys.path:
        sys.path.insert(0, str(ROOT / _folder))

import psutil  # noqa: E402

from gpu_parts.report import build_page, text  # noqa: E402
from gpu_parts.results import LEFT_OUT, Results  # noqa: E402

PARTS = ("correctness", "encoder", "step", "sft", "generation")
LEAST_SECONDS = 15
USAGE = 2
BEGIN_AGAIN = 75
"""Code of a process that was ended; ``gpu_parts.cases`` asks for another one by it, too."""


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, directly or not."""
    tree: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for one in tree:
        with suppress(psutil.NoSuchProcess):
            one.kill()
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
        if code == USAGE:
            return USAGE
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
        return USAGE
    return 0 if finished == len(results.cases) and code == 0 else 1


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns an exit code: 1 if a case failed or has not been reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="folder of results")
    parser.add_argument("--assets", type=Path, help="folder of assets.py (default OUT/assets)")
    parser.add_argument(
        "--work", type=Path, help="folder of what is not kept, 10 GB (default OUT/work)"
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
    for name, value in (("TOKENIZERS_PARALLELISM", "false"), ("HF_HUB_OFFLINE", "1")):
        os.environ.setdefault(name, value)
    if args.deadline is None:
        return run_all(args)
    # Only this second process takes seconds to import torch, and memory of the device.
    return import_module("gpu_parts.cases").run_cases(args)


if __name__ == "__main__":
    sys.exit(main())
