"""The description of a shard set, ``set.json``: what its shards hold and whose labels they carry.

All shards of a set carry labels of one bank: shards labelled by another bank, or by the same bank
with another number of labels, are another set.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from encoder_training.pretrain.data.samples import KINDS, Kind
from run_kit.files import write_json

SET_FILE = "set.json"
VERSION = 1
_MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One tar file of a set.

    Attributes:
        name: file name in the set's folder.
        num_samples: how many samples it holds.
        num_bytes: its size, which is checked when it is opened.
        sha256: SHA-256 of its content; checked on request.
    """

    name: str
    num_samples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SetInfo:
    """What ``set.json`` says.

    Attributes:
        kind: which head the set trains.
        labels_per_sample: R, labels of each sample.
        num_centres: size of the bank; labels are in [0, num_centres).
        bank_fingerprint: fingerprint of the bank that made the labels.
        feature_size: width of the bank's features.
        shards: the tar files, in order.
        clip_frames: T, frame slots of a clip that codec indices point into (videos).
        grid: patch rows and columns of a frame that codec indices point into (videos).
        version: version of this format.
    """

    kind: Kind
    labels_per_sample: int
    num_centres: int
    bank_fingerprint: str
    feature_size: int
    shards: tuple[ShardInfo, ...] = field(default=())
    clip_frames: int = 64
    grid: int = 16
    version: int = VERSION

    @property
    def num_samples(self) -> int:
        """Return the number of samples of all shards."""
        return sum(shard.num_samples for shard in self.shards)


def write_set(folder: Path, info: SetInfo) -> None:
    """Write ``set.json``, which makes a folder of shards a complete set."""
    write_json(folder / SET_FILE, asdict(info))


def read_set(folder: Path) -> SetInfo:
    """Read and check ``set.json``.

    Raises:
        ValueError: naming file, field, rule and value.
    """
    path = folder / SET_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} must be a shard set with {SET_FILE}; write one with "
            "python -m encoder_training.pretrain.data.write, which also describes foreign shards"
        )
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ValueError(f"{path} must be at most {_MAX_FILE_BYTES} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        shards = tuple(_shard(row) for row in content.pop("shards"))
        info = SetInfo(**content, shards=shards)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} must describe a shard set, got {error!r}") from error
    _check(path, info)
    return info


def _shard(row: dict[str, Any]) -> ShardInfo:
    return ShardInfo(**row)


def _check(path: Path, info: SetInfo) -> None:
    if info.version != VERSION:
        raise ValueError(f"{path}: version must be {VERSION}, got {info.version!r}")
    if info.kind not in KINDS:
        raise ValueError(f"{path}: kind must be one of {', '.join(KINDS)}, got {info.kind!r}")
    for row in (info, *info.shards):
        for item in fields(row):
            value = getattr(row, item.name)
            expected = str if item.name in _TEXTS else tuple if item.name == "shards" else int
            if not isinstance(value, expected) or isinstance(value, bool):
                raise ValueError(f"{path}: {item.name} must be {expected.__name__}, got {value!r}")
            if isinstance(value, int) and value < (0 if item.name == "num_bytes" else 1):
                raise ValueError(f"{path}: {item.name} must be at least 1, got {value}")
    for shard in info.shards:
        if Path(shard.name).name != shard.name or not shard.name.endswith(".tar"):
            raise ValueError(
                f"{path}: a shard must be a .tar file of this folder, got {shard.name!r}"
            )
    if not info.shards:
        raise ValueError(f"{path}: a set must have at least one shard with a sample")
    if len({shard.name for shard in info.shards}) != len(info.shards):
        raise ValueError(f"{path}: each shard must be listed once")


_TEXTS = {"kind", "bank_fingerprint", "name", "sha256"}
