"""A list of videos that crash, hang, want all memory, are broken or missing costs exactly those."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from support.corpus import Corpus
from support.filled_bucket import files_below
from support.media import moving_square, write_video

SMALL = ["--square_size", "64", "--num_images", "2", "--seq_len_frames", "8"]
LIMITS = ["--timeout_seconds", "30", "--memory_limit_mib", "400", "--num_workers", "2"]
POISON = {"crash.mp4": signal.SIGSEGV, "hang.mp4": signal.SIGSTOP}


@contextmanager
def _poison(root: Path) -> Generator[None]:
    """Crash or stop each process that opens one of two videos."""
    ended = threading.Event()
    by_path = {str(root / name): number for name, number in POISON.items()}

    def watch() -> None:
        while not ended.wait(0.002):
            for link in Path("/proc").glob("[0-9]*/fd/*"):
                with contextlib.suppress(OSError):
                    if number := by_path.get(os.readlink(link)):
                        os.kill(int(link.parts[2]), number)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_exactly_the_poisoned_fail_each_with_its_reason(tmp_path: Path, engine: str) -> None:
    corpus = Corpus(tmp_path)
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", moving_square(20, 48, 64, seed=number))
    for name in POISON:
        write_video(tmp_path / name, moving_square(120, 720, 1280))
    huge = (np.full((4320, 7680, 3), 20 * n, np.uint8) for n in range(6))
    write_video(tmp_path / "huge.mp4", huge, options={"preset": "ultrafast", "refs": "6"})
    (tmp_path / "broken.mp4").write_bytes((tmp_path / "0.mp4").read_bytes()[:600])
    names = ("0", "crash", "broken", "1", "hang", "gone", "huge", "2")
    rows = [{"video": f"{name}.mp4", "key": name} for name in names]
    # A key that comes twice with its video is one sample.
    data = corpus.write(tmp_path / "list.jsonl", *rows, rows[0])
    program = [sys.executable, "-m", "cv_reader.commands.main", "precompute", "--jsonl", str(data)]
    command = [*program, *SMALL, *LIMITS, "--out_root", str(tmp_path / "out")]
    if engine == "ray":
        pytest.importorskip("ray")
        command += ["--engine", "ray", "--address", "local"]
    with _poison(tmp_path):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert ended.returncode == 1, ended.stderr
    out = tmp_path / "out"
    failed = [json.loads(line) for line in (out / "precompute_failed.shard00of01.txt").open()]
    kinds = {record["key"]: record["kind"] for record in failed}
    assert kinds == {
        "crash": "WorkerDied",
        "broken": "CorruptVideoError",
        "hang": "TimeoutError",
        "gone": "VideoNotFoundError",
        "huge": "MemoryError",
    }
    reasons = {record["key"]: record["reason"] for record in failed}
    assert "SIGSEGV" in reasons["crash"] and "twice" in reasons["crash"]
    assert "took longer than 30 s" in reasons["hang"]
    made = {name.split("/")[0] for name in files_below(out / "assets")}
    assert made == {"0", "1", "2"}
    # Two videos with one key are refused before work starts.
    corpus.write(data, *rows, {"video": "1.mp4", "key": "0"})
    again = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert again.returncode == 2 and "has the key '0' of 0.mp4" in again.stderr
