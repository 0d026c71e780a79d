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

Exit codes: 0 done; 1 a step failed; 2 usage; 130 interrupted.
"""

import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from cv_reader.cores import available_cores
from encoder_training.probe.proof.plan import QUICK, InputSizes, Proof, ProofSizes
from encoder_training.probe.proof.run import run_proof
from run_kit.arguments import command_parser
from run_kit.exits import FAILED_SAMPLES, INTERRUPTED, OK, ExitOnError, say

_HELP = {
    "train": "number of clips to train on",
    "val": "number of clips to score",
    "epochs": "epochs of the probes",
    "images": "number of images to pretrain on",
    "clips": "number of clips to pretrain on",
    "stage1_steps": "steps of pretraining on images",
    "stage2_steps": "steps of pretraining on images and clips",
    "frames": "number of whole frames; all inputs have as many tokens",
    "frame_tokens": "tokens of a frame, a square number",
    "slots": "number of frames that patches are chosen from",
}
"""Sizes to what they mean."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser("encoder_training.probe.proof", __doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument(
        "--quick", action="store_true", help="take fewer clips, one seed and fewer steps"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        help="seeds; an encoder and its probes for each (default: 0 1 2, --quick 0)",
    )
    parser.add_argument(
        "--encoder", type=Path, help="folder of an encoder to probe instead of pretraining one"
    )
    parser.add_argument("--data", type=Path, help="folder of labelled videos with their lists")
    for item in fields(ProofSizes):
        defaults = f"default: {item.default}, --quick {getattr(QUICK, item.name)}"
        text = f"{_HELP[item.name]} ({defaults})"
        parser.add_argument(f"--{item.name}", type=int, help=text)
    for item in fields(InputSizes):
        text = _HELP[item.name]
        parser.add_argument(f"--{item.name}", type=int, default=item.default, help=text)
    parser.add_argument(
        "--pretraining", type=Path, help="folder of encoder_training.pretrain.proof, to use or fill"
    )
    parser.add_argument(
        "--num_workers", type=int, default=available_cores(),
        help="pretrainings and probes side by side, one thread each",
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
