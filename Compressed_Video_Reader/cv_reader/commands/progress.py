"""Run the tasks of a command, and report: progress, failures, summary, findings of a dry run."""

import argparse
import contextlib
import json
import os
import random
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from cv_reader.assets.files import temporary_path, write_json, writing
from cv_reader.commands.convert.output import TarOutput
from cv_reader.commands.doctor import versions
from cv_reader.cores import available_cores
from cv_reader.engines import local
from cv_reader.engines.choice import limits_from, run_by_engine
from cv_reader.engines.tasks import Failure, Settled, TaskOutcome
from cv_reader.errors import CvReaderError, OutputError, SettingsError
from cv_reader.exits import FAILED_SAMPLES, OK, say, shortened
from cv_reader.ledger import FINISHED, Ledger, LedgerEntry, Place
from cv_reader.remote.transfer import Counted
from cv_reader.select.config import AssetConfig
from cv_reader.shards import MARK, is_in_shard

T = TypeVar("T")

_LINE_SECONDS = 30.0
_TRIALS = 3
_WORK = ("made", "failed")
_MIB = 1 << 20
_MAX_FIELD_CHARS, _MAX_REASON_CHARS = 500, 2000


class Report(AbstractContextManager["Report"]):
    """Counts, the failure file and progress of one run.

    Args:
        name: name of the command, for messages.
        fail_path: gets one JSON line per failed sample; emptied at the start, and removed at the
            end where nothing failed.
        log_every: samples per progress line; there is one every half minute too.
        total: samples in all.

    Raises:
        SettingsError: if the failure file cannot be written.
    """

    def __init__(self, name: str, fail_path: Path, log_every: int, total: int) -> None:
        self._name, self._fail_path, self._log_every = name, fail_path, max(log_every, 1)
        self._total, self._done = total, 0
        self._started = self._last_line = self._last_sample = time.monotonic()
        self._busy_seconds = 0.0
        self.counts = {"made": 0, "kept": 0, "skipped": 0, "failed": 0}
        self.remade = 0
        self._moved = Counter[str]()
        try:
            fail_path.parent.mkdir(parents=True, exist_ok=True)
            self._failures = fail_path.open("w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise SettingsError(
                f"{fail_path}: cannot be written ({error.strerror}); choose another output"
            ) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._failures.close()
        with contextlib.suppress(OSError):
            if self._fail_path.is_file() and self._fail_path.stat().st_size == 0:
                self._fail_path.unlink()

    def count(self, what: str) -> None:
        """Count a sample.

        Args:
            what: ``made``, ``remade`` (made in place of damaged or outdated output), ``kept`` (was
                up to date), ``skipped`` or ``failed``.
        """
        if isinstance(what, Counted):
            self._moved.update(what.amounts())
        if what == "remade":
            self.remade += 1
            what = "made"
        self.counts[what] += 1
        self._done += 1
        now = time.monotonic()
        if what in _WORK:
            self._busy_seconds += now - self._last_sample
        self._last_sample = now
        if self._done % self._log_every == 0 or now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            say(f"{self._name}: {self._done} of {self._total}: {self._counts_text()}{self._pace()}")

    def _rate(self) -> float:
        """Return videos per second of those that were worked on.

        Those found up to date take little time, and say nothing about the rest.
        """
        return sum(self.counts[what] for what in _WORK) / max(self._busy_seconds, 1e-9)

    def _pace(self) -> str:
        rate = self._rate()
        if not rate:
            return ""
        left = (self._total - self._done) / rate
        return f", {rate:.2f} videos/s, {duration_text(left)} left at most"

    def fail(self, failure: Failure, **sample: object) -> None:
        """Record a failed sample.

        Raises:
            OutputError: if the output as a whole cannot be written: other samples fail alike.
        """
        reason = shortened(failure.reason, _MAX_REASON_CHARS)
        named = {name: _short(value) for name, value in sample.items()}
        record = {**named, "kind": failure.kind, "reason": reason}
        if failure.details:
            record["details"] = shortened(failure.details, _MAX_REASON_CHARS)
        with writing(self._fail_path):
            self._failures.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._failures.flush()
        shown = ", ".join(f"{name} {value!r}" for name, value in named.items() if value)
        say(f"{self._name}: failed: {shown}: {reason}")
        self.count("failed")
        if failure.kind == OutputError.__name__:
            raise OutputError(failure.reason)

    def finish(self, summary_path: Path, config: AssetConfig) -> int:
        """Write the summary, print it, and return the exit code."""
        seconds = time.monotonic() - self._started
        summary = {
            "command": self._name,
            "total": self._total,
            **self.counts,
            "remade": self.remade,
            **({"remote": dict(self._moved)} if self._moved.total() else {}),
            "seconds": seconds,
            "videos_per_second": self._rate(),
            "fingerprint": config.fingerprint,
            "settings": config.to_dict(),
            "failure_file": str(self._fail_path) if self.counts["failed"] else None,
        }
        write_json(summary_path, summary)
        say(f"{self._name}: {self._counts_text()} in {duration_text(seconds)}")
        if self.remade:
            say(f"{self._name}: {self.remade} of these replaced damaged or outdated output")
        if self._moved.total():
            say(f"{self._name}: {self._moved_text()}")
        if not self.counts["failed"]:
            return OK
        say(f"{self._name}: failures are listed in {self._fail_path}")
        return FAILED_SAMPLES

    def _moved_text(self) -> str:
        read, videos = self._moved["bytes_read"], self._moved["video_bytes"]
        share = f" ({read / videos:.1%} of {videos / _MIB:.1f} MiB of videos)" if videos else ""
        return (
            f"read {read / _MIB:.1f} MiB from remote storage{share}, wrote"
            f" {self._moved['bytes_written'] / _MIB:.1f} MiB, tried"
            f" {self._moved['retries']} transfers again"
        )

    def _counts_text(self) -> str:
        return ", ".join(f"{number} {what}" for what, number in self.counts.items())


