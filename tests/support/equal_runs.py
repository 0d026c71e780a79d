"""Two training runs that must be the same to the last bit."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from run_kit.log import read_log

_KEYS = ("step", "epoch", "loss", "lr", "grad_norm", "tokens", "loss_by_dataset")


def assert_equal_runs(one: Path, other: Path) -> None:
    """Compare what two runs logged, and the weights that they wrote."""
    rows = [[[row[key] for key in _KEYS] for row in read_log(folder)] for folder in (one, other)]
    assert rows[0] and rows[0] == rows[1]
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
