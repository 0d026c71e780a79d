"""Endless reading of a source by one of several readers: pass after pass, each in another order.

In one pass the readers read disjoint parts, and together all of it. A reader that is done starts
its next pass without waiting for the others. Where a reader is follows from few numbers, so that a
resumed run continues with the very next row:

- a stream is shuffled in two ways: the order of its shards, which are dealt to the readers anew in
  each pass, and block by block within a reader's part. A reader returns to the start of its block
  and reads that again, no more;
- numbered entries are shuffled as a whole.
"""

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import numpy as np

from llava.data.sources.opening import EntrySource
from llava.data.sources.streams import RowStream, StreamError

_MAX_BLOCK_BYTES = 1 << 28
"""A block is closed early where its rows are large, for example by pictures."""
_MAX_EMPTY_PASSES = 20


class Reader(NamedTuple):
    """One of the readers of a source.

    Attributes:
        number: this one.
        readers: all of them, over all ranks.
        seed: decides the order, for this source.
    """

    number: int
    readers: int
    seed: tuple[int, ...]


class Drawn(NamedTuple):
    """The next row of a reader: its place, and a function that makes an entry of it.

    ``read`` raises ``RecordError`` where the row cannot be one.
    """

    where: str
    read: Callable[[], Any]


def shares_of(order: np.ndarray, reader: Reader) -> tuple[list[int], int, int]:
    """Return the shards of a reader in one pass, and which of their rows it takes.

    Args:
        order: all shards in the order of the pass, int64.
        reader: this reader.

    Returns:
        The shards, a step and an offset: of each shard the rows ``offset::step``. The step is 1
        unless there are fewer shards than readers, which then share a shard.
    """
    if len(order) >= reader.readers:
        return order[reader.number :: reader.readers].tolist(), 1, 0
    place = reader.number % len(order)
    sharing = len(range(place, reader.readers, len(order)))
    return [int(order[place])], sharing, reader.number // len(order)


class StreamPasses:
    """Reads its part of a stream for ever."""

    def __init__(
        self, stream: RowStream, reader: Reader, *, block_rows: int, state: dict[str, int] | None
    ) -> None:
        """Read up to the place of a state; from the start without one.

        Args:
            stream: the rows.
            reader: which part of them.
            block_rows: rows that are shuffled together.
            state: result of ``state``.

        Raises:
            StreamError: as ``next_row``.
        """
        self._stream, self._reader, self._block_rows = stream, reader, block_rows
        self._block: list[tuple[int, int, dict[str, Any]]] = []
        self._rows: Generator[dict[str, Any], None, None] | None = None
        self._taken = 0
        self._start_pass(0)
        self._start = self._place()
        if state is not None:
            self._start_pass(state["pass"])
            self._at, self._row = state["shard"], state["row"]
            self._next_block = state["block"]
            self._fill()
            for _ in range(min(state["taken"], len(self._block))):  # rows may have gone
                self._take()

    def state(self) -> dict[str, int]:
        """Return where the next row is: the start of its block, and how many come before it."""
        return {**(self._start if self._block else self._place()), "taken": self._taken}

    def next_row(self) -> Drawn:
        """Return the next row.

        Raises:
            StreamError: The stream cannot be read on, or has nothing for this reader.
        """
        if not self._block:
            self._fill()
        shard, row, raw = self._take()
        where = self._stream.where(shard, row)
        return Drawn(where, lambda: self._stream.entry(raw, where))

    def close(self) -> None:
        """Close the shard that is open, before the interpreter takes its reader to pieces."""
        if self._rows is not None:
            self._rows.close()

    def _place(self) -> dict[str, int]:
        return {
            "pass": self._pass,
            "shard": self._at,
            "row": self._row,
            "block": self._next_block,
        }

    def _take(self) -> tuple[int, int, dict[str, Any]]:
        taken = self._block.pop()
        self._taken = self._taken + 1 if self._block else 0
        return taken

    def _start_pass(self, number: int) -> None:
        order = np.random.default_rng([*self._reader.seed, number]).permutation(self._stream.shards)
        self._shards, self._step, self._offset = shares_of(order, self._reader)
        self._pass, self._at, self._row, self._next_block = number, 0, 0, 0

    def _fill(self) -> None:
        """Read the next block, over the end of a pass that has no more rows."""
        for _ in range(_MAX_EMPTY_PASSES):
            self._start = self._place()
            rows: list[tuple[int, int, dict[str, Any]]] = []
            size = 0
            while len(rows) < self._block_rows and size < _MAX_BLOCK_BYTES:
                read = self._read()
                if read is None:
                    break
                rows.append(read)
                size += _size_bytes(read[2])
            if rows:
                seed = [*self._reader.seed, self._pass, self._next_block, self._reader.number]
                order = np.random.default_rng(seed).permutation(len(rows))
                self._block, self._taken = [rows[place] for place in order], 0
                self._next_block += 1
                return
            self._start_pass(self._pass + 1)
        raise StreamError(
            f"stream {self._stream.path} has no rows for reader {self._reader.number + 1} of "
            f"{self._reader.readers}; use fewer ranks, or fewer --dataloader_num_workers"
        )

    def _read(self) -> tuple[int, int, dict[str, Any]] | None:
        """Return (shard, row, raw row) of this reader's next row; None at the end of a pass."""
        while self._at < len(self._shards):
            shard = self._shards[self._at]
            if self._rows is None:
                self._rows = self._stream.rows(shard, self._row)
            for raw in self._rows:
                row, self._row = self._row, self._row + 1
                if row % self._step == self._offset:
                    return shard, row, raw
            self._rows = None
            self._at, self._row = self._at + 1, 0
        return None


class NumberedPasses:
    """Reads its part of numbered entries for ever, as a stream is read."""

    def __init__(
        self,
        entries: EntrySource,
        rows: np.ndarray,
        reader: Reader,
        *,
        state: dict[str, int] | None,
    ) -> None:
        """Find the place of a state; the start without one.

        Args:
            entries: the source.
            rows: rows that are taken of it, int64, as many as readers or more.
            reader: which part of them.
            state: result of ``state``.
        """
        self._entries, self._all, self._reader = entries, rows, reader
        self._start_pass(0 if state is None else state["pass"])
        self._taken = 0 if state is None else state["taken"]

    def state(self) -> dict[str, int]:
        """Return where the next row is: its pass, and how many come before it."""
        return {"pass": self._pass, "taken": self._taken}

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def next_row(self) -> Drawn:
        """Return the next entry."""
        if self._taken >= len(self._mine):  # more where rows have gone since the state
            self._start_pass(self._pass + 1)
        row = int(self._mine[self._taken])
        self._taken += 1
        return Drawn(self._entries.where(row), lambda: self._entries.read(row))

    def _start_pass(self, number: int) -> None:
        order = np.random.default_rng([*self._reader.seed, number]).permutation(self._all)
        self._mine = order[self._reader.number :: self._reader.readers]
        self._pass, self._taken = number, 0


def _size_bytes(value: Any) -> int:
    """Return about how much memory the contents of a row take."""
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size_bytes, value.values()))
    return sum(map(_size_bytes, value)) if isinstance(value, list) else 8
