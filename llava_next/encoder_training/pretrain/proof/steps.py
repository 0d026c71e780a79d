"""The steps of the proof: data, bank and labels, two stages of training, judgement.

Every step writes a folder or file and is left out where that exists, so that a proof that was
stopped continues.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoder_training.pretrain.concepts.__main__ import main as concepts
from encoder_training.pretrain.concepts.features import open_features
from encoder_training.pretrain.concepts.nearest import Floats
from encoder_training.pretrain.data.images import ImageView
from encoder_training.pretrain.data.made import MOTIONS, TRUTH, make_files
from encoder_training.pretrain.data.samples import normalise
from encoder_training.pretrain.data.shard_set import open_set
from encoder_training.pretrain.data.videos import VideoSplit, VideoView
from encoder_training.pretrain.data.write import main as write
from encoder_training.pretrain.model import PooledEncoder, build_encoder
from encoder_training.pretrain.proof.measures import (
    Numbers,
    cluster_information,
    neighbour_accuracy,
    reversal_accuracy,
)
from run_kit.exits import say
from run_kit.files import read_json_lines, write_json, write_json_lines

PATCH_PX, SIZE_PX = 16, 48
VIDEO_FRAMES, CLIP_FRAMES, NUM_FRAMES = 16, 8, 4
COMPONENTS = {"images": 24, "clips": 16}
"""Principal directions of the features that are clustered."""


@dataclass(frozen=True, kw_only=True)
class ProofSettings:
    """Sizes of the proof; the defaults are those of the figures in the documentation.

    Attributes:
        images, clips: made for training.
        judged_images, judged_clips: others, made to judge by.
        image_centres, video_centres: sizes of the banks.
        labels: nearest centres that are labels.
        stage1_steps, stage2_steps: of training.
        image_batch, video_batch: samples of a step.
        embedding_steps: steps between the pictures of the embeddings.
    """

    images: int = 6000
    clips: int = 1440
    judged_images: int = 960
    judged_clips: int = 480
    image_centres: int = 320
    video_centres: int = 160
    labels: int = 2
    stage1_steps: int = 1000
    stage2_steps: int = 800
    image_batch: int = 64
    video_batch: int = 32
    embedding_steps: int = 40


def make_data(out: Path, settings: ProofSettings) -> None:
    """Make the data, their features and the sets to judge by."""
    kinds = (("train", settings.images, settings.clips, 0),)
    kinds += (("judged", settings.judged_images, settings.judged_clips, 1),)
    for name, images, clips, seed in kinds:
        if not (out / name / TRUTH).exists():
            say(f"making {images} images and {clips} clips")
            make_files(
                out / name,
                images=images,
                clips=clips,
                size_px=SIZE_PX,
                clip_frames=VIDEO_FRAMES,
                seed=seed,
            )
        for kind in ("images", "clips"):
            _run(concepts, ["features", str(out / name / kind), str(out / f"{name}-{kind}")])


def _run(command: Any, arguments: Sequence[str]) -> None:
    if command(list(arguments)):
        raise RuntimeError(f"{' '.join(arguments)} failed")


def label_sets(out: Path, seed: int, settings: ProofSettings) -> Path:
    """Cluster, label and write the sets of one seed; return its folder."""
    folder = out / f"seed-{seed}"
    for kind, centres in (("images", settings.image_centres), ("clips", settings.video_centres)):
        features, bank = str(out / f"train-{kind}"), folder / f"bank-{kind}"
        labels, sets = folder / f"labels-{kind}", folder / f"set-{kind}"
        if not (bank / "bank.json").exists():
            options = ["--centres", str(centres), "--iterations", "15", "--seed", str(seed)]
            options += ["--components", str(COMPONENTS[kind]), "--whiten"]
            _run(concepts, ["cluster", features, str(bank), *options])
        if not (sets / "set.json").exists():
            count = ["--count", str(settings.labels)]
            _run(concepts, ["label", features, str(bank), str(labels), *count])
            options, source = ["--labels", str(labels)], out / "train" / kind
            if kind == "clips":
                # Codec patches are selected once for all seeds.
                options += ["--kind", "video", *_sizes()]
                source = unlabelled_set(out, "train", kind)
            _run(write, [str(source), str(sets), *options])
    return folder


def train_stages(folder: Path, seed: int, settings: ProofSettings, *, pictures: bool) -> None:
    """Train stage 1 on images, and from there stage 2 on images and videos.

    Args:
        folder: folder of the seed.
        seed: seed of weights, order and augmentation.
        settings: sizes.
        pictures: whether stage 1 embeds samples for the animation.
    """
    common = {
        "size": "tiny",
        "patch_size": PATCH_PX,
        "image_px": SIZE_PX,
        "video_px": SIZE_PX,
        "clip_frames": CLIP_FRAMES,
        "num_frames": NUM_FRAMES,
        "labels_per_step": 1,
        # The published scale of 64 and margin of 0.3 need more steps than this before they learn.
        "scale": 16.0,
        "margin": 0.0,
        "num_workers": 1,
        "sample_rate": 1.0,
        "seed": seed,
        "use_cpu": True,
        "bf16": False,
        "save_steps": 0,
        "image_set": str(folder / "set-images"),
    }
    first = {
        "output_dir": str(folder / "stage1"),
        "image_batch": settings.image_batch,
        "max_steps": settings.stage1_steps,
        "learning_rate": 2e-3,
        "embedding_steps": settings.embedding_steps if pictures else 0,
        "logging_steps": 10,
    }
    second = {
        "output_dir": str(folder / "stage2"),
        "init": str(folder / "stage1" / "final"),
        "video_set": str(folder / "set-clips"),
        "image_batch": settings.image_batch // 4,
        "video_batch": settings.video_batch,
        "residual_ratio": 0.5,
        "frame_sampling_ratio": 0.5,
        "max_steps": settings.stage2_steps,
        "learning_rate": 2e-3,
    }
    for stage in (first, second):
        if (Path(stage["output_dir"]) / "final" / "config.json").exists():
            continue
        flags = [text for k, v in {**common, **stage}.items() for text in (f"--{k}", str(v))]
        command = [sys.executable, "-m", "encoder_training.pretrain.train", *flags]
        say(" ".join(command[2:]))
        result = subprocess.run(command, check=False)
        if result.returncode:
            raise RuntimeError(f"training ended with exit code {result.returncode}")


ENCODERS = {"random weights": "", "stage 1": "stage1/final", "stage 2": "stage2/final"}
"""What is judged, and where its encoder is below the folder of a seed."""


def judge(out: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Judge pixels, the bank's own features, random weights and both stages.

    Returns:
        By kind and by what is judged: its figures.
    """
    figures: dict[str, Any] = {"images": {}, "clips": {}}
    for name in ("raw pixels", "features of the bank", *ENCODERS):
        path = folder / "figures" / f"{name.replace(' ', '_')}.json"
        if not path.exists():
            write_json(path, judge_one(out, folder, seed, name))
        for kind, rows in json.loads(path.read_text(encoding="utf-8")).items():
            figures[kind] |= rows
    return figures


