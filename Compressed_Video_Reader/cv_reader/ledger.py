"""The ledger of an output: which samples are finished or failed, without a look at their content.

One SQLite file per shard, ``.cv_reader.ledger.<shard>.sqlite`` in the output folder. A run appends
what it finishes; the next one compares names, sizes and times of a sample's files, a few system
calls, before anything is handed to a worker. What differs, or is not in the ledger, is checked in
full as before; so a ledger may be deleted at any time. It is written by the run that has claimed
the shard, and needs no locks of the file system.
"""

import contextlib
import hashlib
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

from cv_reader.engines import local
from cv_reader.engines.tasks import Limits
from cv_reader.exits import say

FINISHED, FAILED, STALE = "finished", "failed", "stale"

_SCHEMA = """
create table if not exists settings (id integer primary key, text text unique not null);
create table if not exists record (
    name text primary key, state text not null, settings integer not null, inputs blob,
    outputs blob, tries integer not null, kind text, reason text
) without rowid;
"""
_COMMIT_SECONDS, _COMMIT_RECORDS = 2.0, 5000
_MAX_REASON_CHARS = 2000
_BATCH_SAMPLES, _ALONE_SAMPLES = 512, 8192
"""Samples that a process looks over at a time, and those before helping processes are started."""
_BATCH_MARKS = ",".join("?" * _BATCH_SAMPLES)

T = TypeVar("T")


class Place(NamedTuple):
    """Where the files of one sample are.

    Attributes:
        name: name of the output: of its folder, or what its files' names begin with.
        inputs: paths of the files that it is made of.
        outputs: path of its folder, with a slash at the end, or of its files.
    """

    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]


class LedgerEntry(NamedTuple):
    """What the ledger says of a sample whose inputs have not changed.

    Attributes:
        state: ``FINISHED`` or ``FAILED``.
        tries: runs in which it failed.
        kind: of the failure.
        reason: of the failure.
    """

    state: str
    tries: int
    kind: str
    reason: str


def ledger_path(folder: Path, part: str) -> Path:
    """Return the path of a shard's ledger."""
    return folder / f".cv_reader.ledger.{part}.sqlite"


_Row = tuple[Any, ...]


_Question = tuple[bytes, Sequence[str], bytes | None, Sequence[str] | None]
"""Digest and paths of a record's inputs, and of its outputs; no paths where they do not matter.

Plain tuples, as many of them are sent to processes.
"""


@dataclass(frozen=True)
class _Batch(Generic[T]):
    """Some tasks, with their places and records where they have them."""

    tasks: list[T]
    places: list[Place | None]
    rows: list[_Row | None]
    questions: list[_Question]
    """One for each record, in their order."""