def check_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be made or written; nothing is left in it.

    Raises:
        SettingsError: The folder cannot be made or written; the message has the system's reason.
            Or its path would be read as one into a shard.
    """
    if is_in_shard(folder):
        raise SettingsError(f"{folder}: {MARK} leads into a shard; choose another output folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = temporary_path(folder)
        trial.touch(exist_ok=False)
        trial.unlink(missing_ok=True)
    except OSError as error:
        raise SettingsError(
            f"{folder}: cannot be written ({error.strerror}); choose another output folder"
        ) from error


def run_samples(
    function: Callable[[Any], Any], tasks: Iterable[Any], args: argparse.Namespace
) -> Iterable[TaskOutcome[Any, Any]]:
    """Run tasks by the command's engine and limits; outcomes come in the order of the tasks."""
    return run_by_engine(function, tasks, args, versions)


def run_unfinished(
    function: Callable[[Any], Any],
    tasks: Iterable[Any],
    args: argparse.Namespace,
    ledger: Ledger,
    place_of: Callable[[Any], Place | None],
    shards: TarOutput | None = None,
) -> Iterator[TaskOutcome[Any, Any]]:
    """Run the tasks that a ledger does not know as finished, and record what becomes of them.

    Args:
        function: returns ``made``, ``remade``, ``kept`` or ``skipped``.
        tasks: consumed lazily.
        args: arguments of the command.
        ledger: of this shard.
        place_of: the place of a task's files; None for a task that has none.
        shards: what finished folders are packed into, if they are.

    Yields:
        One outcome per task, in the order of the tasks; ``kept`` for those that are finished.
    """
    settled: deque[TaskOutcome[Any, Any]] = deque()
    places: deque[Place | None] = deque()

    def unsettled() -> Iterator[Any]:
        for task, place, record in _looked_up(tasks, args, ledger, place_of, shards):
            places.append(place)
            outcome = record and _settle(task, record, args.max_tries)
            if outcome is None:
                yield task
            else:
                settled.append(outcome)
                yield Settled(outcome)

    for outcome in run_samples(function, unsettled(), args):
        place = places.popleft()
        if settled and settled[0] is outcome:
            settled.popleft()
        elif place and outcome.failure is not None:
            ledger.fail(place, outcome.failure.kind, outcome.failure.reason)
        elif place and outcome.value != "skipped":
            ledger.finish(place)
        if place and shards and outcome.failure is None and outcome.value != "skipped":
            shards.add(place)
        yield outcome


def _looked_up(
    tasks: Iterable[Any],
    args: argparse.Namespace,
    ledger: Ledger,
    place_of: Callable[[Any], Place | None],
    shards: TarOutput | None,
) -> Iterator[tuple[Any, Place | None, LedgerEntry | None]]:
    """Give each task with its place and what the ledger says of it."""
    is_trusted = args.trust_ledger
    if shards is None and not args.overwrite:
        num_processes = min(args.num_workers, available_cores())
        yield from ledger.find_all(
            tasks, place_of, is_trusted=is_trusted, num_processes=num_processes
        )
        return
    for task in tasks:
        place = place_of(task)
        if place is None or args.overwrite:
            yield task, place, None
        elif shards and shards.is_kept(task, place, is_trusted=is_trusted):
            yield task, place, LedgerEntry(FINISHED, 0, "", "")
        else:
            yield task, place, ledger.find(place, is_trusted=is_trusted)


