"""Run the parts of the proof side by side: pretraining and probes, one process a core.

The parts are functions of this module, not of ``__main__``, which other processes cannot import.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from encoder_training.pretrain.proof.steps import (
    SIZE_PX,
    VIDEO_FRAMES,
    label_sets,
    make_data,
    train_stages,
    unlabelled_set,
)
from encoder_training.pretrain.proof.steps import ProofSettings as PretrainingSizes
from encoder_training.probe.__main__ import main as probe
from encoder_training.probe.proof.actions import write_actions
from encoder_training.probe.proof.comparison import write_proof_page
from encoder_training.probe.proof.plan import RANDOM, Proof, ProofSizes
from encoder_training.probe.report import RESULT_FILE, ProbeRun, read_result
from run_kit.exits import say


def _inputs(proof: Proof) -> Path:
    """Return the folder of what encoders get of the clips, which is removed in the end."""
    return proof.out / "inputs"


def _settings(proof: Proof, seed: int, encoder: Path, arm: str) -> dict[str, Any]:
    clips, names = proof.clips, proof.clips / "classes.txt"
    # Places of random patches differ between the seeds; all else is read for the first of them.
    is_shared = len(proof.seeds) > 1 and arm != RANDOM
    return {
        "dataset": "custom", "train_list": str(clips / "train_new.csv"),
        "val_list": str(clips / "val_new.csv"), "video_root": str(clips),
        **({"class_names": str(names)} if names.is_file() else {}),
        "model_weight": str(encoder), **({"input_dir": str(_inputs(proof))} if is_shared else {}),
        "frames_token_num": proof.inputs.frame_tokens, "use_cpu": True, "bf16": False,
        "num_workers": 0, "scale_time": True, "default_lr_list": [3e-4, 1e-3, 3e-3],
        "default_weight_decay": [0.0, 0.1], "default_epoch": proof.sizes.epochs, "batch_size": 32,
        "encode_batch": 16, "seed": seed,
        "output_dir": str(proof.out / f"seed-{seed}" / arm.replace(", ", "_").replace(" ", "_")),
        **proof.inputs.arms()[arm],
    }  # fmt: skip


def _pretraining(sizes: ProofSizes) -> PretrainingSizes:
    usual = PretrainingSizes()
    return replace(
        usual, images=sizes.images, clips=sizes.clips, judged_images=24, judged_clips=8,
        stage1_steps=sizes.stage1_steps, stage2_steps=sizes.stage2_steps,
        image_centres=min(usual.image_centres, sizes.images // 4),
        video_centres=min(usual.video_centres, sizes.clips // 4),
    )  # fmt: skip


def make_shared(proof: Proof) -> None:
    """Make what all seeds share: the clips of the actions, and the data of pretraining."""
    sizes = proof.sizes
    if proof.data is None and not (proof.clips / "classes.txt").is_file():
        say(f"drawing {sizes.train + sizes.val} clips")
        partial = proof.clips.with_name("clips.partial")
        shutil.rmtree(partial, ignore_errors=True)
        write_actions(
            partial, train=sizes.train, val=sizes.val, size_px=SIZE_PX, num_frames=VIDEO_FRAMES
        )
        partial.rename(proof.clips)
    if proof.encoder is None:
        make_data(proof.pretraining_folder, _pretraining(sizes))
        # Seeds that pretrain side by side would write it at the same time.
        unlabelled_set(proof.pretraining_folder, "train", "clips")


def pretrain_encoder(proof: Proof, seed: int) -> Path:
    """Pretrain the encoder of a seed as the proof of pretraining does."""
    out, settings = proof.pretraining_folder, _pretraining(proof.sizes)
    encoder = out / f"seed-{seed}" / "stage2" / "final"
    if not (encoder / "config.json").exists():
        with _output_to(proof.out / f"seed-{seed}" / "pretraining.log"):
            train_stages(label_sets(out, seed, settings), seed, settings, pictures=False)
    return encoder


def probe_input(proof: Proof, seed: int, encoder: Path, arm: str) -> ProbeRun:
    """Probe an input, unless that is done, and return the result.

    Raises:
        RuntimeError: if the probe fails.
    """
    settings = _settings(proof, seed, encoder, arm)
    folder = Path(settings["output_dir"])
    if not (folder / RESULT_FILE).is_file():
        log = folder / "probe.log"
        with _output_to(log):
            code = probe(_flags(settings))
        if code:
            raise RuntimeError(f"the probe of {arm} with seed {seed} ended with {code}; see {log}")
    return read_result(folder)


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Append to a file what this process and those that it starts print meanwhile."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    try:
        with log.open("a", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)


def _use_one_thread() -> None:
    """Give this process, and those that it starts, one thread for its sums."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def run_proof(proof: Proof, num_workers: int) -> str:
    """Make the clips, pretrain or take the encoders, and probe every input with every seed.

    Args:
        proof: what is compared.
        num_workers: processes that pretrain and probe side by side, one thread each. Results do
            not depend on their number.

    Returns:
        The verdict.

    Raises:
        RuntimeError: if a probe fails.
    """
    # Small sums are slower on many threads, and far slower where others use the cores.
    _use_one_thread()
    make_shared(proof)
    arms = list(proof.inputs.arms())
    found: dict[tuple[str, int], ProbeRun] = {}
    context = get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, initializer=_use_one_thread) as pool:
        try:
            encoders = {
                pool.submit(pretrain_encoder, proof, seed): seed
                for seed in proof.seeds
                if proof.encoder is None
            }
            ready = [(seed, proof.encoder) for seed in proof.seeds if proof.encoder is not None]
            ready_later = ((encoders[done], done.result()) for done in as_completed(encoders))
            probes = {
                pool.submit(probe_input, proof, seed, encoder, arm): (arm, seed)
                for seed, encoder in (*ready, *ready_later)
                for arm in arms
            }
            for done in as_completed(probes):
                arm, seed = probes[done]
                found[arm, seed] = done.result()
                score = found[arm, seed].result["score"]["top1"]
                say(f"{len(found)} of {len(probes)}: {arm}, seed {seed}: {score:.2f} %")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    shutil.rmtree(_inputs(proof), ignore_errors=True)
    return write_proof_page(
        proof, {arm: [found[arm, seed] for seed in proof.seeds] for arm in arms}
    )


def _flags(settings: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in settings.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words
