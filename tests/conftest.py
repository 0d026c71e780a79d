"""Settings for every test: no network, one thread per process, a fixed seed."""

import os
from collections import Counter

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    DS_ACCELERATOR="cpu",
    WANDB_MODE="disabled",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def _seed() -> None:
    import random

    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Sum the skipped tests in one line, by reason."""
    reasons = Counter(
        str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        for report in terminalreporter.stats.get("skipped", [])
    )
    if reasons:
        parts = [
            f"{count} {reason.removeprefix('Skipped: ')}" for reason, count in reasons.most_common()
        ]
        terminalreporter.write_line(f"skipped: {'; '.join(parts)}")
