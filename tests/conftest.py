"""Settings for every test: no network, one thread per process, a fixed seed."""

import gc
import os
import signal
import sys
from collections import Counter
from collections.abc import Generator
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

# Half a million objects of imported libraries live as long as the process. Looking through them for
# garbage, as every run of a trainer does, took a sixth of the time of all tests.
gc.disable()


def _keep_out_of_collections() -> None:
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    """Collect garbage from here on, but not in what was imported."""
    _keep_out_of_collections()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Exempt what the tests of a file imported, too."""
    result = yield
    if nextitem is not None and nextitem.path != item.path:
        _keep_out_of_collections()
    return result


@pytest.fixture(autouse=True)
def _seed() -> None:
    import random

    import numpy as np

    random.seed(0)
    np.random.seed(0)
    # The tests of the reader need no torch, which takes seconds to import.
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


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