def judge_one(out: Path, folder: Path, seed: int, name: str) -> dict[str, Any]:
    """Return the figures of one thing that is judged, by kind and input."""
    truth = {row["kind"] + row["key"]: row for row in read_json_lines(out / "judged" / TRUTH)}

    def images(keys: Sequence[str], features: Floats) -> dict[str, float]:
        return image_figures(features, [truth[f"image{key}"] for key in keys], seed)

    def clips(keys: Sequence[str], features: Floats) -> dict[str, float]:
        return clip_figures(features, [truth[f"video{key}"] for key in keys], seed)

    if name == "raw pixels":
        return {
            "images": {name: images(*raw_pixels(out))},
            "clips": {f"{name}, frames": clips(*raw_frames(out))},
        }
    if name not in ENCODERS:
        return {
            "images": {name: images(*_stored(out / "judged-images"))},
            "clips": {name: clips(*_stored(out / "judged-clips"))},
        }
    torch.manual_seed(seed)
    init = str(folder / ENCODERS[name]) if ENCODERS[name] else ""
    model = PooledEncoder(build_encoder("tiny", patch_size=PATCH_PX, image_px=SIZE_PX, init=init))
    modes = ("frames", "codec") if name == "stage 2" else ("frames",)
    return {
        "images": {name: images(*embed(model, out, "images"))},
        "clips": {f"{name}, {mode}": clips(*embed(model, out, "clips", mode)) for mode in modes},
    }


def _stored(path: Path) -> tuple[list[str], Floats]:
    features = open_features(path)
    keys = [key for part in features.keys for key in part]
    return keys, np.concatenate(features.parts).astype(np.float32)


def unlabelled_set(out: Path, name: str, kind: str) -> Path:
    """Return a set of made data without a bank, written on first use; codec patches included.

    Args:
        out: folder of the proof.
        name: ``train`` or ``judged``.
        kind: ``images`` or ``clips``.
    """
    folder = out / f"{name}-set-{kind}"
    if (folder / "set.json").exists():
        return folder
    word, suffix = ("image", "jpg") if kind == "images" else ("video", "mp4")
    lines = [
        {word: f"{name}/{kind}/{row['key']}.{suffix}", "key": row["key"], "labels": [0]}
        for row in read_json_lines(out / name / TRUTH)
        if row["kind"] == word
    ]
    listing = out / f"{name}-{kind}.jsonl"
    write_json_lines(listing, lines)
    options = ["--num_centres", "1", "--bank", "none", "--kind", word, "--codec", *_sizes()]
    _run(write, [str(listing), str(folder), *options])
    return folder


