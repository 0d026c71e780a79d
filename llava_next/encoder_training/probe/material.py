"""What a run works with: lists, labels, encoder and input, read and checked before it starts."""

import hashlib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from encoder_training.probe.clips import ClipInput, check_index
from encoder_training.probe.datasets import (
    ClipList,
    DataSet,
    check_label_order,
    data_folder,
    number_of_classes,
    read_clips,
)
from encoder_training.probe.encoders import FrozenEncoder, load_encoder
from encoder_training.probe.settings import ProbeSettings
from run_kit.exits import say
from run_kit.ranks import rank_and_size


class Material(NamedTuple):
    """What a run works with, before any clip is read."""

    train: ClipList
    val: ClipList
    classes: list[str]
    num_classes: int
    encoder: FrozenEncoder
    how: ClipInput


def say_once(text: str) -> None:
    """Print a line for people on the first rank."""
    if rank_and_size()[0] == 0:
        say(text)


def read_material(settings: ProbeSettings, device: torch.device) -> Material:
    """Read lists, labels and encoder, and check that they fit.

    Raises:
        ValueError: naming the flag or the file, its rule and its value.
    """
    data_set = settings.data_set()
    kind, _ = settings.kind_and_count()
    folder = data_folder(data_set, Path(settings.data_root), is_codec=kind == "codec")
    root = Path(settings.video_root or folder)
    train = read_clips(Path(settings.train_list or folder / data_set.train_list), root)
    val = read_clips(Path(settings.val_list or folder / data_set.val_list), root)
    count = number_of_classes(data_set, [train, val], settings.num_classes)
    classes: list[str] = []
    if settings.class_names:
        classes = Path(settings.class_names).read_text(encoding="utf-8").splitlines()
        if len(classes) != count:
            raise ValueError(
                f"--class_names {settings.class_names} must have {count} lines, got {len(classes)}"
            )
    _check_clips(data_set, train, val)
    order = check_label_order(train, val, classes)
    for line in order.lines:
        say_once(line)
    if order.is_contrary:
        raise ValueError(
            f"{train.path} and {val.path} number their classes differently; see the lines above"
        )
    encoder = load_encoder(
        settings.model_weight,
        dtype=torch.bfloat16 if settings.bf16 else torch.float32,
        device=device,
        attn_implementation=settings.attn_implementation,
        size_px=settings.input_size,
        keeps_cls=settings.cls_token == "keep",
    )
    index = settings.index_file()
    how = settings.clip_input(encoder, str(index or ""))
    if index is not None:
        how = _with_index(settings, index, how, train, val)
    return Material(train, val, classes, count, encoder, how)


def _check_clips(data_set: DataSet, train: ClipList, val: ClipList) -> None:
    """Refuse several labels where one is allowed, and clips that are in both lists."""
    if not data_set.has_several_labels:
        for clip in (*train.clips, *val.clips):
            if len(clip.labels) > 1:
                raise ValueError(f"{clip.where}: a clip of {data_set.title} must have one label")
    common = {clip.video for clip in train.clips} & {clip.video for clip in val.clips}
    if common:
        raise ValueError(
            f"{val.path}: {len(common)} clips are in {train.path}, too, such as {min(common)}; a "
            "clip that is trained on must not be scored"
        )


def _with_index(
    settings: ProbeSettings, index: Path, how: ClipInput, train: ClipList, val: ClipList
) -> ClipInput:
    """Return the input with the selection of an index that has all clips of the run."""
    config = how.config
    assert config is not None
    flags = ["--square_size", str(config.square_size), "--patch_size", str(config.patch_size)]
    flags += config.to_flags(("square_size", "patch_size", "num_images"))
    words = ["--out", str(index), "--video_root", str(train.root), "--K_keep", str(how.count)]
    command = (
        f"cat {shlex.join([str(train.path), str(val.path)])} > all.csv && "
        f"cv_reader index --dataset_path all.csv {shlex.join([*words, *flags])}"
    )
    if not index.is_file():
        raise ValueError(f"--cache_dir: {index} does not exist; make it with\n  {command}")
    videos = [clip.video for part in (train, val) for clip in part.clips]
    found = check_index(
        str(index), videos, train.root, how, command, is_selection_given=bool(settings.selection)
    )
    return replace(how, config=found)


def label_table(part: ClipList, num_classes: int) -> Tensor:
    """Return the labels of a list, bool (clips, C)."""
    table = torch.zeros(len(part.clips), num_classes, dtype=torch.bool)
    for row, clip in enumerate(part.clips):
        table[row, list(clip.labels)] = True
    return table


def list_row(part: ClipList) -> dict[str, Any]:
    """Return what a result says of a list."""
    lines = "\n".join(f"{clip.video} {clip.labels}" for clip in part.clips)
    return {
        "list": part.path.name,
        "dialect": part.dialect,
        "num_clips": len(part.clips),
        "fingerprint": hashlib.sha256(lines.encode()).hexdigest(),
    }
