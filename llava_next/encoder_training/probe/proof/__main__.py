"""Compare inputs of equal size on made actions, by probes of one frozen encoder.

    python -m encoder_training.probe.proof OUT [--quick] [--seeds 0 1 2] [--encoder DIR]

Clips of 16 actions are drawn (``encoder_training.probe.proof.actions``). An encoder is pretrained
as ``encoder_training.pretrain.proof`` does, on other pictures and clips and without a label of the
actions, or given with ``--encoder``. It is frozen, and probed with each input: whole frames, codec
patches by the published formula, by rate and distortion, and patches of random places.
``OUT/report.html`` has the table of all seeds and the page of the first, ``OUT/table.md`` the table
alone, ``OUT/figures.json`` the figures. A proof that was stopped continues after its last finished
part.

    python -m encoder_training.probe.proof OUT --data DIR --encoder DIR --frames 8 --slots 64

compares the inputs on labelled videos instead: DIR holds ``train_new.csv``, ``val_new.csv`` and,
with the name of each class, ``classes.txt``.

Exit codes, see ``run_kit.exits``: 0 done; 1 a step failed; 2 usage; 130 interrupted.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from encoder_training.pretrain.proof.steps import (
    PATCH_PX,
    SIZE_PX,
    VIDEO_FRAMES,
    label_sets,
    make_data,
    train_stages,
)
from encoder_training.pretrain.proof.steps import ProofSettings as PretrainingSizes
from encoder_training.probe.__main__ import main as probe
from encoder_training.probe.proof.actions import ACTIONS, write_actions
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
    epochs: int = 12
    images: int = 6000
    clips: int = 1440
    stage1_steps: int = 1000
    stage2_steps: int = 800


QUICK = ProofSizes(
    train=640, val=320, epochs=12, images=2400, clips=720, stage1_steps=300, stage2_steps=200
)
GOAL_POINTS = 3.0
"""By how much the best codec selection is to be better than frames, with disjoint intervals."""
FRAMES, PUBLISHED, RATE_DISTORTION = "frames", "codec, published", "codec, rate-distortion"


@dataclass(frozen=True, kw_only=True)
class InputSizes:
    """What the inputs have in common.

    Attributes:
        frames: whole frames, whose tokens all other inputs have, too.
        frame_tokens: tokens of a frame, a square number.
        slots: frames that patches are chosen from; their times are spread over the encoder's own
            slots.
    """

    frames: int = 8
    frame_tokens: int = (SIZE_PX // PATCH_PX) ** 2
    slots: int = VIDEO_FRAMES

    @property
    def tokens(self) -> int:
        """Return the tokens of every input."""
        return self.frames * self.frame_tokens

    def arms(self) -> dict[str, dict[str, Any]]:
        """Return the settings of each input, by its name."""
        codec = {"input": f"codec:{self.tokens}", "num_frames": self.slots}
        return {
            FRAMES: {"input": f"frames:{self.frames}"},
            PUBLISHED: codec,
            RATE_DISTORTION: {**codec, "selection": ["select=rate_distortion"]},
            "random patches": {"input": f"random:{self.tokens}", "num_frames": self.slots},
        }


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What is compared.

    Attributes:
        out: folder to write.
        sizes: of the made actions, the probes and pretraining.
        inputs: what the inputs have in common.
        seeds: one encoder and probes of each.
        encoder: probe this one instead of pretraining one.
        pretraining: folder of the proof of pretraining; below ``out`` where there is none.
        data: folder of labelled videos; None: the made actions.
    """

    out: Path
    sizes: ProofSizes
    inputs: InputSizes
    seeds: Sequence[int]
    encoder: Path | None = None
    pretraining: Path | None = None
    data: Path | None = None

    @property
    def clips(self) -> Path:
        """Return the folder of the videos and their lists."""
        return self.data or self.out / "clips"


