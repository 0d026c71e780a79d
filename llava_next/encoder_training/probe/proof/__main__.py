"""Compare inputs of equal size on made actions, by probes of one frozen encoder.

    python -m encoder_training.probe.proof OUT [--quick] [--seeds 0 1 2] [--encoder DIR]

Clips of 16 actions are drawn (``encoder_training.probe.proof.actions``); an encoder is trained on
them end to end with all inputs mixed, or given with ``--encoder``; then it is frozen, and probed
with each input: whole frames, codec patches by the published formula, by rate and distortion, and
patches of random places. ``OUT/report.html`` has the table of all seeds and the page of the first,
``OUT/figures.json`` the figures. A proof that was stopped continues after its last finished part.

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

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoder_training.pretrain.model import PooledEncoder, build_encoder
from encoder_training.probe.__main__ import main as probe
from encoder_training.probe.clips import ClipView, read_view
from encoder_training.probe.datasets import ClipList, read_clips
from encoder_training.probe.encoders import OneVisionProbeEncoder, load_encoder
from encoder_training.probe.proof.actions import ACTIONS, CLASSES, write_actions
from encoder_training.probe.report import ProbeRun, probe_page, read_result
from encoder_training.probe.settings import ProbeSettings
from run_kit.exits import FAILED_SAMPLES, INTERRUPTED, OK, ExitOnError, say
from run_kit.files import write_json, write_text
from run_kit.pages.page import table

PATCH_PX = 8
_T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""Factor of a 95 % interval of a mean of so many seeds, by Student's distribution."""


