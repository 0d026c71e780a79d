"""How long every sample is: measured once by several processes, and kept in a file.

Packing and length-balanced batches need the lengths before training; so does the validator. Sizes
of pictures come from file headers, texts are counted in blocks, and nothing is built that is only
counted.

The file ``DATA.lengths-FINGERPRINT.npz`` is kept next to the data path. The fingerprint is over the
data files and all settings that lengths depend on; another one gets another file.

Axis letters: N samples of the data path.
"""

import json
import logging
import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset

from cv_reader.cores import available_cores
from llava.data.dataset import BadSample, SupervisedDataset
from llava.data.encoding import Measured
from llava.data.records import RecordError
from run_kit.files import replace_file
from run_kit.ranks import from_first_rank

logger = logging.getLogger(__name__)

_BLOCK_SAMPLES = 256
_SAMPLES_PER_WORKER = 2048
_MAX_WORKERS = 32
_SECONDS_BETWEEN_REPORTS = 30
_MAX_WAIT_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Lengths:
    """Tokens of all samples.

    Attributes:
        text: int32 (N,), 0 for a sample that cannot be used.
        visual: int32 (N,), language tokens of its visuals.
        bad_samples: those that cannot be used, and why.
        notes: how many samples are read differently from how they are written, by the difference;
            known where they were just measured.
    """

    text: np.ndarray
    visual: np.ndarray
    bad_samples: tuple[BadSample, ...]
    notes: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def total(self) -> np.ndarray:
        """The text and visual tokens of each sample, int64 (N,)."""
        return self.text.astype(np.int64) + self.visual

    @property
    def usable(self) -> np.ndarray:
        """The numbers of the samples that can be used, int64, ascending."""
        return np.flatnonzero(self.text > 0)


_Row = tuple[int, int, str, tuple[str, ...]]
"""Text tokens, visual tokens, why a sample cannot be used, and notes on how it was read."""


class _Measured(Dataset[_Row]):
    """The lengths of the samples, for worker processes."""

    def __init__(self, dataset: SupervisedDataset, *, pixels: bool) -> None:
        self._dataset, self._pixels = dataset, pixels

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, indices: list[int]) -> list[_Row]:
        """Measure a block (called by ``DataLoader``)."""
        found = zip(indices, self._dataset.lengths(indices), strict=True)
        return [self._row(index, result) for index, result in found]

    def _row(self, index: int, result: Measured | RecordError) -> _Row:
        if isinstance(result, RecordError):
            return 0, 0, str(result), ()
        if self._pixels:
            try:
                self._dataset[index]
            except RecordError as error:
                return 0, 0, str(error), ()
        return result.text, result.visual, "", result.notes


