"""Read the folders of training runs: log, configuration, and samples that were left out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.train.run.bad_samples import read_bad_samples
from run_kit.log import LOG_FILE, read_log, read_run_config, read_validation

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run as its folder describes it.

    Attributes:
        name: name in legends and tables; every run has another.
        folder: output folder of the run.
        rows: lines of ``train_log.jsonl``, with ``steps`` added: the number of steps since the
            line before.
        config: content of ``run_config.json``; empty where there is none.
        bad_samples: messages of samples that were replaced.
        validations: lines of ``validation_log.jsonl``.
    """

    name: str
    folder: Path
    rows: list[Row]
    config: dict[str, Any]
    bad_samples: list[str]
    validations: list[Row]

    @property
    def resumes(self) -> list[dict[str, Any]]:
        """Starts that continued from a checkpoint."""
        return [start for start in self.config.get("starts", []) if start["first_step"] > 1]

    @property
    def set_names(self) -> list[str]:
        """Data sets in the order of the mixture."""
        return [row["name"] for row in self.config.get("data_fingerprint", {}).get("datasets", [])]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read runs; each is named by the end of its path that is long enough to be unique.

    Raises:
        ValueError: if a folder holds no run.
    """
    runs: list[Run] = []
    for folder, name in zip(folders, _names(folders), strict=True):
        rows = list(_with_steps(read_log(folder)))
        if not rows:
            raise ValueError(
                f"{folder} holds no run ({LOG_FILE} is absent or empty); give the --output_dir "
                "of a training run"
            )
        bad = [sample["message"] for sample in read_bad_samples(folder)]
        config, validations = read_run_config(folder) or {}, read_validation(folder)
        runs.append(Run(name, folder, rows, config, bad, validations))
    return runs


def _names(folders: Sequence[Path]) -> list[str]:
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"a run is given twice: {', '.join(map(str, folders))}")


def _with_steps(rows: Sequence[Row]) -> Iterator[Row]:
    last = 0
    for row in rows:
        yield {**row, "steps": row["step"] - last}
        last = row["step"]
