"""Folders of training runs as reports read them: log, record and samples left out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.train.run.bad_samples import read_bad_samples
from llava.train.run.config import read_run_config
from llava.train.run.log import LOG_FILE, read_log

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run as its folder has it.

    Attributes:
        name: in legends and tables, different from those of the other runs.
        folder: of the run.
        rows: of ``train_log.jsonl``; ``steps`` is added, how many steps a row stands for.
        config: of ``run_config.json``; empty where there is none.
        bad_samples: messages of samples that were replaced.
    """

    name: str
    folder: Path
    rows: list[Row]
    config: dict[str, Any]
    bad_samples: list[str]

    @property
    def resumes(self) -> list[dict[str, Any]]:
        """Starts that went on from a checkpoint."""
        return [start for start in self.config.get("starts", []) if start["first_step"] > 1]

    @property
    def set_names(self) -> list[str]:
        """Data sets in the order of the mixture."""
        return [row["name"] for row in self.config.get("data_fingerprint", {}).get("datasets", [])]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read runs; names are the ends of their paths, as long as it takes to tell them apart.

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
        runs.append(Run(name, folder, rows, read_run_config(folder) or {}, bad))
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
