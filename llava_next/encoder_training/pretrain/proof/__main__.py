"""Prove that pretraining learns, on made data and two cores of a processor.

    python -m encoder_training.pretrain.proof OUT [--seeds 0 1 2]

Images and clips are drawn, features of their pixels clustered into the project's own bank, and an
encoder trained on the labels: stage 1 on images, stage 2 on images and videos. What the encoder
learned is judged by the concepts of other images and clips, which no step before sees. The page
``OUT/report.html`` has figures, curves and pictures; ``OUT/figures.json`` the figures alone. A
proof that was stopped continues.

Exit codes, see ``run_kit.exits``: 0 done; 1 a step failed; 2 usage; 130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from encoder_training.pretrain.proof.report import write_proof
from encoder_training.pretrain.proof.steps import (
    ProofSettings,
    judge,
    label_sets,
    make_data,
    train_stages,
)
from run_kit.exits import FAILED_SAMPLES, INTERRUPTED, OK, ExitOnError, say


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m encoder_training.pretrain.proof",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run of each")
    for field in fields(ProofSettings):
        name = field.name.replace("_", " ")
        text = f"{name} (default {field.default})"
        parser.add_argument(f"--{field.name}", type=int, default=field.default, help=text)
    given = vars(parser.parse_args(argv))
    out, seeds = given.pop("out"), given.pop("seeds")
    settings = ProofSettings(**given)
    with ExitOnError(FAILED_SAMPLES):
        try:
            make_data(out, settings)
            figures = {}
            for seed in seeds:
                folder = label_sets(out, seed, settings)
                train_stages(folder, seed, settings, pictures=seed == seeds[0])
                figures[seed] = judge(out, folder, seed)
            write_proof(out, figures, settings)
        except KeyboardInterrupt:
            return INTERRUPTED
    say(f"the page is {out / 'report.html'}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