def _settle(task: Any, record: LedgerEntry, max_tries: int) -> TaskOutcome[Any, Any] | None:
    if record.state == FINISHED:
        return TaskOutcome(task, "kept", None)
    if max_tries and record.tries >= max_tries:
        reason = f"{record.reason} (not tried again: failed in {record.tries} runs, --max_tries)"
        return TaskOutcome(task, None, Failure(record.kind, reason))
    return None


def announce(name: str, total: int, args: Any) -> None:
    """Say that existing output was checked, and what work begins."""
    workers = f"{args.num_workers} workers" if args.num_workers > 1 else "1 worker"
    say(f"{name}: {total} samples to go through with {workers}")


def _short(value: object) -> object:
    """Return an id or a path short enough for a message; other values are kept where short."""
    if isinstance(value, (int, float, type(None))):
        return value
    return shortened(value if isinstance(value, str) else repr(value), _MAX_FIELD_CHARS)


def looked_over(name: str, samples: Iterable[T]) -> Iterator[T]:
    """Pass on the samples that are checked before a run, and report progress each half minute."""
    last_line = time.monotonic()
    for number, sample in enumerate(samples):
        if time.monotonic() - last_line >= _LINE_SECONDS:
            last_line = time.monotonic()
            say(f"{name}: checking existing output: {number} samples so far")
        yield sample


def dry_run(
    name: str,
    tasks: Iterable[Any],
    state: Callable[[Any], str],
    trial: Callable[[Path, Any], object],
    args: Any,
) -> int:
    """Say what there is to do and estimate its cost, from a few samples made in a scratch folder.

    Args:
        name: name of the command.
        tasks: all samples.
        state: returns ``kept`` or ``make``; raises CvReaderError or OSError for a sample that
            cannot be made.
        trial: makes one sample in a folder; importable by name.
        args: arguments of the command.
    """
    counts: Counter[str] = Counter()
    picked: list[Any] = []
    chance = random.Random(0)
    for task in tasks:
        try:
            found = state(task)
        except (CvReaderError, OSError) as error:
            found = "cannot"
            if not counts[found]:
                say(f"{name}: the first that cannot be made: {error}")
        counts[found] += 1
        if found == "make":
            # Reservoir sampling: every sample has the same chance to be tried.
            number = counts[found] - 1
            number = number if number < _TRIALS else chance.randrange(number + 1)
            picked[number : number + 1] = [task] if number < _TRIALS else []
    say(
        f"{name}: dry run: {counts['make']} to make, {counts['kept']} up to date, "
        f"{counts['cannot']} that cannot be made"
    )
    if picked:
        _estimate(name, counts["make"], picked, trial, args)
    return OK


def _estimate(
    name: str, count: int, picked: list[Any], trial: Callable[[Path, Any], object], args: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tried = partial(_timed, trial, Path(folder))
        # In this process, with every engine: other machines do not see the scratch folder.
        outcomes = list(local.run_tasks(tried, picked, limits_from(args)))
        seconds = [float(outcome.value or 0) for outcome in outcomes if outcome.failure is None]
        sizes = [path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()]
    failed = [outcome.failure.reason for outcome in outcomes if outcome.failure]
    if failed:
        say(
            f"{name}: {len(failed)} of {len(picked)} that were tried failed, the first: {failed[0]}"
        )
    if seconds:
        # More workers than cores do not go faster.
        at_once = max(1, min(args.num_workers, os.cpu_count() or 1))
        total = sum(seconds) / len(seconds) * count / at_once
        disk = sum(sizes) / len(seconds) * count / _MIB
        say(
            f"{name}: about {duration_text(total)} with {args.num_workers} workers and "
            f"{disk:.1f} MiB of disk, measured on {len(seconds)} of them; nothing was written"
        )


def _timed(trial: Callable[[Path, Any], object], folder: Path, task: Any) -> float:
    started = time.monotonic()
    trial(folder, task)
    return time.monotonic() - started


def duration_text(seconds: float) -> str:
    """Return a duration with its units: 7.3 s, 3 min 20 s, 5 h 03 min, 2 d 05 h.

    ``run_kit.pages.text`` has the same, for packages that may import it.
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02} h"
