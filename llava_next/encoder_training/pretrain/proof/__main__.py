"""Prove that pretraining learns, on made data and two cores of a processor.

    python -m encoder_training.pretrain.proof OUT [--seeds 0 1 2]

Images and clips are drawn, features of their pixels clustered into the project's own bank, and an
encoder trained on the labels: stage 1 on images, stage 2 on images and videos. What the encoder
learned is judged by the concepts of other images and clips, which no step before sees. The page
``OUT/report.html`` has figures, curves and pictures; ``OUT/figures.json`` the figures alone. A
proof that was stopped continues.

Exit codes: 0 done; 1 a step failed; 2 usage; 130 interrupted.
"""

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
from run_kit.arguments import command_parser
from run_kit.exits import FAILED_SAMPLES, INTERRUPTED, OK, ExitOnError, say

_SEEDS_HELP = "seeds; an encoder is trained for each (default: 0 1 2)"
_HELP = {
    "images": "number of images to train on",
    "clips": "number of clips to train on",
    "judged_images": "number of other images to judge by",
    "judged_clips": "number of other clips to judge by",
    "image_centres": "centres of the bank of images",
    "video_centres": "centres of the bank of clips",
    "labels": "labels of a sample: its nearest centres",
    "stage1_steps": "steps of stage 1, on images",
    "stage2_steps": "steps of stage 2, on images and clips",
    "image_batch": "images of a step",
    "video_batch": "clips of a step",
    "embedding_steps": "steps between two pictures of the embeddings",
}
"""Settings to what they mean."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser("encoder_training.pretrain.proof", __doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help=_SEEDS_HELP)
    for field in fields(ProofSettings):
        text = _HELP[field.name]
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
