"""Compare inputs of equal size on made actions, by probes of one frozen encoder.

    python -m encoder_training.probe.proof OUT [--quick] [--seeds 0 1 2] [--encoder DIR]

Clips of 16 actions are drawn (``encoder_training.probe.proof.actions``). An encoder is pretrained
as ``encoder_training.pretrain.proof`` does, on other pictures and clips and without a label of the
actions, or given with ``--encoder``. It is frozen, and probed with each input: whole frames, codec
patches by the published formula, by rate and distortion, and patches of random places.
``OUT/report.html`` has the table of all seeds and the page of the first, ``OUT/figures.json`` the
figures. A proof that was stopped continues after its last finished part.

Exit codes, see ``run_kit.exits``: 0 done; 1 a step failed; 2 usage; 130 interrupted.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from encoder_training.pretrain.proof.steps import (
    CLIP_FRAMES,
    NUM_FRAMES,
    PATCH_PX,
    SIZE_PX,
    VIDEO_FRAMES,
    label_sets,
    make_data,
    train_stages,
)
from encoder_training.pretrain.proof.steps import ProofSettings as PretrainingSizes
from encoder_training.probe.__main__ import main as probe
from encoder_training.probe.proof.actions import ACTIONS, CLASSES, write_actions
from encoder_training.probe.report import ProbeRun, probe_page, read_result
from run_kit.exits import FAILED_SAMPLES, INTERRUPTED, OK, ExitOnError, say
from run_kit.files import write_json, write_text
from run_kit.pages.page import table

_T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""Factor of a 95 % interval of a mean of so many seeds, by Student's distribution."""


@dataclass(frozen=True, kw_only=True)
class ProofSizes:
    """Sizes of the proof.

    Attributes:
        train, val: clips to train on and to score.
        epochs: of the probes.
        images, clips: made to pretrain on.
        stage1_steps, stage2_steps: of pretraining.
    """

    train: int = 2560
    val: int = 960
    epochs: int = 20
    images: int = 6000
    clips: int = 1440
    stage1_steps: int = 1000
    stage2_steps: int = 800