def measure_lengths(
    dataset: SupervisedDataset, *, workers: int | None = None, pixels: bool = False
) -> Lengths:
    """Read every entry and the headers of its files.

    Args:
        dataset: its ``on_bad_sample`` must be ``stop`` where ``pixels`` are read.
        workers: processes; 0 is this one, None as many as there are processors and work for.
        pixels: decode all pictures and videos, too.
    """
    if workers is None:
        processors = available_cores()
        workers = min(processors, _MAX_WORKERS, len(dataset) // _SAMPLES_PER_WORKER)
    blocks: Iterable[list[_Row]] = DataLoader(
        _Measured(dataset, pixels=pixels),
        batch_size=_BLOCK_SAMPLES,
        num_workers=workers,
        collate_fn=list,
    )
    numbers = np.zeros((2, len(dataset)), np.int32)
    bad_samples: list[BadSample] = []
    rows = chain.from_iterable(_reported(blocks, len(dataset)))
    notes: Counter[str] = Counter()
    for index, (text, visual, message, new_notes) in enumerate(rows):
        numbers[:, index] = text, visual
        notes.update(new_notes)
        if message:
            bad_samples.append(BadSample(index=index, message=message))
    return Lengths(numbers[0], numbers[1], tuple(bad_samples), dict(notes))


def _reported(blocks: Iterable[list[_Row]], total: int) -> Iterator[list[_Row]]:
    """Give blocks on, and say from time to time how far they are."""
    started = reported = time.monotonic()
    done = 0
    for block in blocks:
        yield block
        done += len(block)
        now = time.monotonic()
        if now - reported >= _SECONDS_BETWEEN_REPORTS:
            reported = now
            rate = done / (now - started)
            logger.info("measured %d of %d samples, %d per second", done, total, rate)


def shared_lengths(
    dataset: SupervisedDataset, run_folder: Path, *, workers: int | None = None
) -> Lengths:
    """Return the lengths of a data set on every rank, measured by the first one if need be.

    Lengths are looked for next to the data and in the run's folder, and kept next to the data, or
    in the run's folder where the data's cannot be written to. The other ranks wait for the
    first, however long that takes, and need no common folder.

    Args:
        dataset: the same on all ranks.
        run_folder: second place of the file.
        workers: see ``measure_lengths``.

    Raises:
        ValueError: if the first rank could not measure them.
    """
    return from_first_rank(
        lambda: _kept_or_measured(dataset, run_folder, workers), _MAX_WAIT_SECONDS
    )


def _kept_or_measured(dataset: SupervisedDataset, run_folder: Path, workers: int | None) -> Lengths:
    fingerprint = dataset.fingerprint()
    by_data = _file_by_data(dataset, fingerprint)
    places = [by_data, run_folder / by_data.name]
    for place in places:
        try:
            lengths = read_lengths(place, fingerprint)
        except ValueError as error:
            logger.warning("%s; the lengths are measured again", error)
            continue
        if lengths is not None:
            logger.info("lengths of %d samples read from %s", len(dataset), place)
            return _with_repaired(lengths, dataset)
    logger.info("measuring the lengths of %d samples", len(dataset))
    started = time.monotonic()
    lengths = measure_lengths(dataset, workers=workers)
    logger.info("measured %d samples in %.0f s", len(dataset), time.monotonic() - started)
    _keep(lengths, places, fingerprint)
    return lengths


def _with_repaired(lengths: Lengths, dataset: SupervisedDataset) -> Lengths:
    """Measure the bad samples again: their pictures may have been repaired, which no file says."""
    indices = [bad["index"] for bad in lengths.bad_samples]
    if not indices:
        return lengths
    text, visual, still_bad = lengths.text.copy(), lengths.visual.copy(), []
    for start in range(0, len(indices), _BLOCK_SAMPLES):
        block = indices[start : start + _BLOCK_SAMPLES]
        for index, result in zip(block, dataset.lengths(block), strict=True):
            if isinstance(result, RecordError):
                still_bad.append(BadSample(index=index, message=str(result)))
            else:
                text[index], visual[index] = result.text, result.visual
    return Lengths(text, visual, tuple(still_bad))


def keep_lengths(lengths: Lengths, dataset: SupervisedDataset) -> None:
    """Keep lengths next to the data, where a run looks for them; nothing where that is refused."""
    fingerprint = dataset.fingerprint()
    _keep(lengths, [_file_by_data(dataset, fingerprint)], fingerprint)


def _file_by_data(dataset: SupervisedDataset, fingerprint: str) -> Path:
    return dataset.data_path.with_name(f"{dataset.data_path.name}.lengths-{fingerprint}.npz")


def _keep(lengths: Lengths, places: Sequence[Path], fingerprint: str) -> None:
    """Write the file to the first place that takes it; without one, the next run measures again."""
    for place in places:
        try:
            save_lengths(lengths, place, fingerprint)
        except OSError as error:
            logger.info("lengths cannot be kept as %s: %s", place, error)
        else:
            return


def save_lengths(lengths: Lengths, path: Path, fingerprint: str) -> None:
    """Write a .npz file atomically."""
    # As one JSON text: an array of texts gives each of them the length of the longest.
    messages = [bad["message"] for bad in lengths.bad_samples]
    with replace_file(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            fingerprint=np.array(fingerprint),
            text=lengths.text,
            visual=lengths.visual,
            bad_index=np.array([bad["index"] for bad in lengths.bad_samples], np.int64),
            bad_message=np.frombuffer(json.dumps(messages).encode(), np.uint8),
        )


def read_lengths(path: Path, fingerprint: str) -> Lengths | None:
    """Return lengths that ``save_lengths`` wrote for the same data and settings, else None.

    Raises:
        ValueError: if the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["fingerprint"]) != fingerprint:
                return None
            messages = json.loads(file["bad_message"].tobytes())
            pairs = zip(file["bad_index"].tolist(), messages, strict=True)
            bad = tuple(BadSample(index=index, message=message) for index, message in pairs)
            return Lengths(file["text"], file["visual"], bad)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no file of lengths ({error}); remove it") from error
