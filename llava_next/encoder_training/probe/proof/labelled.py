"""Train an encoder on the labels of a data set of videos, by whole frames and codec patches.

An encoder that has never seen what a data set shows says little about its inputs. This one sees the
training clips in equal parts as a few whole frames and as codec patches by rate and distortion, as
many tokens, and no clip to score. Pictures are smaller than those that are probed, patches are not:
so it sees more clips in the same time. Every step is left out where its result exists.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cv_reader import open_video
from encoder_training.pretrain.data.write import main as write
from encoder_training.probe.datasets import read_clips
from encoder_training.probe.proof.plan import Proof
from run_kit.exits import say
from run_kit.files import write_text


def _sizes(proof: Proof) -> dict[str, int]:
    """Return the flags of patches, slots and frames.

    Patches are those with which the probe leaves the videos their size.
    """
    clips = read_clips(proof.clips / "train_new.csv", proof.clips)
    with open_video(clips.file(0), num_threads=1) as video:
        longer_px = max(video.index.width_px, video.index.height_px)
    return {
        "patch_size": max(longer_px // proof.inputs.grid, 1),
        "clip_frames": proof.inputs.slots,
        "num_frames": proof.sizes.label_frames,
    }


def _size_px(proof: Proof, sizes: Mapping[str, int]) -> int:
    return sizes["patch_size"] * (proof.inputs.grid // proof.sizes.label_shrink)


def _words(flags: Mapping[str, Any]) -> list[str]:
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def write_labelled_set(proof: Proof) -> None:
    """Write the training clips with their labels as a set, which all seeds share.

    Raises:
        RuntimeError: if a clip cannot be read.
    """
    folder = proof.out / "labelled"
    if (folder / "set" / "set.json").is_file():
        return
    clips = read_clips(proof.clips / "train_new.csv", proof.clips)
    lines = [
        json.dumps({
            "video": str(clips.file(number).resolve()),
            "key": f"{number:08d}",
            "labels": list(clip.labels),
        })
        for number, clip in enumerate(clips.clips)
    ]  # fmt: skip
    write_text(folder / "train.jsonl", "".join(f"{line}\n" for line in lines))
    sizes = _sizes(proof)
    flags = {
        "num_centres": 1 + max(max(clip.labels) for clip in clips.clips), "bank": "labels",
        "kind": "video", "short_videos": "repeat",
        "select": "rate_distortion", "size_px": _size_px(proof, sizes), **sizes,
    }  # fmt: skip
    if write([str(folder / "train.jsonl"), str(folder / "set"), "--codec", *_words(flags)]):
        raise RuntimeError(f"the set {folder / 'set'} could not be written")


def train_on_labels(proof: Proof, seed: int) -> Path:
    """Train the encoder of a seed; return its folder.

    Raises:
        RuntimeError: if training fails.
    """
    folder = proof.out / f"seed-{seed}" / "encoder"
    if (folder / "final" / "config.json").exists():
        return folder / "final"
    sizes = _sizes(proof)
    size_px = _size_px(proof, sizes)
    flags = {
        "output_dir": folder, "size": "tiny", "video_set": proof.out / "labelled" / "set",
        "image_px": size_px, "video_px": size_px, "short_videos": "repeat",
        "video_batch": proof.sizes.label_batch, "max_steps": proof.sizes.label_steps,
        "residual_ratio": 0.5, "frame_sampling_ratio": 0.5, "labels_per_step": 1,
        "scale": 16, "margin": 0, "sample_rate": 1, "learning_rate": 1e-3, "seed": seed,
        "num_workers": 1, "use_cpu": True, "bf16": False, "save_steps": 0, "logging_steps": 10,
        **sizes,
    }  # fmt: skip
    command = [sys.executable, "-m", "encoder_training.pretrain.train", *_words(flags)]
    say(" ".join(command[2:]))
    result = subprocess.run(command, check=False)
    if result.returncode:
        raise RuntimeError(f"training ended with exit code {result.returncode}")
    return folder / "final"