class Ledger(contextlib.AbstractContextManager["Ledger"]):
    """The ledger of one shard.

    Args:
        path: made where it does not exist; replaced where it is damaged.
        settings: everything that decides whether a sample would be made again: what was recorded
            under other settings counts as unknown.
        is_read_only: read what is there, and make nothing; for checks before a run.
    """

    def __init__(self, path: Path, settings: str, *, is_read_only: bool = False) -> None:
        self._path, self._settings_text = path, settings
        self._pending, self._last_commit = 0, time.monotonic()
        self._connection: sqlite3.Connection | None = None
        self._settings = -1
        if is_read_only and not path.exists():
            return
        try:
            self._open(is_read_only)
        except sqlite3.DatabaseError as error:
            self.close()
            if is_read_only:
                return
            say(f"{path}: the ledger is damaged ({error}); it is begun again")
            path.unlink(missing_ok=True)
            self._open(is_read_only)

    def _open(self, is_read_only: bool) -> None:
        # The shard is claimed by a lock of our own; SQLite's locks fail on network file systems.
        mode = "mode=ro&immutable=1" if is_read_only else "vfs=unix-none"
        name = quote(str(self._path.absolute()))
        self._connection = sqlite3.connect(f"file:{name}?{mode}", uri=True, isolation_level=None)
        run = self._connection.execute
        # Without it every statement would look for changes by other processes.
        run("pragma locking_mode = exclusive")
        run("pragma cache_size = -65536")
        if is_read_only:
            found = run("select id from settings where text = ?", (self._settings_text,)).fetchone()
            self._settings = found[0] if found else -1
            return
        run("pragma synchronous = normal")
        self._connection.executescript(_SCHEMA)
        self._settings = self._id_of(self._settings_text)

    def _id_of(self, settings: str) -> int:
        assert self._connection is not None
        run = self._connection.execute
        run("insert or ignore into settings (text) values (?)", (settings,))
        return int(run("select id from settings where text = ?", (settings,)).fetchone()[0])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is pending, and close the file."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.DatabaseError):
                self._commit()
            self._connection.close()
            self._connection = None

    def is_known(self, name: str) -> bool:
        """Return whether a sample was finished with these settings; nothing else is looked at."""
        row = self._row(name)
        return row is not None and row[0] == FINISHED

    def marked(self, samples: Iterable[T], name_of: Callable[[T], str]) -> Iterator[tuple[T, bool]]:
        """Give each sample with what ``is_known`` says of its name; they are read a batch ahead."""
        left = iter(samples)
        while some := list(islice(left, _BATCH_SAMPLES)):
            names = list(map(name_of, some))
            rows = self._rows(names)
            for sample, name in zip(some, names, strict=True):
                row = rows.get(name)
                yield sample, row is not None and row[0] == FINISHED

    def find(self, place: Place, *, is_trusted: bool = False) -> LedgerEntry | None:
        """Return what is recorded of a sample whose inputs, and outputs if finished, are the same.

        Args:
            place: the sample.
            is_trusted: do not look at the outputs.

        Returns:
            None where it is unknown or anything differs.
        """
        row = _open(self._row(place.name))
        if row is None:
            return None
        return _entry(row, is_same=_answer(_question(row, place, is_trusted=is_trusted)))

    def find_all(
        self,
        tasks: Iterable[T],
        place_of: Callable[[T], Place | None],
        *,
        is_trusted: bool,
        num_processes: int,
    ) -> Iterator[tuple[T, Place | None, LedgerEntry | None]]:
        """Give each task with its place and what ``find`` says of it, in the order of the tasks.

        Args:
            tasks: consumed lazily, a batch ahead; once many have been looked up, a batch for each
                process.
            place_of: the place of a task's files; None for a task that has none.
            is_trusted: as for ``find``.
            num_processes: processes that look at files, where there are many.
        """
        for batch, answers in _answered(
            self._batches(tasks, place_of, is_trusted=is_trusted), num_processes
        ):
            found = iter(answers)
            for task, place, row in zip(batch.tasks, batch.places, batch.rows, strict=True):
                yield task, place, _entry(row, is_same=next(found)) if row else None

    def _batches(
        self, tasks: Iterable[T], place_of: Callable[[T], Place | None], *, is_trusted: bool
    ) -> Iterator[_Batch[T]]:
        left = iter(tasks)
        while some := list(islice(left, _BATCH_SAMPLES)):
            places = list(map(place_of, some))
            found = self._rows([place.name for place in places if place])
            batch: _Batch[T] = _Batch(some, places, [], [])
            for place in places:
                row = _open(found.get(place.name)) if place else None
                batch.rows.append(row)
                if place and row:
                    batch.questions.append(_question(row, place, is_trusted=is_trusted))
            yield batch

    def _row(self, name: str) -> _Row | None:
        return self._rows([name]).get(name)

    def _rows(self, names: Sequence[str]) -> dict[str, _Row]:
        """Return the records of names, a batch at most, with these settings."""
        if self._connection is None or self._settings < 0 or not names:
            return {}
        marks = "?" if len(names) == 1 else _BATCH_MARKS
        padded = [*names, *[names[0]] * (marks.count("?") - len(names))]
        try:
            rows = self._connection.execute(
                "select name, state, inputs, outputs, tries, kind, reason from record"
                f" where name in ({marks}) and settings = {self._settings:d}",
                padded,
            )
            return {row[0]: row[1:] for row in rows}
        except sqlite3.DatabaseError:
            return {}

    def finish(self, place: Place) -> None:
        """Record a sample as finished, with the state of its files at this moment."""
        inputs, outputs = digest(place.inputs), digest(place.outputs)
        self._put(place.name, FINISHED, self._settings, inputs, outputs, 0, "", "")

    def fail(self, place: Place, kind: str, reason: str) -> None:
        """Record one more failure of a sample."""
        row = self._row(place.name)
        inputs = digest(place.inputs)
        tries = row[3] if row is not None and row[0] == FAILED and row[1] == inputs else 0
        self._put(place.name, FAILED, self._settings, inputs, None, tries + 1, kind, reason)

    def put_state(
        self, place: Place, settings: str, state: str, inputs: bytes, reason: str
    ) -> None:
        """Record what a validation found of a sample.

        Args:
            place: its inputs are not looked at.
            settings: those that it was made with.
            state: ``FINISHED``, ``FAILED`` or ``STALE``.
            inputs: see ``digest_of``.
            reason: why it is not finished.
        """
        number = self._id_of(settings)
        self._put(place.name, state, number, inputs, digest(place.outputs), 0, "", reason)

    def _put(self, name: str, state: str, settings: int, *content: Any) -> None:
        assert self._connection is not None
        inputs, outputs, tries, kind, reason = content
        if not self._pending:
            self._connection.execute("begin")
        self._connection.execute(
            "insert or replace into record values (?, ?, ?, ?, ?, ?, ?, ?)",
            (name, state, settings, inputs, outputs, tries, kind, reason[:_MAX_REASON_CHARS]),
        )
        self._pending += 1
        is_late = time.monotonic() - self._last_commit > _COMMIT_SECONDS
        if is_late or self._pending >= _COMMIT_RECORDS:
            self._commit()

    def _commit(self) -> None:
        if self._pending and self._connection is not None:
            self._connection.execute("commit")
        self._pending, self._last_commit = 0, time.monotonic()


