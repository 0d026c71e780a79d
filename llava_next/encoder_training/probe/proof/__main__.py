"""Compare inputs of equal size on made actions, by probes of one frozen encoder.

    python -m encoder_training.probe.proof OUT [--quick] [--seeds 0 1 2] [--encoder DIR]

Clips of 16 actions are drawn (``encoder_training.probe.proof.actions``). An encoder is pretrained
as ``encoder_training.pretrain.proof`` does, on other pictures and clips and without a label of the
actions, or given with ``--encoder``. It is frozen, and probed with each input: whole frames, codec
patches by the published formula, by rate and distortion, and patches of random places.
``OUT/report.html`` has the table of all seeds and the page of the first, ``OUT/table.md`` the table
alone, ``OUT/figures.json`` the figures. Pretraining and probes run side by side, one on each core,
and write what they print to ``OUT/seed-S``. A proof that was stopped continues after its last
finished parts.

    python -m encoder_training.probe.proof OUT --data DIR --encoder DIR --frames 8 --slots 64

compares the inputs on labelled videos instead: DIR holds ``train_new.csv``, ``val_new.csv`` and,
with the name of each class, ``classes.txt``.

Exit codes, see ``run_kit.exits``: 0 done; 1 a step failed; 2 usage; 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from encoder_training.probe.proof.plan import QUICK, InputSizes, Proof, ProofSizes
from encoder_training.probe.proof.run import run_proof
from run_kit.exits import FAILED_SAMPLES, INTERRUPTED, OK, ExitOnError, say


def _num_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m encoder_training.probe.proof",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--quick", action="store_true", help="small clips, one seed, few steps")
    parser.add_argument("--seeds", type=int, nargs="+", help="one encoder and probes of each")
    parser.add_argument("--encoder", type=Path, help="probe this one instead of training one")
    parser.add_argument("--data", type=Path, help="folder of labelled videos with their lists")
    for item in fields(ProofSizes):
        name = item.name.replace("_", " ")
        text = f"{name} (default {item.default}, quick {getattr(QUICK, item.name)})"
        parser.add_argument(f"--{item.name}", type=int, help=text)
    for item in fields(InputSizes):
        text = f"{item.name.replace('_', ' ')} of the inputs (default {item.default})"
        parser.add_argument(f"--{item.name}", type=int, default=item.default, help=text)
    parser.add_argument(
        "--pretraining", type=Path, help="folder of encoder_training.pretrain.proof, to use or fill"
    )
    parser.add_argument(
        "--num_workers", type=int, default=_num_cores(),
        help="pretrainings and probes side by side, one thread each (default: the free cores)",
    )  # fmt: skip
    given = vars(parser.parse_args(argv))
    num_workers = max(given.pop("num_workers"), 1)
    is_quick = given.pop("quick")
    chosen = {item.name: given.pop(item.name) for item in fields(ProofSizes)}
    sizes = replace(
        QUICK if is_quick else ProofSizes(), **{k: v for k, v in chosen.items() if v is not None}
    )
    inputs = InputSizes(**{item.name: given.pop(item.name) for item in fields(InputSizes)})
    given["seeds"] = given["seeds"] or ([0] if is_quick else [0, 1, 2])
    proof = Proof(sizes=sizes, inputs=inputs, **given)
    with ExitOnError(FAILED_SAMPLES):
        try:
            says = run_proof(proof, num_workers)
        except KeyboardInterrupt:
            return INTERRUPTED
    say(says)
    say(f"the page is {proof.out / 'report.html'}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