QUICK = ProofSizes(
    train=640, val=320, epochs=12, images=2400, clips=720, stage1_steps=300, stage2_steps=200
)
TOKENS = NUM_FRAMES * (SIZE_PX // PATCH_PX) ** 2
"""Tokens of every input."""

ARMS: dict[str, dict[str, Any]] = {
    "frames": {"input": f"frames:{NUM_FRAMES}"},
    "codec, published": {"input": f"codec:{TOKENS}", "num_frames": CLIP_FRAMES},
    "codec, rate-distortion": {
        "input": f"codec:{TOKENS}",
        "num_frames": CLIP_FRAMES,
        "selection": ["select=rate_distortion"],
    },
    "random patches": {"input": f"random:{TOKENS}", "num_frames": CLIP_FRAMES},
}
"""Settings of each input, by its name."""


def _settings(out: Path, sizes: ProofSizes, seed: int, encoder: Path, arm: str) -> dict[str, Any]:
    clips = out / "clips"
    return {
        "dataset": "custom", "train_list": str(clips / "train_new.csv"),
        "val_list": str(clips / "val_new.csv"), "video_root": str(clips),
        "class_names": str(clips / "classes.txt"), "model_weight": str(encoder),
        "frames_token_num": (SIZE_PX // PATCH_PX) ** 2, "use_cpu": True, "bf16": False,
        "num_workers": 0, "default_lr_list": [3e-4, 1e-3, 3e-3],
        "default_weight_decay": [0.0, 0.1], "default_epoch": sizes.epochs, "batch_size": 32,
        "encode_batch": 16, "seed": seed,
        "output_dir": str(out / f"seed-{seed}" / arm.replace(", ", "_").replace(" ", "_")),
        **ARMS[arm],
    }  # fmt: skip


def pretrained(out: Path, sizes: ProofSizes, seed: int) -> Path:
    """Pretrain an encoder as the proof of pretraining does; return its folder."""
    usual = PretrainingSizes()
    settings = replace(
        usual, images=sizes.images, clips=sizes.clips, judged_images=24, judged_clips=8,
        stage1_steps=sizes.stage1_steps, stage2_steps=sizes.stage2_steps,
        image_centres=min(usual.image_centres, sizes.images // 4),
        video_centres=min(usual.video_centres, sizes.clips // 4),
    )  # fmt: skip
    make_data(out, settings)
    folder = label_sets(out, seed, settings)
    train_stages(folder, seed, settings, pictures=False)
    return folder / "stage2" / "final"


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of some seeds and its 95 % interval; of one seed NaN for the ends."""
    if len(values) < 2:
        return values[0], math.nan, math.nan
    half = _T95.get(len(values), 2.6) * stdev(values) / math.sqrt(len(values))
    return mean(values), mean(values) - half, mean(values) + half


def group_scores(run: ProbeRun) -> dict[str, float]:
    """Return the top-1 of all classes, of the actions, and of the controls."""
    counts = run.result["per_class"]
    groups = {"all": counts, "actions": counts[: len(ACTIONS)], "controls": counts[len(ACTIONS) :]}
    return {
        name: 100 * sum(correct for correct, _ in rows) / sum(total for _, total in rows)
        for name, rows in groups.items()
    }


def write_proof_page(out: Path, runs: dict[str, list[ProbeRun]], about: dict[str, Any]) -> None:
    """Write figures and page of all seeds."""
    figures = {arm: [group_scores(run) for run in own] for arm, own in runs.items()}
    write_json(out / "figures.json", {"settings": about, "figures": figures})
    rows: list[list[str]] = []
    for arm, scores in figures.items():
        cells = [arm, f"{runs[arm][0].result['cost']['tokens_per_clip']:.0f}"]
        for group in ("all", "actions", "controls"):
            middle, low, high = interval([score[group] for score in scores])
            text = f"{middle:.1f}"
            cells.append(text if math.isnan(low) else f"{text} ({low:.1f} to {high:.1f})")
        rows.append(cells)
    header = ("input", "tokens", "all %", "actions %", "appearance controls %")
    seeds = len(next(iter(runs.values())))
    origin = about["encoder"] or "pretrained on other pictures and clips, without these labels"
    note = (
        f"<p>Mean of {seeds} seeds, with the 95 % interval of Student's distribution where there "
        f"are several. Chance is {100 / len(CLASSES):.1f} %. The encoder was "
        f"{origin}. Below: the "
        "first seed.</p>"
    )
    summary = f"<h2>Inputs at equal tokens</h2>{table(header, rows, {1, 2, 3, 4})}{note}"
    first = [own[0]._replace(name=arm) for arm, own in runs.items()]
    start, found, rest = probe_page(first).partition("</h1>\n")
    write_text(out / "report.html", f"{start}{found}{summary}{rest}")


def run_proof(
    out: Path,
    sizes: ProofSizes,
    seeds: Sequence[int],
    encoder: Path | None,
    pretraining: Path | None = None,
) -> None:
    """Make the clips, pretrain or take the encoder, and probe every input with every seed.

    Args:
        out: folder to write.
        sizes: sizes.
        seeds: one encoder and probes of each.
        encoder: probe this one instead of pretraining one.
        pretraining: folder of the proof of pretraining; below ``out`` where there is none.

    Raises:
        RuntimeError: if a probe fails.
    """
    if not (out / "clips" / "classes.txt").is_file():
        say(f"drawing {sizes.train + sizes.val} clips")
        write_actions(
            out / "clips", train=sizes.train, val=sizes.val, size_px=SIZE_PX,
            num_frames=VIDEO_FRAMES,
        )  # fmt: skip
    runs: dict[str, list[ProbeRun]] = {arm: [] for arm in ARMS}
    for seed in seeds:
        weights = encoder or pretrained(pretraining or out / "pretraining", sizes, seed)
        for arm, own in runs.items():
            settings = _settings(out, sizes, seed, weights, arm)
            folder = Path(settings["output_dir"])
            if not (folder / "probe.json").is_file() and probe(_flags(settings)):
                raise RuntimeError(f"the probe of {arm} with seed {seed} failed")
            own.append(read_result(folder))
    about = {
        **{field.name: getattr(sizes, field.name) for field in fields(sizes)},
        "seeds": list(seeds), "encoder": str(encoder or ""),
    }  # fmt: skip
    write_proof_page(out, runs, about)


def _flags(settings: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in settings.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


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
    for item in fields(ProofSizes):
        name = item.name.replace("_", " ")
        text = f"{name} (default {item.default}, quick {getattr(QUICK, item.name)})"
        parser.add_argument(f"--{item.name}", type=int, help=text)
    parser.add_argument(
        "--pretraining", type=Path, help="folder of encoder_training.pretrain.proof, to use or fill"
    )
    given = vars(parser.parse_args(argv))
    out, seeds, is_quick = given.pop("out"), given.pop("seeds"), given.pop("quick")
    pretraining: Path | None = given.pop("pretraining")
    encoder: Path | None = given.pop("encoder")
    sizes = replace(
        QUICK if is_quick else ProofSizes(), **{k: v for k, v in given.items() if v is not None}
    )
    with ExitOnError(FAILED_SAMPLES):
        try:
            run_proof(out, sizes, seeds or ([0] if is_quick else [0, 1, 2]), encoder, pretraining)
        except KeyboardInterrupt:
            return INTERRUPTED
    say(f"the page is {out / 'report.html'}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