def _sizes() -> list[str]:
    sizes = {
        "patch_size": PATCH_PX,
        "size_px": SIZE_PX,
        "clip_frames": CLIP_FRAMES,
        "num_frames": NUM_FRAMES,
    }
    return [text for key, value in sizes.items() for text in (f"--{key}", str(value))]


@torch.inference_mode()
def embed(
    model: PooledEncoder, out: Path, kind: str, mode: str = "frames"
) -> tuple[list[str], Floats]:
    """Return keys and features (N, D) of the samples to judge by.

    Args:
        model: the encoder.
        out: folder of the proof.
        kind: ``images`` or ``clips``.
        mode: input made of clips: evenly spaced whole ``frames``, or ``codec`` patches, as many.
    """
    view: ImageView | VideoView
    if kind == "images":
        view = ImageView(patch_size=PATCH_PX, size_px=SIZE_PX, augment=False)
    else:
        view = _clip_view(mode)
    data = open_set(
        unlabelled_set(out, "judged", kind), view=view, batch_size=48, shuffle=False, num_epochs=1
    )
    model.eval()
    keys: list[str] = []
    features: list[Floats] = []
    for batch in data.batches():
        patches = normalise(batch.patches, PATCH_PX)
        features.append(model(patches, batch.positions, batch.cu_seqlens).numpy())
        keys += batch.keys
    return keys, np.concatenate(features)


def _clip_view(mode: str) -> VideoView:
    return VideoView(
        patch_size=PATCH_PX,
        size_px=SIZE_PX,
        clip_frames=CLIP_FRAMES,
        num_frames=NUM_FRAMES,
        split=VideoSplit(1, 0) if mode == "codec" else VideoSplit(0, 1),
        jitter=False,
    )


def raw_frames(out: Path) -> tuple[list[str], Floats]:
    """Return keys and pixels (N, D) of every second row and column of clips' frames."""
    path = unlabelled_set(out, "judged", "clips")
    data = open_set(path, view=_clip_view("frames"), batch_size=48, shuffle=False, num_epochs=1)
    batches = list(data.batches())
    pixels = np.concatenate([batch.patches.numpy() for batch in batches])
    pixels = pixels.reshape(-1, 3, PATCH_PX, PATCH_PX)[:, :, ::2, ::2].astype(np.float32)
    keys = [key for batch in batches for key in batch.keys]
    return keys, pixels.reshape(len(keys), -1)


def raw_pixels(out: Path) -> tuple[list[str], Floats]:
    """Return keys and pixels (N, 3 * 24 * 24) of the images to judge by, at half their size."""
    half = SIZE_PX // 2
    view = ImageView(patch_size=half, size_px=half, augment=False)
    path = unlabelled_set(out, "judged", "images")
    data = open_set(path, view=view, batch_size=64, shuffle=False, num_epochs=1)
    batches = list(data.batches())
    pixels = np.concatenate([batch.patches.numpy() for batch in batches]).astype(np.float32)
    return [key for batch in batches for key in batch.keys], pixels


def _numbers(rows: Sequence[dict[str, Any]], name: str) -> Numbers:
    values = [row[name] for row in rows]
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def image_figures(features: Floats, truth: Sequence[dict[str, Any]], seed: int) -> dict[str, float]:
    """Return the figures of images: by concept, and by each part of it."""
    concept = _numbers(truth, "concept")
    found = {"k-NN concept": neighbour_accuracy(features, concept)}
    found["NMI concept"] = cluster_information(features, concept, seed)
    for name in ("shape", "texture", "hue"):
        found[f"k-NN {name}"] = neighbour_accuracy(features, _numbers(truth, name))
    return found


def clip_figures(features: Floats, truth: Sequence[dict[str, Any]], seed: int) -> dict[str, float]:
    """Return the figures of clips: by concept, motion, and motion against its reversal."""
    concept, motion = _numbers(truth, "concept"), np.array([row["motion"] for row in truth])
    assert motion.max() < len(MOTIONS)
    looks = np.array([row["look"] for row in truth])
    return {
        "k-NN concept": neighbour_accuracy(features, concept),
        "NMI concept": cluster_information(features, concept, seed),
        "k-NN motion": neighbour_accuracy(features, motion),
        "reversal": reversal_accuracy(features, looks, motion),
    }
