"""Training data that is read in passing: endless batches of samples without numbers.

Each rank has one reader per data worker (one without workers), and batch ``n`` of a rank comes from
reader ``n`` modulo their number. What a reader gives follows from seed, rank, number of readers and
data, and it says with each batch from where it continues; a checkpoint keeps that, so that a
resumed run gets the batches that an undisturbed one would have got.

With several data sets each sample comes from one of them by chance, in proportion to the weights.
Those that are not streamed are read by number, shuffled as a whole.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from llava.data.dataset import (
    MAX_REPLACEMENTS,
    BadSample,
    Item,
    SampleBuilder,
    none_usable,
)
from llava.data.mixture import DataSource, describe_file, read_sources, with_kind
from llava.data.records import RecordError
from llava.data.sources.opening import EntrySource, open_entries, select_rows
from llava.data.sources.passes import NumberedPasses, Reader, StreamPasses
from llava.data.sources.streams import RowStream, StreamError, open_row_stream
from llava.data.sources.tables import TableName
from llava.data.stream_states import State, read_states, write_states
from llava.visual.config import VisualConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """How a run reads streams.

    Attributes:
        seed: decides the order.
        shuffle_rows: rows that a reader shuffles together.
        world_size: ranks.
        rank: this one.
        readers: readers of each rank.
        batch_rows: rows of a batch.
        packed: whether a row is filled with samples up to the greatest length.
    """

    seed: int
    shuffle_rows: int
    world_size: int
    rank: int
    readers: int
    batch_rows: int
    packed: bool

    def __post_init__(self) -> None:
        if self.shuffle_rows < 1:
            raise ValueError(f"--shuffle_buffer must be 1 or more, got {self.shuffle_rows}")


def is_streamed(data_path: str | Path, *, streaming: bool) -> bool:
    """Return whether any data set of a data path is streamed.

    Raises:
        ValueError: as ``llava.data.mixture.read_sources``.
    """
    return any(source.streaming for source in read_sources(Path(data_path), streaming=streaming))


class StreamedEntries:
    """The data sets of a data path of which at least one is streamed.

    Attributes:
        names: names of the data sets, each different.
    """

    def __init__(self, data_path: Path, plan: StreamPlan, *, streaming: bool) -> None:
        """Open the data sets.

        Raises:
            ValueError: if one is missing or broken, or a setting of the mixture is unknown.
        """
        self.plan = plan
        self.sources = tuple(read_sources(data_path, streaming=streaming))
        self.names = tuple(source.name for source in self.sources)
        self.weights = np.array([source.weight for source in self.sources])
        self._opened: list[tuple[RowStream, None] | tuple[EntrySource, np.ndarray]] = [
            self._open(source, data_path) for source in self.sources
        ]

    def _open(
        self, source: DataSource, data_path: Path
    ) -> tuple[RowStream, None] | tuple[EntrySource, np.ndarray]:
        count = self.plan.world_size * self.plan.readers
        if not source.streaming:
            entries = open_entries(source.path, source.table)
            try:
                rows = select_rows(len(entries), source.strategy, list(source.seed))
            except ValueError as error:
                raise ValueError(f"{data_path}, {source.path}: {error}") from error
            if len(rows) < count:
                raise ValueError(
                    f"{source.path} has {len(rows)} entries for {count} readers; use fewer ranks, "
                    "or fewer --dataloader_num_workers"
                )
            return entries, np.asarray(rows)
        if source.strategy != "all":
            raise ValueError(
                f"{data_path}, {source.name}: sampling_strategy {source.strategy} counts entries, "
                "which a stream cannot; give it a weight, or leave streaming out"
            )
        stream = open_row_stream(source.path, source.table or TableName(), readers=count)
        if stream.shards < count and self.plan.rank == 0:
            logger.warning(
                "%s: %d shards for %d readers (ranks times data workers): each shard is read by "
                "several of them, which keep different rows; write more shards to read less",
                source.name,
                stream.shards,
                count,
            )
        return stream, None

    def passes(
        self, number: int, reader: int, state: dict[str, int] | None
    ) -> StreamPasses | NumberedPasses:
        """Return the reading of data set ``number`` by a reader of this rank, from a state on."""
        plan = self.plan
        this = Reader(
            plan.rank * plan.readers + reader, plan.world_size * plan.readers, (plan.seed, number)
        )
        source, rows = self._opened[number]
        if isinstance(source, RowStream):
            return StreamPasses(source, this, block_rows=plan.shuffle_rows, state=state)
        assert rows is not None
        return NumberedPasses(source, rows, this, state=state)

    def describe(self) -> list[dict[str, Any]]:
        """Return per data set the source, a digest of it, and how it is read."""
        described: list[dict[str, Any]] = []
        for source, (opened, rows) in zip(self.sources, self._opened, strict=True):
            described.append(
                {
                    **describe_file(source, opened.key()),
                    "streaming": source.streaming,
                    "weight": source.weight,
                    "readers": self.plan.readers,
                    "type": source.kind,
                    **({} if source.table is None else source.table._asdict()),
                    **(
                        {"shards": opened.shards, "shuffle_buffer": self.plan.shuffle_rows}
                        if isinstance(opened, RowStream)
                        else {
                            "entries": len(opened),
                            "samples": 0 if rows is None else len(rows),
                            "sampling_strategy": source.strategy,
                            "seed": list(source.seed),
                        }
                    ),
                }
            )
        return described


class StreamedDataset(SampleBuilder, Dataset[Item]):
    """Batches of a data path that is streamed, by their numbers, which each reader takes in order.

    A sample that cannot be used raises with its name, or where that is asked for the next one of
    its reader takes its place and reports it. None is ever cut.
    """

    def __init__(
        self,
        data_path: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        visual_config: VisualConfig,
        *,
        plan: StreamPlan,
        streaming: bool = False,
        **settings: Any,
    ) -> None:
        """Open the data.

        Args:
            data_path: see ``llava.data.mixture``.
            tokenizer: see ``SampleBuilder``.
            visual_config: see there.
            plan: how the run reads.
            streaming: whether data sets that do not say so themselves are streamed.
            **settings: the further settings of ``SampleBuilder``.

        Raises:
            ValueError: if data is missing or broken, or a setting unknown.
        """
        super().__init__(data_path, tokenizer, visual_config, **settings)
        self.entries = StreamedEntries(self.data_path, plan, streaming=streaming)
        self.states: list[State | None] = [None] * plan.readers
        self._readers: dict[int, _BatchReader] = {}

    def __getitems__(self, numbers: list[int]) -> list[Item]:
        """Return the samples of the one batch that is asked for (called by ``DataLoader``)."""
        [number] = numbers
        reader = number % len(self.states)
        if reader not in self._readers:
            self._readers[reader] = _BatchReader(self, reader, self.states[reader])
        return self._readers[reader].batch(number)

    def continue_from(self, checkpoint: Path) -> None:
        """Continue behind the batches that a checkpoint was trained on.

        Raises:
            ValueError: as ``llava.data.stream_states.read_states``.
        """
        plan = self.entries.plan
        self.states[:] = read_states(
            checkpoint,
            rank=plan.rank,
            ranks=plan.world_size,
            readers=plan.readers,
            streamed={source.name: source.streaming for source in self.entries.sources},
        )

    def close(self) -> None:
        """Close the shards that this process has open."""
        for reader in self._readers.values():
            reader.close()

    def sample(self, entry: Any, where: str, set_index: int) -> Item:
        """Turn an entry into a sample.

        Raises:
            RecordError: if it cannot be used; the message names it.
        """
        kind = self.entries.sources[set_index].kind
        return self._load(self._parse(with_kind(entry, kind), where), set_index)

    @property
    def skips_bad_samples(self) -> bool:
        """Whether a sample that cannot be used is replaced."""
        return self._on_bad_sample == "skip"

    @property
    def max_length(self) -> int:
        """Most tokens of a sample, and of a packed row."""
        return self._max_length


class _BatchReader:
    """One reader of this rank."""

    def __init__(self, dataset: StreamedDataset, number: int, state: State | None) -> None:
        self._dataset, self._number = dataset, number
        state = state or {"batches": 0, "drawn": 0, "sets": [None] * len(dataset.entries.names)}
        self._batches, self._drawn = state["batches"], state["drawn"]
        self._starts: list[dict[str, int] | None] = list(state["sets"])
        self._passes: dict[int, StreamPasses | NumberedPasses] = {}
        self._waiting: tuple[Item, State] | None = None
        weights = dataset.entries.weights
        self._shares = weights / weights.sum()

    def close(self) -> None:
        for passes in self._passes.values():
            passes.close()

    def batch(self, number: int) -> list[Item]:
        plan = self._dataset.entries.plan
        if number != self._batches * plan.readers + self._number:
            raise StreamError(
                f"batch {number + 1} is asked of reader {self._number + 1} of {plan.readers}, "
                f"which has read {self._batches}: its state is not of this checkpoint, or "
                "--gradient_accumulation_steps was another; resume as before, or from another "
                "checkpoint"
            )
        items = [item for _ in range(plan.batch_rows) for item in self._row(packed=plan.packed)]
        self._batches += 1
        state = self._state() if self._waiting is None else self._waiting[1]
        items[-1]["stream"] = {"reader": self._number, **state, "batches": self._batches}
        return items

    def _state(self) -> State:
        starts = self._starts
        sets = [
            self._passes[number].state() if number in self._passes else starts[number]
            for number in range(len(starts))
        ]
        return {"drawn": self._drawn, "sets": sets}

    def _row(self, *, packed: bool) -> list[Item]:
        """Return one sample, or as many in turn as fit into a packed row."""
        row: list[Item] = []
        tokens = 0
        while packed or not row:
            before = self._state()
            item, before = self._waiting or (self._sample(), before)
            self._waiting = None
            tokens += len(item["input_ids"])
            if row and tokens > self._dataset.max_length:
                self._waiting = item, before
                break
            row.append(item)
        return row

    def _sample(self) -> Item:
        bad_samples: list[BadSample] = []
        while len(bad_samples) < MAX_REPLACEMENTS:
            number = self._draw_set()
            where, read = self._opened(number).next_row()
            try:
                item = self._dataset.sample(read(), where, number)
            except RecordError as error:
                if not self._dataset.skips_bad_samples:
                    raise
                bad_samples.append(BadSample(index=_number_of(where), message=str(error)))
            else:
                item["bad_samples"] = bad_samples
                return item
        raise none_usable(bad_samples)

    def _draw_set(self) -> int:
        plan = self._dataset.entries.plan
        seed = [plan.seed, plan.rank * plan.readers + self._number, self._drawn]
        self._drawn += 1
        if len(self._shares) == 1:
            return 0
        return int(np.random.default_rng(seed).choice(len(self._shares), p=self._shares))

    def _opened(self, number: int) -> StreamPasses | NumberedPasses:
        if number not in self._passes:
            start = self._starts[number]
            self._passes[number] = self._dataset.entries.passes(number, self._number, start)
        return self._passes[number]


def _number_of(where: str) -> int:
    """Return a number for a row that has none over the whole, the same in every pass: 53 bits."""
    return int.from_bytes(hashlib.sha256(where.encode()).digest()[:8], "little") >> 11


class StreamBatches(Sampler[list[int]]):
    """Batch sampler of one rank: yields the numbers of its batches, without an end.

    It also keeps from where the readers continue behind the batches that were trained on.
    """

    def __init__(self, dataset: StreamedDataset) -> None:
        self._states = dataset.states
        self._plan, self._names = dataset.entries.plan, dataset.entries.names

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: a stream has no epochs (called by the library)."""

    def __iter__(self) -> Iterator[list[int]]:
        number = 0
        while True:
            yield [number]
            number += 1

    def trained_on(self, stream: State) -> None:
        """Note a batch that was trained on, by what its reader said."""
        state = dict(stream)
        self._states[state.pop("reader")] = state

    def write(self, folder: Path) -> None:
        """Write from where the readers of this rank continue into a checkpoint."""
        rank, ranks = self._plan.rank, self._plan.world_size
        write_states(folder, self._states, self._names, rank=rank, ranks=ranks)
