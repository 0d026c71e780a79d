"""How long every sample is, measured once and kept in a file.

Packing and length-balanced batches need the lengths before training; so does the validator. Sizes
of pictures come from file headers.

Axis letters: N samples of the data path.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset

from llava.data.dataset import BadSample, SupervisedDataset
from llava.data.records import SampleError

_BLOCK = 64


@dataclass(frozen=True)
class Lengths:
    """Tokens of all samples.

    Attributes:
        text: int32 (N,), 0 for a sample that cannot be used.
        visual: int32 (N,), language tokens of its visuals.
        bad_samples: those that cannot be used, and why.
    """

    text: np.ndarray
    visual: np.ndarray
    bad_samples: tuple[BadSample, ...]

    @property
    def total(self) -> np.ndarray:
        """int64 (N,): text and visual tokens."""
        return self.text.astype(np.int64) + self.visual

    @property
    def usable(self) -> np.ndarray:
        """int64: numbers of the samples that can be used, ascending."""
        return np.flatnonzero(self.text > 0)


class _Measured(Dataset[tuple[int, int, str]]):
    """(text, visual, message) of each sample, for worker processes."""

    def __init__(self, dataset: SupervisedDataset, *, pixels: bool) -> None:
        self._dataset, self._pixels = dataset, pixels

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[int, int, str]:
        try:
            text, visual = self._dataset.length(index)
            if self._pixels:
                self._dataset[index]
        except SampleError as error:
            return 0, 0, str(error)
        return text, visual, ""


def measure_lengths(
    dataset: SupervisedDataset, *, workers: int = 0, pixels: bool = False
) -> Lengths:
    """Read every entry and the headers of its files.

    Args:
        dataset: its ``on_bad_sample`` must be ``stop`` where ``pixels`` are read.
        workers: processes; 0 is this one.
        pixels: decode all pictures and videos, too.
    """
    loader: Iterable[list[tuple[int, int, str]]] = DataLoader(
        _Measured(dataset, pixels=pixels),
        batch_size=_BLOCK,
        num_workers=workers,
        collate_fn=list,
    )
    numbers = np.zeros((2, len(dataset)), np.int32)
    bad_samples: list[BadSample] = []
    for block, rows in enumerate(loader):
        for index, (text, visual, message) in enumerate(rows, start=block * _BLOCK):
            numbers[:, index] = text, visual
            if message:
                bad_samples.append(BadSample(index=index, message=message))
    return Lengths(numbers[0], numbers[1], tuple(bad_samples))


def save_lengths(lengths: Lengths, path: Path, fingerprint: str) -> None:
    """Write a .npz file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        np.savez(
            file,
            fingerprint=np.array(fingerprint),
            text=lengths.text,
            visual=lengths.visual,
            bad_index=np.array([bad["index"] for bad in lengths.bad_samples], np.int64),
            bad_message=np.array([bad["message"] for bad in lengths.bad_samples], np.str_),
        )
    unfinished.replace(path)


def read_lengths(path: Path, fingerprint: str) -> Lengths | None:
    """Lengths that ``save_lengths`` wrote for the same data and settings, else None.

    Raises:
        ValueError: if the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["fingerprint"]) != fingerprint:
                return None
            pairs = zip(file["bad_index"].tolist(), file["bad_message"].tolist(), strict=True)
            bad = tuple(BadSample(index=index, message=message) for index, message in pairs)
            return Lengths(file["text"], file["visual"], bad)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path} is no file of lengths ({error}); remove it") from error
