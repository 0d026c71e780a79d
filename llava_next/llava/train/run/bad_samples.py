"""The list of samples that were replaced, and the limit on their number."""

from pathlib import Path
from typing import TYPE_CHECKING

from run_kit.files import append_json_lines, read_json_lines

if TYPE_CHECKING:  # the pages about runs read the list, and need no data
    from llava.data.dataset import BadSample

BAD_SAMPLES_FILE = "bad_samples.jsonl"


class TooManyBadSamples(ValueError):
    """More of the data cannot be used than the run allows."""


class BadSampleLog:
    """``bad_samples.jsonl``: one line per sample that could not be used.

    All ranks append to the same file.
    """

    def __init__(self, folder: Path, *, num_samples: int, max_fraction: float) -> None:
        self._path = folder / BAD_SAMPLES_FILE
        self._limit = max_fraction * num_samples
        self._num_samples, self._max_fraction = num_samples, max_fraction
        self._known = {bad["index"] for bad in read_bad_samples(folder)}

    def add(self, bad_samples: "tuple[BadSample, ...]") -> int:
        """Record the samples that this rank does not know yet; return how many these are."""
        new = [bad for bad in bad_samples if bad["index"] not in self._known]
        if new:
            append_json_lines(self._path, new)
            self._known |= {bad["index"] for bad in new}
        return len(new)

    def count(self) -> int:
        """Return the number of different samples that all ranks have recorded."""
        return len({bad["index"] for bad in read_bad_samples(self._path.parent)})

    def check(self, count: int) -> None:
        """Compare a count with the limit.

        Raises:
            TooManyBadSamples: if the count is above the limit.
        """
        if count > self._limit:
            raise TooManyBadSamples(
                f"{count} of {self._num_samples} samples cannot be used, more than "
                f"--max_bad_fraction {self._max_fraction}; they are listed in {self._path}: repair "
                "them or raise the fraction, then continue with --resume_from_checkpoint auto"
            )


def read_bad_samples(folder: Path) -> "list[BadSample]":
    """Return the samples that a run has recorded; none where there is no file."""
    return read_json_lines(folder / BAD_SAMPLES_FILE)
