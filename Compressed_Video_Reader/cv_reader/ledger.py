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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

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


@dataclass(frozen=True)
class Place:
    """Where the files of one sample are.

    Attributes:
        name: name of the output: of its folder, or what its files' names begin with.
        inputs: paths of the files that it is made of.
        outputs: path of its folder, with a slash at the end, or of its files.
    """

    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]


@dataclass(frozen=True)
class LedgerEntry:
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

    def find(self, place: Place, *, is_trusted: bool = False) -> LedgerEntry | None:
        """Return what is recorded of a sample whose inputs, and outputs if finished, are the same.

        Args:
            place: the sample.
            is_trusted: do not look at the outputs.

        Returns:
            None where it is unknown or anything differs.
        """
        row = self._row(place.name)
        if row is None or row[0] not in (FINISHED, FAILED):
            return None
        state, inputs, outputs, tries, kind, reason = row
        if inputs is None or inputs != digest(place.inputs):
            return None
        is_open = state == FINISHED and not is_trusted
        if is_open and (outputs is None or outputs != digest(place.outputs)):
            return None
        return LedgerEntry(state, tries, kind or "", reason or "")

    def _row(self, name: str) -> tuple[Any, ...] | None:
        if self._connection is None or self._settings < 0:
            return None
        try:
            row = self._connection.execute(
                "select state, inputs, outputs, tries, kind, reason, settings from record"
                " where name = ?",
                (name,),
            ).fetchone()
        except sqlite3.DatabaseError:
            return None
        return row[:6] if row is not None and row[6] == self._settings else None

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
                with os.scandir(path) as entries:
                    for entry in entries:
                        status = entry.stat()
                        facts.append((entry.name, status.st_size, status.st_mtime_ns))
            else:
                status = os.stat(path)
                facts.append((os.path.basename(path), status.st_size, status.st_mtime_ns))
    except OSError:
        return None
    facts.sort()
    return digest_of(facts)


def digest_of(facts: Sequence[tuple[str, int, int]]) -> bytes:
    """Return 16 bytes over sorted (name, size in bytes, time in ns)."""
    return hashlib.blake2b(repr(facts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
