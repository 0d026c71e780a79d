"""The process that runs the cases of ``gpu.py``, stage by stage."""

import argparse
import faulthandler
import os
import signal
import sys
from importlib import import_module

import torch

from gpu_parts.bench import STAGES, Bench, DeviceLostError, describe
from gpu_parts.results import FAILED, Results
from run_kit.speed import peak_flops

USAGE, BEGIN_AGAIN = 2, 75


def run_cases(args: argparse.Namespace) -> int:
    """Run all cases in this process.

    Returns:
        0, ``BEGIN_AGAIN`` to go on in another process, ``USAGE`` where there is no device.
    """
    # The other process asks where this one is before it ends it.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    parent = os.getppid()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        message = "no CUDA device found; --device cpu or --device meta try the script"
        print(f"error: {message}", file=sys.stderr)
        return USAGE
    results = Results.read(args.out / "gpu.json")
    results.machine = describe(device, args.peak_tflops)
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
                parent=parent,
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