@dataclass(frozen=True, kw_only=True)
class ProofSizes:
    """Sizes of the proof.

    Attributes:
        train, val: clips to train on and to score.
        size_px: side of a clip.
        clip_frames: frames of a clip, and slots of codec input.
        num_frames: whole frames of the input of frames; patches have as many tokens.
        steps, batch: of training the encoder.
        epochs: of the probes.
    """

    train: int = 2800
    val: int = 960
    size_px: int = 48
    clip_frames: int = 64
    num_frames: int = 8
    steps: int = 1500
    batch: int = 32
    epochs: int = 12

    @property
    def tokens(self) -> int:
        """Return the tokens of every input."""
        return self.num_frames * (self.size_px // PATCH_PX) ** 2


QUICK = ProofSizes(
    train=640, val=320, size_px=32, clip_frames=32, num_frames=4, steps=450, batch=32, epochs=8
)


def arms(sizes: ProofSizes) -> dict[str, dict[str, Any]]:
    """Return the settings of each input, by its name."""
    codec = {"input": f"codec:{sizes.tokens}", "num_frames": sizes.clip_frames}
    return {
        "frames": {"input": f"frames:{sizes.num_frames}"},
        "codec, published": codec,
        "codec, rate-distortion": codec | {"selection": ["select=rate_distortion"]},
        "random patches": codec | {"input": f"random:{sizes.tokens}"},
    }


def _settings(out: Path, sizes: ProofSizes, seed: int, encoder: Path, arm: str) -> dict[str, Any]:
    clips = out / "clips"
    return {
        "dataset": "custom", "train_list": str(clips / "train_new.csv"),
        "val_list": str(clips / "val_new.csv"), "video_root": str(clips),
        "class_names": str(clips / "classes.txt"), "model_weight": str(encoder),
        "frames_token_num": (sizes.size_px // PATCH_PX) ** 2, "use_cpu": True, "bf16": False,
        "num_workers": 0, "default_lr_list": [3e-4, 1e-3, 3e-3],
        "default_weight_decay": [0.0, 0.1], "default_epoch": sizes.epochs, "batch_size": 32,
        "encode_batch": 16, "seed": seed,
        "output_dir": str(out / f"seed-{seed}" / arm.replace(", ", "_").replace(" ", "_")),
        **arms(sizes)[arm],
    }  # fmt: skip


def train_encoder(out: Path, sizes: ProofSizes, seed: int) -> Path:
    """Train an encoder on the actions, each clip of a step by one of the inputs in turn."""
    folder = out / f"seed-{seed}" / "encoder"
    if (folder / "config.json").is_file():
        return folder
    torch.manual_seed(seed)
    start = folder.with_name("untrained")
    build_encoder("tiny", patch_size=PATCH_PX, image_px=sizes.size_px).save_pretrained(start)
    wrapped = load_encoder(str(start), dtype=torch.float32, device=torch.device("cpu"))
    assert isinstance(wrapped, OneVisionProbeEncoder)
    encoder = wrapped.model
    model, classify = PooledEncoder(encoder), nn.Linear(wrapped.width, len(CLASSES))
    clips = read_clips(out / "clips" / "train_new.csv", out / "clips")
    labels = torch.tensor([clip.labels[0] for clip in clips.clips])
    material = [
        _material(_settings(out, sizes, seed, start, arm), clips, wrapped) for arm in arms(sizes)
    ]
    encoder.requires_grad_(True).train()
    weights = [*model.parameters(), *classify.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, sizes.steps, pct_start=0.1)
    random = np.random.default_rng(seed)
    for step in range(1, sizes.steps + 1):
        chosen = random.integers(0, len(labels), sizes.batch)
        parts = [material[place % len(material)][index] for place, index in enumerate(chosen)]
        patches = wrapped.normalised(torch.cat([pixels for pixels, _ in parts]))
        positions = torch.cat([rows for _, rows in parts])
        bounds = torch.tensor([0] + [len(rows) for _, rows in parts]).cumsum(0).to(torch.int32)
        loss = F.cross_entropy(classify(model(patches, positions, bounds)), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            say(f"encoder of seed {seed}: step {step} of {sizes.steps}, loss {loss.item():.3f}")
    encoder.save_pretrained(folder)
    return folder


def _material(
    settings: dict[str, Any], clips: ClipList, encoder: OneVisionProbeEncoder
) -> list[tuple[Tensor, Tensor]]:
    """Return the patches and positions of each training clip by one input."""
    how = ProbeSettings(**settings).clip_input(encoder)
    return [
        encoder.patches(read_view(clips.file(index), clip.video, how, ClipView()))
        for index, clip in enumerate(clips.clips)
    ]


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
    note = (
        f"<p>Mean of {seeds} seeds, with the 95 % interval of Student's distribution where there "
        f"are several. Chance is {100 / len(CLASSES):.1f} %. The encoder was "
        f"{about['encoder'] or 'trained on the actions with all inputs mixed'}. Below: the "
        "first seed.</p>"
    )
    summary = f"<h2>Inputs at equal tokens</h2>{table(header, rows, {1, 2, 3, 4})}{note}"
    first = [own[0]._replace(name=arm) for arm, own in runs.items()]
    start, found, rest = probe_page(first).partition("</h1>\n")
    write_text(out / "report.html", f"{start}{found}{summary}{rest}")


def run_proof(out: Path, sizes: ProofSizes, seeds: Sequence[int], encoder: Path | None) -> None:
    """Make the clips, train or take the encoder, and probe every input with every seed.

    Raises:
        RuntimeError: if a probe fails.
    """
    if not (out / "clips" / "classes.txt").is_file():
        say(f"drawing {sizes.train + sizes.val} clips")
        write_actions(
            out / "clips", train=sizes.train, val=sizes.val, size_px=sizes.size_px,
            num_frames=sizes.clip_frames,
        )  # fmt: skip
    runs: dict[str, list[ProbeRun]] = {arm: [] for arm in arms(sizes)}
    for seed in seeds:
        weights = encoder or train_encoder(out, sizes, seed)
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
    given = vars(parser.parse_args(argv))
    out, seeds, is_quick = given.pop("out"), given.pop("seeds"), given.pop("quick")
    encoder: Path | None = given.pop("encoder")
    sizes = replace(
        QUICK if is_quick else ProofSizes(), **{k: v for k, v in given.items() if v is not None}
    )
    with ExitOnError(FAILED_SAMPLES):
        try:
            run_proof(out, sizes, seeds or ([0] if is_quick else [0, 1, 2]), encoder)
        except KeyboardInterrupt:
            return INTERRUPTED
    say(f"the page is {out / 'report.html'}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
