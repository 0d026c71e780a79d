"""Samples that were replaced: written down once each, and limited in number."""

import json
import os
from pathlib import Path

from llava.data.dataset import BadSample

BAD_SAMPLES_FILE = "bad_samples.jsonl"


class TooManyBadSamples(ValueError):
    """More of the data cannot be used than the run allows."""


class BadSampleLog:
    """``bad_samples.jsonl``: one line per sample that could not be used.

    All ranks append to the one file; a line is one write, so that lines never mix.
    """

    def __init__(self, folder: Path, *, num_samples: int, max_fraction: float) -> None:
        self._path = folder / BAD_SAMPLES_FILE
        self._limit = max_fraction * num_samples
        self._num_samples, self._max_fraction = num_samples, max_fraction
        self._known = {bad["index"] for bad in read_bad_samples(folder)}

    def add(self, bad_samples: tuple[BadSample, ...]) -> int:
        """Write down those not yet known to this rank. Returns how many."""
        new = [bad for bad in bad_samples if bad["index"] not in self._known]
        if not new:
            return 0
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            for bad in new:
                os.write(file, (json.dumps(bad) + "\n").encode())
        finally:
            os.close(file)
        self._known |= {bad["index"] for bad in new}
        return len(new)

    def count(self) -> int:
        """Different samples that any rank has written down."""
        return len({bad["index"] for bad in read_bad_samples(self._path.parent)})

    def check(self, count: int) -> None:
        """Hold a count against the limit.

        Raises:
            TooManyBadSamples: naming both and the remedy.
        """
        if count > self._limit:
            raise TooManyBadSamples(
                f"{count} of {self._num_samples} samples cannot be used, more than "
                f"--max_bad_fraction {self._max_fraction}; they are listed in {self._path}: mend "
                "them or raise the fraction, then go on with --resume_from_checkpoint auto"
            )


def read_bad_samples(folder: Path) -> list[BadSample]:
    """What a run has written down; none where there is no file."""
    path = folder / BAD_SAMPLES_FILE
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
