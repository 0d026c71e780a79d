"""Settings for every test: no network, one thread per process, a fixed seed."""

import os
import signal
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATHS = [str(ROOT / "llava_next"), str(ROOT / "Compressed_Video_Reader")]

os.environ.update(
    # Commands that tests start import this tree, not a copy that is installed.
    PYTHONPATH=os.pathsep.join([*PATHS, *filter(None, [os.environ.get("PYTHONPATH")])]),
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    DS_ACCELERATOR="cpu",
    WANDB_MODE="disabled",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Under nohup and in the background of a script signals are ignored, and child processes inherit
# that: the commands that tests interrupt would not stop.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

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
