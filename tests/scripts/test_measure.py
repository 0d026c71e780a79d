"""The benchmarks' own measure: memory and time of work in another process."""

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from support.paths import ROOT

MEGABYTE = 1 << 20


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``scripts/bench/measure.py``, importable by the processes that it starts."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    spec = importlib.util.find_spec("measure")
    assert spec is not None
    assert Path(str(spec.origin)).parent.name == "bench"
    return importlib.import_module("measure")


def test_peak_is_the_work_s_own(measure: ModuleType) -> None:
    held = bytearray(150 * MEGABYTE)
    held[::4096] = b"x" * len(held[::4096])
    small = measure.measure(partial(bytearray, MEGABYTE))
    large = measure.measure(partial(bytes.ljust, b"", 100 * MEGABYTE, b"x"))
    assert small.peak_rss_bytes < 120 * MEGABYTE
    assert large.peak_rss_bytes > small.peak_rss_bytes + 90 * MEGABYTE
    assert large.wall_seconds > 0


def test_command_lines_count_with_their_children(measure: ModuleType) -> None:
    code = "x = b'x' * (120 << 20); sum(range(10 ** 6))"
    measured = measure.measure([sys.executable, "-c", code])
    assert measured.peak_rss_bytes > 120 * MEGABYTE
    assert measured.cpu_seconds > 0


@pytest.mark.slow
def test_daemons_count(measure: ModuleType) -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass"
    start = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
    measured = measure.measure([sys.executable, "-c", start, work])
    assert measured.cpu_seconds > 0.3


def test_bytes_read_are_those_of_children_too(measure: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(50 * MEGABYTE))
    measured = measure.measure(["cat", str(tmp_path / "f")])
    assert 50 * MEGABYTE <= measured.read_bytes < 51 * MEGABYTE


def test_failure_is_reported(measure: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="failed"):
        measure.measure([sys.executable, "-c", "raise SystemExit(3)"])
