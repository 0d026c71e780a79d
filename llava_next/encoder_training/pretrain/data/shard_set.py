"""Read a shard set as batches of tokens: shuffled, divided among ranks, resumable.

    images = open_set("shards/images", view=ImageView(), batch_size=128)
    for batch in images.batches():
        ...
        position = images.state_dict()

The order is that of ``SampleOrder``: the same on any number of ranks, so that a run can continue on
another number. Everything random about a sample follows from the seed and its position.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from encoder_training.pretrain.data.images import ImageView, image_tokens
from encoder_training.pretrain.data.order import SampleOrder
from encoder_training.pretrain.data.samples import (
    BadSampleError,
    Mode,
    PretrainBatch,
    TokenSample,
    collate,
    empty_batch,
)
from encoder_training.pretrain.data.set_info import SetInfo, read_set
from encoder_training.pretrain.data.tar_shards import (
    FRAMES,
    IMAGE_EXTENSIONS,
    INDICES,
    LABELS,
    VIDEO_EXTENSIONS,
    VIDEO_PATH,
    Members,
    load_integers,
    read_member,
    scan_shard,
)
from encoder_training.pretrain.data.videos import (
    CodecIndices,
    VideoView,
    check_codec_indices,
    video_file,
    video_tokens,
)

OnBad = Literal["stop", "skip"]


def open_set(
    paths: str | Path | Sequence[str | Path],
    *,
    view: ImageView | VideoView,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    shuffle: bool = True,
    num_epochs: int | None = None,
    num_workers: int = 0,
    on_bad: OnBad = "stop",
) -> "ShardSet":
    """Open one set, or several sets of one kind with labels of one bank, as one.

    Args:
        paths: folders with ``set.json``.
        view: an ``ImageView`` for images and OCR, a ``VideoView`` for videos.
        batch_size: samples of a batch of this rank.
        rank, world_size: this rank and their number.
        seed: seed of order and augmentation.
        shuffle: without it every epoch has the order of the files.
        num_epochs: end after so many; None is endless.
        num_workers: processes that read ahead; 0 reads in this one.
        on_bad: ``stop`` raises for a bad sample; ``skip`` leaves it out and counts it.

    Raises:
        ValueError: naming folder and rule where sets do not belong together.
    """
    folders = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    infos = [read_set(folder) for folder in folders]
    for folder, info in zip(folders, infos, strict=True):
        if replace(info, shards=()) != replace(infos[0], shards=()):
            raise ValueError(
                f"{folder} must carry labels of the same version as {folders[0]}, got\n"
                f"  {replace(info, shards=())}\n  {replace(infos[0], shards=())}\n"
                "label both with one bank, or train them as two heads"
            )
        if isinstance(view, VideoView) != (info.kind == "video"):
            raise ValueError(f"{folder}: {info.kind} samples cannot be read by {view}")
        if isinstance(view, VideoView) and view.clip_frames != info.clip_frames:
            raise ValueError(
                f"{folder}: clips have {info.clip_frames} slots, got clip_frames {view.clip_frames}"
            )
    if not 0 <= rank < world_size or batch_size < 1:
        raise ValueError(
            f"rank must be in [0, {world_size}) and batch_size at least 1, "
            f"got {rank} and {batch_size}"
        )
    shards = tuple(
        _Shard(folder / shard.name, shard.num_samples, shard.num_bytes)
        for folder, info in zip(folders, infos, strict=True)
        for shard in info.shards
    )
    info = replace(infos[0], shards=tuple(shard for one in infos for shard in one.shards))
    order = SampleOrder([shard.num_samples for shard in shards], seed=seed, shuffle=shuffle)
    reader = SampleReader(shards, info, view, order, seed, rank, world_size, batch_size)
    return ShardSet(reader, num_epochs, num_workers, on_bad)


@dataclass(frozen=True)
class _Shard:
    path: Path
    num_samples: int
    num_bytes: int


@dataclass(frozen=True)
class _Batch:
    """What a worker sends: the samples of a stretch of positions, and those that are bad."""

    batch: PretrainBatch
    bad: list[BadSampleError]


class SampleReader(Dataset[_Batch]):
    """Reads the sample at a position of the order; the part of a set that workers hold."""

    def __init__(
        self,
        shards: tuple[_Shard, ...],
        info: SetInfo,
        view: ImageView | VideoView,
        order: SampleOrder,
        seed: int,
        rank: int,
        world_size: int,
        batch_size: int,
    ) -> None:
        self.info, self.view, self.order = info, view, order
        self.rank, self.world_size, self.batch_size = rank, world_size, batch_size
        self._shards, self._seed = shards, seed

    def __getitem__(self, stretch: tuple[int, int]) -> _Batch:
        """Read this rank's samples of positions [start, end).

        Args:
            stretch: start and end, samples of all ranks.
        """
        samples: list[TokenSample] = []
        bad: list[BadSampleError] = []
        for number, position in enumerate(
            range(stretch[0] + self.rank, stretch[1], self.world_size)
        ):
            try:
                samples.append(self.read(position, number))
            except BadSampleError as error:
                bad.append(error)
        if samples:
            return _Batch(collate(samples), bad)
        info = self.info
        return _Batch(empty_batch(info.kind, self.view.patch_size, info.labels_per_sample), bad)

    def read(self, position: int, number: int = 0) -> TokenSample:
        """Read one sample.

        Args:
            position: position in the endless order.
            number: place in its batch, which decides what a video becomes.

        Raises:
            BadSampleError: naming shard, key and rule.
        """
        which, within = self.order[position]
        shard = self._shards[which]
        key, members = _scanned(shard)[within]
        place = f"{shard.path}, key {key}"
        random = np.random.default_rng([self._seed, position])
        labels = self._labels(shard.path, members, place)
        if isinstance(self.view, VideoView):
            mode: Mode = self.view.split.mode(number, self.batch_size)
            patches, positions = self._video(shard.path, members, mode, random, place)
        else:
            mode = "image"
            data = _first(shard.path, members, IMAGE_EXTENSIONS, place, "no image")
            patches, positions = image_tokens(data, self.view, random, place)
        return TokenSample(key, self.info.kind, mode, patches, positions, torch.from_numpy(labels))

    def _labels(self, path: Path, members: Members, place: str) -> NDArray[np.int64]:
        if LABELS not in members:
            raise BadSampleError(place, "no labels", f"must have a member {LABELS}")
        labels = load_integers(read_member(path, members[LABELS], place), place, "broken labels")
        if len(labels) != self.info.labels_per_sample:
            raise BadSampleError(
                place,
                "wrong number of labels",
                f"must have {self.info.labels_per_sample} labels, got {len(labels)}",
            )
        if labels.min() < 0 or labels.max() >= self.info.num_centres:
            raise BadSampleError(
                place,
                "label outside the bank",
                f"labels must be in [0, {self.info.num_centres}), "
                f"got {labels.min()} to {labels.max()}",
            )
        return labels

    def _video(
        self, path: Path, members: Members, mode: Mode, random: np.random.Generator, place: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        view = self.view
        assert isinstance(view, VideoView)
        codec = None
        if mode == "codec" and INDICES in members:
            data = read_member(path, members[INDICES], place)
            indices = load_integers(data, place, "broken indices")
            check_codec_indices(indices, view, self.info.grid, place)
            frames = None
            if FRAMES in members:
                data = read_member(path, members[FRAMES], place)
                frames = load_integers(data, place, "broken indices")
            codec = CodecIndices(indices, frames)
        if VIDEO_PATH in members:
            text = read_member(path, members[VIDEO_PATH], place).decode("utf-8", "replace")
            return video_tokens(path.parent / text.strip(), view, mode, random, place, codec)
        data = _first(path, members, VIDEO_EXTENSIONS, place, "no video")
        with video_file(data) as video:
            return video_tokens(video, view, mode, random, place, codec)


@lru_cache(maxsize=16)
def _scanned(shard: _Shard) -> list[tuple[str, Members]]:
    """Return the members of each sample of a shard, and check it against ``set.json``."""
    samples = scan_shard(shard.path)
    size = shard.path.stat().st_size
    if size != shard.num_bytes or len(samples) != shard.num_samples:
        raise BadSampleError(
            str(shard.path),
            "shard changed",
            f"set.json has {shard.num_samples} samples in {shard.num_bytes} bytes, "
            f"the file {len(samples)} in {size}",
        )
    return samples


def _first(path: Path, members: Members, extensions: Sequence[str], place: str, rule: str) -> bytes:
    for extension in extensions:
        if extension in members:
            return read_member(path, members[extension], place)
    raise BadSampleError(
        place, rule, f"must have one of .{', .'.join(extensions)}, has .{', .'.join(members)}"
    )


class ShardSet:
    """This rank's batches of a set.

    Attributes:
        info: what ``set.json`` says.
        skipped: how many bad samples of this rank were left out, by rule.
        wait_seconds: time spent waiting for batches.
    """

    def __init__(
        self, reader: SampleReader, num_epochs: int | None, num_workers: int, on_bad: OnBad
    ) -> None:
        self.info = reader.info
        self.skipped: Counter[str] = Counter()
        self._new_bad: list[BadSampleError] = []
        self.wait_seconds = 0.0
        self._reader, self._num_workers, self._on_bad = reader, num_workers, on_bad
        self._total = None if num_epochs is None else num_epochs * self.info.num_samples
        self._position = 0

    def state_dict(self) -> dict[str, int]:
        """Return the position: samples of all ranks up to the end of the last batch."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a position; it takes effect at the next call of ``batches``."""
        self._position = int(state["position"])

    def take_bad(self) -> list[BadSampleError]:
        """Return the samples that were left out since the last call."""
        found, self._new_bad = self._new_bad, []
        return found

    def batches(self) -> Iterator[PretrainBatch]:
        """Yield batches from the position on, as many on every rank.

        A batch is smaller where samples are skipped, and at the end of the last epoch, where ranks
        differ by at most one sample. It is empty where nothing is left for this rank: a rank that
        left such a batch out would be one step ahead of the others.

        Raises:
            BadSampleError: A sample is bad, and bad ones are not skipped.
        """
        stretches = self._stretches()
        if self._num_workers:
            loader: Any = DataLoader(
                self._reader,
                batch_size=None,
                sampler=stretches,  # pyright: ignore[reportArgumentType]
                num_workers=self._num_workers,
            )
            source = zip(self._stretches(), loader, strict=False)
        else:
            source = ((stretch, self._reader[stretch]) for stretch in stretches)
        while True:
            started = time.perf_counter()
            item = next(source, None)
            self.wait_seconds += time.perf_counter() - started
            if item is None:
                return
            (_, end), result = item
            for error in result.bad:
                if self._on_bad == "stop":
                    raise error
                self.skipped[error.rule] += 1
                self._new_bad.append(error)
            self._position = end
            yield result.batch

    def _stretches(self) -> Iterator[tuple[int, int]]:
        step = self._reader.batch_size * self._reader.world_size
        for start in count(self._position, step):
            end = start + step
            if self._total is not None:
                end = min(end, self._total)
                if start >= end:
                    return
            yield start, end
