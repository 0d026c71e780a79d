"""What a run tells: progress, the failure file, the summary, and what a dry run finds."""

import errno
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from cv_reader.assets.files import write_json
from cv_reader.commands.arguments import EXIT_DONE, EXIT_SOME_FAILED, run_tasks, say
from cv_reader.engines.worker_process import DISK_FULL, Failure
from cv_reader.errors import CvReaderError, SettingsError
from cv_reader.select.config import AssetConfig

T = TypeVar("T")

_LINE_SECONDS = 30.0
_TRIALS = 3
_WORK = ("made", "failed")
_MIB = 1 << 20


class Report(AbstractContextManager["Report"]):
    """Counts, the failure file and progress of one run.

    Args:
        name: of the command, in messages.
        fail_path: one JSON line per failed sample; emptied at the start.
        log_every: samples per progress line; there is one every half minute too.
        total: samples in all.

    Raises:
        SettingsError: if the failure file cannot be written.
    """

    def __init__(self, name: str, fail_path: Path, log_every: int, total: int) -> None:
        self._name, self._fail_path, self._log_every = name, fail_path, max(log_every, 1)
        self._total = total
        self._started = self._last_line = self._last_sample = time.monotonic()
        self._busy_seconds = 0.0
        self.counts = {"made": 0, "kept": 0, "skipped": 0, "failed": 0}
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

    def count(self, what: str) -> None:
        """Count a sample as ``made``, ``kept`` (was up to date), ``skipped`` or ``failed``."""
        self.counts[what] += 1
        now = time.monotonic()
        if what in _WORK:
            self._busy_seconds += now - self._last_sample
        self._last_sample = now
        if self._done % self._log_every == 0 or now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            say(f"{self._name}: {self._done} of {self._total}: {self._counts_text()}{self._pace()}")

    @property
    def _done(self) -> int:
        return sum(self.counts.values())

    def _rate(self) -> float:
        """Videos per second of those that were worked on.

        What was found up to date went by fast, and says nothing about the rest.
        """
        return sum(self.counts[what] for what in _WORK) / max(self._busy_seconds, 1e-9)

    def _pace(self) -> str:
        rate = self._rate()
        if not rate:
            return ""
        left = (self._total - self._done) / rate
        return f", {rate:.2f} videos/s, {duration(left)} left at most"

    def fail(self, failure: Failure, **sample: object) -> None:
        """Record a failed sample.

        Raises:
            OSError: if the disk is full, for then nothing else will work.
        """
        record = {**sample, "kind": failure.kind, "reason": failure.reason}
        if failure.details:
            record["details"] = failure.details
        self._failures.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._failures.flush()
        named = ", ".join(f"{name} {value!r}" for name, value in sample.items() if value)
        say(f"{self._name}: failed: {named}: {failure.reason}")
        self.count("failed")
        if failure.kind == DISK_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def finish(self, summary_path: Path, config: AssetConfig) -> int:
        """Write the summary, say it, and give the exit code."""
        seconds = time.monotonic() - self._started
        summary = {
            "command": self._name,
            "total": self._total,
            **self.counts,
            "seconds": seconds,
            "videos_per_second": self._rate(),
            "fingerprint": config.fingerprint,
            "settings": config.to_dict(),
            "failure_file": str(self._fail_path),
        }
        write_json(summary_path, summary)
        say(f"{self._name}: {self._counts_text()} in {seconds:.1f} s")
        if not self.counts["failed"]:
            return EXIT_DONE
        say(f"{self._name}: failures are listed in {self._fail_path}")
        return EXIT_SOME_FAILED

    def _counts_text(self) -> str:
        return ", ".join(f"{number} {what}" for what, number in self.counts.items())


def looked_over(name: str, samples: Iterable[T]) -> Iterator[T]:
    """Pass on what is looked at before a run starts, and say how far it is each half minute."""
    last_line = time.monotonic()
    for number, sample in enumerate(samples):
        if time.monotonic() - last_line >= _LINE_SECONDS:
            last_line = time.monotonic()
            say(f"{name}: looking at what stands already: {number} samples so far")
        yield sample


def dry_run(
    name: str,
    tasks: Iterable[Any],
    state: Callable[[Any], str],
    trial: Callable[[Path, Any], object],
    args: Any,
) -> int:
    """Say what there is to do, and what it will take, from a few samples made in a scratch folder.

    Args:
        name: of the command.
        tasks: all samples.
        state: ``kept`` or ``make``; raises CvReaderError or OSError for what cannot be made.
        trial: makes one sample in a folder; importable by name.
        args: the command's.
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
            # Every sample has the same chance to be tried, however many there are.
            place = counts[found] - 1
            place = place if place < _TRIALS else chance.randrange(place + 1)
            picked[place : place + 1] = [task] if place < _TRIALS else []
    say(
        f"{name}: dry run: {counts['make']} to make, {counts['kept']} up to date, "
        f"{counts['cannot']} that cannot be made"
    )
    if picked:
        _estimate(name, counts["make"], picked, trial, args)
    return EXIT_DONE


def _estimate(
    name: str, count: int, picked: list[Any], trial: Callable[[Path, Any], object], args: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        outcomes = list(run_tasks(partial(_timed, trial, Path(folder)), picked, args))
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
            f"{name}: about {duration(total)} with {args.num_workers} workers and {disk:.1f} MiB "
            f"of disk, measured on {len(seconds)} of them; nothing was written"
        )


def _timed(trial: Callable[[Path, Any], object], folder: Path, task: Any) -> float:
    started = time.monotonic()
    trial(folder, task)
    return time.monotonic() - started


def duration(seconds: float) -> str:
    """``1:02:03``, or seconds below a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}"