def _settings(proof: Proof, seed: int, encoder: Path, arm: str) -> dict[str, Any]:
    clips, names = proof.clips, proof.clips / "classes.txt"
    return {
        "dataset": "custom", "train_list": str(clips / "train_new.csv"),
        "val_list": str(clips / "val_new.csv"), "video_root": str(clips),
        **({"class_names": str(names)} if names.is_file() else {}),
        "model_weight": str(encoder),
        "frames_token_num": proof.inputs.frame_tokens, "use_cpu": True, "bf16": False,
        "num_workers": 0, "scale_time": True, "default_lr_list": [3e-4, 1e-3, 3e-3],
        "default_weight_decay": [0.0, 0.1], "default_epoch": proof.sizes.epochs, "batch_size": 32,
        "encode_batch": 16, "seed": seed,
        "output_dir": str(proof.out / f"seed-{seed}" / arm.replace(", ", "_").replace(" ", "_")),
        **proof.inputs.arms()[arm],
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


def group_scores(run: ProbeRun, *, is_made: bool = True) -> dict[str, float]:
    """Return the top-1 of all classes and, of made actions, of these and of the controls."""
    counts = run.result["per_class"]
    groups = {"all": counts}
    if is_made:
        groups |= {"actions": counts[: len(ACTIONS)], "controls": counts[len(ACTIONS) :]}
    return {
        name: 100 * sum(correct for correct, _ in rows) / sum(total for _, total in rows)
        for name, rows in groups.items()
    }


def clip_interval(
    runs: Sequence[ProbeRun], others: Sequence[ProbeRun] | None = None
) -> tuple[float, float, float]:
    """Return top-1 in percent, each clip scored by the mean of the seeds, and its 95 % interval.

    Args:
        runs: one of each seed.
        others: what to subtract clip by clip: then the change in points.
    """
    values: list[float] = []
    for video in runs[0].correct:
        value = mean(float(run.correct[video]) for run in runs)
        if others is not None:
            value -= mean(float(run.correct[video]) for run in others)
        values.append(value)
    half = 1.96 * stdev(values) / math.sqrt(len(values))
    middle = mean(values)
    return 100 * middle, 100 * (middle - half), 100 * (middle + half)


def verdict(runs: dict[str, list[ProbeRun]]) -> str:
    """Say whether the best codec selection reaches the goal against whole frames."""
    scores = {arm: clip_interval(own) for arm, own in runs.items()}
    best = max((PUBLISHED, RATE_DISTORTION), key=lambda arm: scores[arm][0])
    points = scores[best][0] - scores[FRAMES][0]
    is_apart = scores[best][1] > scores[FRAMES][2]
    word = "met" if is_apart and points >= GOAL_POINTS else "missed"
    return (
        f"Goal {word}: the best codec selection ({best}) is {points:+.1f} points from whole "
        f"frames, their intervals over clips are {'disjoint' if is_apart else 'not disjoint'}; "
        f"asked are {GOAL_POINTS:+.0f} points and disjoint intervals."
    )


def write_proof_page(proof: Proof, runs: dict[str, list[ProbeRun]]) -> str:
    """Write figures and page of all seeds; returns the verdict."""
    out, is_made = proof.out, proof.data is None
    figures = {
        arm: [group_scores(run, is_made=is_made) for run in own] for arm, own in runs.items()
    }
    says = verdict(runs)
    about = {
        **asdict(proof.sizes), **asdict(proof.inputs), "seeds": list(proof.seeds),
        "encoder": str(proof.encoder or ""), "data": str(proof.data or ""),
    }  # fmt: skip
    changes = {arm: clip_interval(own, runs[FRAMES]) for arm, own in runs.items()}
    clips = {arm: clip_interval(own) for arm, own in runs.items()}
    content = {
        "settings": about,
        "figures": figures,
        "over_clips": clips,
        "against_frames": changes,
    }
    write_json(out / "figures.json", {**content, "verdict": says})
    groups = {"all": "all %", "actions": "actions %", "controls": "appearance controls %"}
    groups = {name: text for name, text in groups.items() if name in figures[FRAMES][0]}
    rows: list[list[str]] = []
    for arm, scores in figures.items():
        cells = [arm, f"{runs[arm][0].result['cost']['tokens_per_clip']:.0f}"]
        for group in groups:
            middle, low, high = interval([score[group] for score in scores])
            cells.append(_with_interval(middle, max(low, 0.0), min(high, 100.0)))
        _, low, high = clips[arm]
        cells += [f"{low:.1f} to {high:.1f}"]
        cells += ["" if arm == FRAMES else _with_interval(*changes[arm], sign="+")]
        rows.append(cells)
    last = ("interval over clips", "against frames, points")
    header = ("input", "tokens", *groups.values(), *last)
    chance = 100 / runs[FRAMES][0].result["data"]["num_classes"]
    origin = "pretrained on other pictures and clips, without these labels"
    several = len(proof.seeds) > 1
    spread = (
        "; in brackets the 95 % interval of Student's distribution over them" if several else ""
    )
    note = (
        f"<p>{len(proof.seeds)} seed{'s' if several else ''}{spread}. The interval over clips "
        "takes each clip's mean of the seeds, the last column its change. Chance is "
        f"{chance:.1f} %. The encoder was "
        f"{'given' if proof.encoder else origin}. Below: the first seed.</p>"
    )
    lines = [header, ["---"] * len(header), *rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    write_text(out / "table.md", f"{text}\n{says}\n")
    table_of_all = table(header, rows, set(range(1, len(header))))
    summary = f"<h2>Inputs at equal tokens</h2>{table_of_all}<p>{says}</p>{note}"
    first = [own[0]._replace(name=arm.replace(",", "")) for arm, own in runs.items()]
    start, found, rest = probe_page(first).partition("</h1>\n")
    write_text(out / "report.html", f"{start}{found}{summary}{rest}")
    return says


def _with_interval(middle: float, low: float, high: float, sign: str = "") -> str:
    text = f"{middle:{sign}.1f}"
    return text if math.isnan(low + high) else f"{text} ({low:{sign}.1f} to {high:{sign}.1f})"


def run_proof(proof: Proof) -> str:
    """Make the clips, pretrain or take the encoder, and probe every input with every seed.

    Returns:
        The verdict.

    Raises:
        RuntimeError: if a probe fails.
    """
    sizes = proof.sizes
    if proof.data is None and not (proof.clips / "classes.txt").is_file():
        say(f"drawing {sizes.train + sizes.val} clips")
        write_actions(
            proof.clips, train=sizes.train, val=sizes.val, size_px=SIZE_PX,
            num_frames=VIDEO_FRAMES,
        )  # fmt: skip
    runs: dict[str, list[ProbeRun]] = {arm: [] for arm in proof.inputs.arms()}
    for seed in proof.seeds:
        weights = proof.encoder or pretrained(
            proof.pretraining or proof.out / "pretraining", sizes, seed
        )
        for arm, own in runs.items():
            settings = _settings(proof, seed, weights, arm)
            folder = Path(settings["output_dir"])
            if not (folder / "probe.json").is_file() and probe(_flags(settings)):
                raise RuntimeError(f"the probe of {arm} with seed {seed} failed")
            own.append(read_result(folder))
    return write_proof_page(proof, runs)


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
    given = vars(parser.parse_args(argv))
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
            says = run_proof(proof)
        except KeyboardInterrupt:
            return INTERRUPTED
    say(says)
    say(f"the page is {proof.out / 'report.html'}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
