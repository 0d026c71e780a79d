"""Features of a source on disk, part by part: resumable, and divided among processes.

    features.json          settings, source, number of parts
    features-000000.npy    float16 (n, D); NaN for a bad sample
    keys-000000.json       {"keys": [n names], "bad": {name: what is wrong}}

A plain array file (N, D) serves as features, too; its keys are row numbers, or the lines of a file
``NAME.keys.txt`` next to it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder_training.pretrain.concepts.extractors import (
    Extractor,
    FeatureSettings,
    load_extractor,
)
from encoder_training.pretrain.data.labels import part_path, read_keys, save_array, write_keys
from encoder_training.pretrain.data.samples import BadSampleError
from encoder_training.pretrain.data.shard_set import OnBad
from encoder_training.pretrain.data.sources import SourceItem
from run_kit.files import write_json

FEATURES_FILE = "features.json"
_BATCH = 64


@dataclass(frozen=True)
class Features:
    """Features on disk.

    Attributes:
        parts: memory-mapped arrays (n, D).
        keys: names of the rows of each part.
        bad: bad samples, and what is wrong with each.
        settings: what made them.
    """

    parts: list[NDArray[np.floating]]
    keys: list[list[str]]
    bad: dict[str, str]
    settings: dict[str, Any]

    @property
    def width(self) -> int:
        """Return D."""
        return self.parts[0].shape[1]


def extract(
    items: Sequence[SourceItem],
    folder: Path,
    settings: FeatureSettings,
    *,
    rows_per_part: int = 8192,
    share: tuple[int, int] = (0, 1),
    device: str = "cpu",
    on_bad: OnBad = "stop",
) -> int:
    """Write the parts that are missing; return how many bad samples they have.

    Args:
        items: the source.
        folder: output; of the same settings and source where it exists.
        settings: settings of the extractor.
        rows_per_part: rows of a file.
        share: (i, n): write parts i, i + n, ... alone; another process writes the others.
        device: device of a model.
        on_bad: ``stop`` at the first bad sample, or ``skip`` them, which leaves NaN.

    Raises:
        ValueError: if the folder has other features, or the model cannot be loaded.
        BadSampleError: A sample is bad, and bad ones are not skipped.
    """
    num_parts = -(-len(items) // rows_per_part)
    facts = {
        "settings": asdict(settings),
        "num_items": len(items),
        "keys_sha256": sha256("\n".join(item.key for item in items).encode()).hexdigest(),
        "rows_per_part": rows_per_part,
        "num_parts": num_parts,
        "version": 1,
    }
    _claim(folder, facts)
    todo = [
        number
        for number in range(share[0], num_parts, share[1])
        if not part_path(folder, "features", number).exists()
    ]
    if not todo:
        return 0
    extractor = load_extractor(settings, device)
    num_bad = 0
    for number in todo:
        chosen = items[number * rows_per_part : (number + 1) * rows_per_part]
        rows, bad = _extract_part(chosen, extractor, on_bad)
        write_keys(folder, number, [item.key for item in chosen], bad)
        save_array(part_path(folder, "features", number), rows.astype(np.float16))
        num_bad += len(bad)
    return num_bad


def _claim(folder: Path, facts: dict[str, Any]) -> None:
    path = folder / FEATURES_FILE
    if not path.exists():
        write_json(path, facts)
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    for name, value in facts.items():
        if stored.get(name) != value:
            raise ValueError(
                f"{folder} holds features with {name} {stored.get(name)!r}, got {value!r}; "
                "write to another folder"
            )


def _extract_part(
    items: Sequence[SourceItem], extractor: Extractor, on_bad: OnBad
) -> tuple[NDArray[np.float32], dict[str, str]]:
    bad: dict[str, str] = {}

    def report(item: SourceItem, error: BadSampleError) -> None:
        if on_bad == "stop":
            raise error
        bad[item.key] = str(error)

    blocks = [
        extractor(items[start : start + _BATCH], report) for start in range(0, len(items), _BATCH)
    ]
    width = max(block.shape[1] for block in blocks)
    if not width:
        raise ValueError(f"no sample from {items[0].place} to {items[-1].place} can be read")
    empty = [np.full((len(block), width), np.nan, np.float32) for block in blocks]
    pairs = zip(blocks, empty, strict=True)
    return np.concatenate([block if block.shape[1] else nan for block, nan in pairs]), bad


def open_features(path: Path) -> Features:
    """Open features that are complete, or an array file.

    Raises:
        ValueError: naming what is missing or wrong.
    """
    if path.suffix == ".npy":
        return _open_array(path)
    described = path / FEATURES_FILE
    if not described.is_file():
        raise ValueError(f"{path} must hold {FEATURES_FILE}, or be a .npy file of features")
    facts = json.loads(described.read_text(encoding="utf-8"))
    numbers = range(facts["num_parts"])
    missing = [n for n in numbers if not part_path(path, "features", n).exists()]
    if missing:
        raise ValueError(
            f"{path} lacks {len(missing)} of {len(numbers)} parts, first {missing[0]}; run the "
            "features command again, which continues"
        )
    parts = [
        np.load(part_path(path, "features", n), mmap_mode="r", allow_pickle=False) for n in numbers
    ]
    widths = {part.shape[1] for part in parts}
    if len(widths) != 1:
        raise ValueError(f"{path}: all parts must have one width, got {sorted(widths)}")
    pairs = [read_keys(path, n) for n in numbers]
    bad = {key: text for _, found in pairs for key, text in found.items()}
    return Features(parts, [keys for keys, _ in pairs], bad, facts["settings"])


def _open_array(path: Path) -> Features:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be an array file (N, D), got {error}") from error
    if array.ndim != 2 or array.dtype.kind != "f" or not len(array):
        raise ValueError(f"{path} must be floats (N, D), got {array.dtype} of shape {array.shape}")
    names = path.with_suffix(".keys.txt")
    keys = [str(number) for number in range(len(array))]
    if names.is_file():
        keys = names.read_text(encoding="utf-8").splitlines()
        if len(keys) != len(array):
            raise ValueError(f"{names} must have {len(array)} lines, got {len(keys)}")
    settings = {"model": "array", "width": array.shape[1]}
    return Features([array], [keys], {}, settings)
