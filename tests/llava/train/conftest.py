"""A tiny checkpoint, a small mixture, and runs of the trainer in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llava.model.tiny import write_tiny_checkpoint
from llava.train.smoke import write_mixture
from llava.train.train import main


@pytest.fixture(scope="session")
def tiny_material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``model`` and ``data/train.jsonl``: codec, image, text, in turn."""
    folder = tmp_path_factory.mktemp("material")
    write_tiny_checkpoint(folder / "model")
    write_mixture(folder / "data")
    return folder


@pytest.fixture(scope="session")
def run_arguments(tiny_material: Path) -> Callable[..., list[str]]:
    """Flags of a short CPU run; keyword arguments are further flags."""

    def build(output_dir: Path, **flags: object) -> list[str]:
        defaults = {
            "model_name_or_path": tiny_material / "model",
            "data_path": tiny_material / "data" / "train.jsonl",
            "output_dir": output_dir,
            "use_cpu": True,
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "learning_rate": 2e-3,
            "save_strategy": "no",
            "disable_tqdm": True,
            # In random order, so that runs with other sizes of a batch see the same samples.
            "balance_lengths": False,
        }
        return [
            text
            for name, value in {**defaults, **flags}.items()
            for text in (f"--{name}", str(value))
        ]

    return build


@pytest.fixture(scope="session")
def train(run_arguments: Callable[..., list[str]]) -> Callable[..., int]:
    """Train in this process; returns the exit code."""

    def run(output_dir: Path, **flags: object) -> int:
        return main(run_arguments(output_dir, **flags))

    return run