def _open(row: _Row | None) -> _Row | None:
    """Return a record if it holds as long as the sample's files are the same."""
    is_open = row is not None and row[0] in (FINISHED, FAILED) and row[1] is not None
    return row if is_open else None


def _question(row: _Row, place: Place, *, is_trusted: bool) -> _Question:
    is_looked_at = row[0] == FINISHED and not is_trusted
    return row[1], place.inputs, row[2], place.outputs if is_looked_at else None


def _answer(question: _Question) -> bool:
    """Return whether the files of a sample are those of its record."""
    known_inputs, inputs, known_outputs, outputs = question
    if digest(inputs) != known_inputs:
        return False
    return outputs is None or (known_outputs is not None and digest(outputs) == known_outputs)


def _answer_all(questions: Sequence[_Question]) -> list[bool]:
    return list(map(_answer, questions))


def _entry(row: _Row, *, is_same: bool) -> LedgerEntry | None:
    return LedgerEntry(row[0], row[3], row[4] or "", row[5] or "") if is_same else None


def _answered(
    batches: Iterator[_Batch[T]], num_processes: int
) -> Iterator[tuple[_Batch[T], list[bool]]]:
    """Give each batch with its answers: those of the first here, of all others by processes."""
    num_answered = 0
    for batch in batches:
        yield batch, _answer_all(batch.questions)
        num_answered += len(batch.questions)
        if num_answered >= _ALONE_SAMPLES and num_processes > 1:
            break
    ahead: deque[_Batch[T]] = deque()

    def asked() -> Iterator[list[_Question]]:
        for batch in batches:
            ahead.append(batch)
            yield batch.questions

    for outcome in local.run_tasks(_answer_all, asked(), Limits(num_workers=num_processes)):
        # What became of a process that was lost does not matter: this one can look, too.
        answers = _answer_all(outcome.task) if outcome.value is None else outcome.value
        yield ahead.popleft(), answers


def digest(paths: Sequence[str]) -> bytes | None:
    """Return 16 bytes over name, size and time of files, and of the files of folders.

    Returns:
        None where one is missing or cannot be looked at.
    """
    # A million samples of a dozen files: this loop is most of what starting again takes.
    facts: list[tuple[str, int, int]] = []
    try:
        for path in paths:
            if path.endswith("/"):
                facts += _folder_facts(path)
            else:
                status = os.stat(path)
                facts.append((os.path.basename(path), status.st_size, status.st_mtime_ns))
    except OSError:
        return None
    facts.sort()
    return digest_of(facts)


def _folder_facts(path: str) -> list[tuple[str, int, int]]:
    # By its handle a file is found at once, and not from the root: that saves a quarter.
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(handle) as entries:
            return [
                (entry.name, status.st_size, status.st_mtime_ns)
                for entry in entries
                for status in (entry.stat(),)
            ]
    finally:
        os.close(handle)


def digest_of(facts: Sequence[tuple[str, int, int]]) -> bytes:
    """Return 16 bytes over sorted (name, size in bytes, time in ns)."""
    return hashlib.blake2b(repr(facts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
