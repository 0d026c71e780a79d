"""Features of clips: encoded when asked for, or once and then read from shards.

A shard holds the tokens of some clips of a list, all their views, as one safetensors file that
appears whole; a run that was stopped makes only what is missing, on any number of ranks. Its folder
is named by what made it: weights, input settings and type. A clip that has changed since is encoded
again, with its shard.

Axis letters: B clips of a batch, T tokens of a clip, D width.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from encoder_training.probe.clips import (
    BrokenClipError,
    ClipInput,
    ClipPixels,
    ClipView,
    read_view,
)
from encoder_training.probe.datasets import ClipList
from encoder_training.probe.encoders import FrozenEncoder
from encoder_training.probe.inputs import FoundClips, KeptInputs, Key, clip_facts, input_settings
from run_kit.files import replace_file
from run_kit.ranks import gather, rank_and_size

_FORMAT = 1
_OPEN_SHARDS = 64


class TokenBatch(NamedTuple):
    """Features of some clips.

    Attributes:
        tokens: (B, T, D); shorter clips are filled up with zeros.
        mask: bool (B, T), False where filled up; None if nowhere.
    """

    tokens: Tensor
    mask: Tensor | None


def stack(clips: Sequence[Tensor]) -> TokenBatch:
    """Make a batch of the tokens (T, D) of clips."""
    longest = max(len(clip) for clip in clips)
    if all(len(clip) == longest for clip in clips):
        return TokenBatch(torch.stack(list(clips)), None)
    tokens = torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    lengths = torch.tensor([len(clip) for clip in clips], device=tokens.device)
    return TokenBatch(tokens, torch.arange(longest, device=tokens.device) < lengths[:, None])


class StreamedFeatures:
    """Features that are computed whenever they are asked for.

    Args:
        clips: the list.
        how: how its videos become input.
        encoder: makes the features.
        dtype: of the features.
        encode_batch: clips that the encoder takes at once.
        num_workers: processes that read clips.
        input_dir: folder to keep inputs in, which other encoders then need not read; None: not.

    Attributes:
        clips: the list.
        how: how its videos become input.
        broken: reason by video, of those that could not be read.
    """

    def __init__(
        self,
        clips: ClipList,
        how: ClipInput,
        encoder: FrozenEncoder,
        *,
        dtype: torch.dtype,
        encode_batch: int,
        num_workers: int,
        input_dir: Path | None = None,
    ) -> None:
        self.clips, self.how, self.encoder = clips, how, encoder
        self._kept = None if input_dir is None else KeptInputs(input_dir, clips, how)
        self.dtype, self._encode_batch, self._num_workers = dtype, encode_batch, num_workers
        self.broken: dict[str, str] = {}
        self.num_tokens, self.num_encoded = 0, 0

    def batches(self, batches: Sequence[Sequence[Key]]) -> Iterator[list[Tensor | None]]:
        """Yield the tokens (T, D) of each clip of each batch; None for clips that are broken."""
        if not batches:
            return
        reader, done = _Reader(self.clips, self.how, self._kept), 0
        loader: Any = DataLoader(
            reader,
            batch_sampler=cast("Any", [list(batch) for batch in batches]),
            num_workers=min(self._num_workers, len(batches)),
            collate_fn=list,
        )
        try:
            for found in loader:
                yield self._encoded(found)
                done += 1
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            # A clip has ended the process that read it: find it, one clip at a time.
            for batch in batches[done:]:
                yield self._encoded(_read_apart(reader, batch))

    def _encoded(self, found: Sequence[ClipPixels | BrokenClipError]) -> list[Tensor | None]:
        for error in found:
            if isinstance(error, BrokenClipError):
                self.broken[error.video] = error.reason
        clips = [clip for clip in found if isinstance(clip, ClipPixels)]
        tokens: list[Tensor] = []
        for start in range(0, len(clips), self._encode_batch):
            tokens += self.encoder.encode(clips[start : start + self._encode_batch])
        self.num_encoded += len(tokens)
        self.num_tokens += sum(map(len, tokens))
        ready = iter(tokens)
        return [next(ready).to(self.dtype) if isinstance(c, ClipPixels) else None for c in found]


class _Reader(Dataset[Any]):
    """Reads views; errors are results, so that every broken clip is named."""

    def __init__(self, clips: ClipList, how: ClipInput, kept: KeptInputs | None) -> None:
        self._clips, self._how, self._kept = clips, how, kept

    def video(self, key: Key) -> str:
        """Return the path of a clip in its list."""
        return self._clips.clips[key.clip].video

    def __getitem__(self, key: Key) -> ClipPixels | BrokenClipError:
        video = self.video(key)
        try:
            return read_view(self._clips.file(key.clip), video, self._how, key.view)
        except BrokenClipError as error:
            return error

    def __getitems__(self, keys: Sequence[Key]) -> FoundClips:
        """Return the views of a batch; the loader calls it."""
        if self._kept is None:
            return [self[key] for key in keys]
        return self._kept.batch(keys, self.__getitem__)


def _read_apart(reader: _Reader, batch: Sequence[Key]) -> FoundClips:
    """Read views in a process of their own, which a clip may end; then that clip is broken."""
    found: FoundClips = []
    pool = ProcessPoolExecutor(1)
    for key in batch:
        try:
            found.append(pool.submit(reader.__getitem__, key).result())
        except BrokenProcessPool:
            reason = "the process that read it ended: the decoder crashed, or memory ran out"
            found.append(BrokenClipError(reader.video(key), reason))
            pool = ProcessPoolExecutor(1)
    pool.shutdown()
    return found


class CachedFeatures:
    """Features of a list in a folder of shards.

    Args:
        source: computes what is missing.
        folder: of all features.
        role: ``train`` or ``val``, for the name of the folder of shards.
        views: views of each clip.
        clips_per_shard: clips of a file.

    Attributes:
        folder: of this list's shards.
        broken: reason by video, of those that could not be read.
        num_made: shards that this run made, on this rank.
    """

    def __init__(
        self,
        source: StreamedFeatures,
        folder: Path,
        role: str,
        *,
        views: Sequence[ClipView],
        clips_per_shard: int,
    ) -> None:
        self._source, self._views, self._size = source, list(views), clips_per_shard
        self._numbers = {view: number for number, view in enumerate(views)}
        self.fingerprint = features_fingerprint(source, views)
        names = "\n".join(clip.video for clip in source.clips.clips) + f"\n{clips_per_shard}"
        listed = hashlib.sha256(names.encode()).hexdigest()[:12]
        self.folder = folder / self.fingerprint[:16] / f"{role}-{listed}"
        self.broken: dict[str, str] = {}
        self.num_made = 0
        self._open: OrderedDict[int, tuple[Any, Tensor]] = OrderedDict()

    @property
    def num_shards(self) -> int:
        """Return the number of files."""
        return -(-len(self._source.clips.clips) // self._size)

    def path(self, number: int) -> Path:
        """Return the path of a shard."""
        return self.folder / f"shard-{number:05d}.safetensors"

    def fill(self, progress: Any = None) -> None:
        """Encode what is missing; every rank must call it, and does its share.

        Args:
            progress: called with the number of shards made and to make on this rank.
        """
        rank, size = rank_and_size()
        own = [
            number for number in range(rank, self.num_shards, size) if not self._is_fresh(number)
        ]
        keys = [
            [Key(index, view) for index in self._indices(n) for view in self._views] for n in own
        ]
        for number, tokens in zip(own, self._source.batches(keys), strict=True):
            self._write(number, tokens)
            self.num_made += 1
            if progress is not None:
                progress(self.num_made, len(own))
        gather(None)
        for number in range(self.num_shards):
            self.broken |= json.loads(self._metadata(number)["broken"])

    def _indices(self, number: int) -> range:
        start = number * self._size
        return range(start, min(start + self._size, len(self._source.clips.clips)))

    def _facts(self, number: int) -> list[Any]:
        return [
            clip_facts(self._source.clips, self._source.how, index)
            for index in self._indices(number)
        ]

    def _metadata(self, number: int) -> dict[str, str]:
        with safe_open(self.path(number), framework="pt") as file:
            return cast("Any", file).metadata() or {}

    def _is_fresh(self, number: int) -> bool:
        try:
            found = self._metadata(number)
        except (OSError, SafetensorError):
            return False
        expected = {"fingerprint": self.fingerprint, "videos": json.dumps(self._facts(number))}
        return all(found.get(name) == value for name, value in expected.items())

    def _write(self, number: int, tokens: Sequence[Tensor | None]) -> None:
        videos = [facts[0] for facts in self._facts(number)]
        lengths = torch.tensor([0] + [0 if part is None else len(part) for part in tokens])
        kept = [part.cpu() for part in tokens if part is not None]
        empty = torch.zeros(0, self._source.encoder.width, dtype=self._source.dtype)
        content = {"tokens": torch.cat([empty, *kept]), "bounds": lengths.cumsum(0)}
        broken = {v: self._source.broken[v] for v in videos if v in self._source.broken}
        about = {
            "format": str(_FORMAT),
            "fingerprint": self.fingerprint,
            "videos": json.dumps(self._facts(number)),
            "broken": json.dumps(broken),
        }
        with replace_file(self.path(number)) as temporary:
            save_file(content, temporary, metadata=about)

    def mean_tokens(self) -> float:
        """Return the mean number of tokens of a view, of the first shard."""
        lengths = self._shard(0)[1].diff()
        kept = lengths[lengths > 0]
        return float(kept.double().mean()) if len(kept) else 0.0

    def batches(self, batches: Sequence[Sequence[Key]]) -> Iterator[list[Tensor | None]]:
        """Yield the tokens (T, D) of each clip of each batch; None for clips that are broken."""
        with ThreadPoolExecutor(1) as reader:  # reads the next batch while one is used
            ahead = None
            for batch in batches:
                following = reader.submit(self._read, batch)
                if ahead is not None:
                    yield ahead.result()
                ahead = following
            if ahead is not None:
                yield ahead.result()

    def _read(self, batch: Sequence[Key]) -> list[Tensor | None]:
        return [self._tokens(key) for key in batch]

    def _tokens(self, key: Key) -> Tensor | None:
        number, place = divmod(key.clip, self._size)
        tokens, bounds = self._shard(number)
        row = place * len(self._views) + self._numbers[key.view]
        start, end = bounds[row : row + 2].tolist()
        return tokens[start:end] if end > start else None

    def _shard(self, number: int) -> tuple[Any, Tensor]:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        file: Any = safe_open(self.path(number), framework="pt").__enter__()
        self._open[number] = file.get_slice("tokens"), file.get_tensor("bounds")
        if len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)
        return self._open[number]


class JoinedSegments:
    """Features of whole clips: the tokens of their equal parts, one part after the other.

    Attributes:
        broken: reason by video, of those that could not be read.
    """

    def __init__(self, source: CachedFeatures | StreamedFeatures, num_segments: int) -> None:
        self._source, self._num_segments = source, num_segments
        self.broken = source.broken

    def batches(self, batches: Sequence[Sequence[Key]]) -> Iterator[list[Tensor | None]]:
        """Yield the tokens (parts * T, D) of each clip; None for clips that are broken."""
        count = self._num_segments
        keys = [
            [Key(key.clip, part) for key in batch for part in segments_of(key.view, count)]
            for batch in batches
        ]
        for found in self._source.batches(keys):
            joined: list[Tensor | None] = []
            for start in range(0, len(found), count):
                parts = [part for part in found[start : start + count] if part is not None]
                joined.append(torch.cat(parts) if len(parts) == count else None)
            yield joined


def segments_of(view: ClipView, count: int) -> list[ClipView]:
    """Return the views of the equal parts of a video that together make one view."""
    return [view._replace(segment=part, segments=count) for part in range(count)]


def features_fingerprint(source: StreamedFeatures, views: Sequence[ClipView]) -> str:
    """Return 64 hexadecimal digits over all that decides the features of a video."""
    how, encoder = source.how, source.encoder
    parameter = next(encoder.model.parameters())
    content = {
        "format": _FORMAT,
        "encoder": encoder.fingerprint,
        "tokens": [encoder.size_px, encoder.num_other_tokens, getattr(encoder, "_keeps_cls", None)],
        "compute": [str(parameter.dtype), encoder.device.type],
        "input": input_settings(how, views),
        "views": [list(view) for view in views],
        "dtype": str(source.dtype),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
