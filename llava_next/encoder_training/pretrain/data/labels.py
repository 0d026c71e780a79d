"""Labels of a source on disk, shard by shard, with the bank that made them.

labels.json          bank's fingerprint and size, labels of each sample
labels-000000.npy    int32 (n, R), nearest centre first; -1 throughout for a bad sample
keys-000000.json     {"keys": [n names], "bad": {name: what is wrong}}
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from run_kit.files import replace_file, write_json

LABELS_FILE = "labels.json"


@dataclass(frozen=True, kw_only=True)
class LabelInfo:
    """What ``labels.json`` says.

    Attributes:
        bank_fingerprint, num_centres, feature_size: of the bank.
        labels_per_sample: R.
        num_parts: how many label files there are.
    """

    bank_fingerprint: str
    num_centres: int
    feature_size: int
    labels_per_sample: int
    num_parts: int


def part_path(folder: Path, name: str, number: int) -> Path:
    """Return the path of part ``number`` of ``features``, ``labels`` or ``keys``."""
    return folder / f"{name}-{number:06d}.{'json' if name == 'keys' else 'npy'}"


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write an array atomically."""
    with replace_file(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def write_keys(folder: Path, number: int, keys: list[str], bad: dict[str, str]) -> None:
    """Write the names of a part, and of those that are bad what is wrong."""
    write_json(part_path(folder, "keys", number), {"keys": keys, "bad": bad})


def read_keys(folder: Path, number: int) -> tuple[list[str], dict[str, str]]:
    """Return names and bad ones of a part.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    path = part_path(folder, "keys", number)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return list(content["keys"]), dict(content["bad"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} must hold the names of a part, got {error!r}") from error


def write_label_info(folder: Path, info: LabelInfo) -> None:
    """Write ``labels.json``, which makes the folder complete."""
    write_json(folder / LABELS_FILE, asdict(info))


def read_label_info(folder: Path) -> LabelInfo:
    """Read ``labels.json``.

    Raises:
        ValueError: if it is missing or damaged.
    """
    path = folder / LABELS_FILE
    try:
        return LabelInfo(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{folder} must hold finished labels, got {error!r}; make them with "
            "python -m encoder_training.pretrain.concepts label"
        ) from error


def read_labels(folder: Path) -> Iterator[tuple[str, NDArray[np.int32]]]:
    """Yield name and labels (R,) of each sample, in order; bad samples have -1.

    Raises:
        ValueError: naming the file whose shape, type or range is wrong.
    """
    info = read_label_info(folder)
    for number in range(info.num_parts):
        path = part_path(folder, "labels", number)
        keys, _ = read_keys(folder, number)
        labels = np.load(path, allow_pickle=False)
        if labels.shape != (len(keys), info.labels_per_sample) or labels.dtype.kind != "i":
            raise ValueError(
                f"{path} must be integers {(len(keys), info.labels_per_sample)}, "
                f"got {labels.dtype} {labels.shape}"
            )
        if len(labels) and not -1 <= labels.min() <= labels.max() < info.num_centres:
            raise ValueError(
                f"{path}: labels must be in [0, {info.num_centres}) or -1, "
                f"got {labels.min()} to {labels.max()}"
            )
        yield from zip(keys, labels, strict=True)
