"""How the native reader behaves as part of a process: memory, interruption, damaged files."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.media import write_video
from support.native.clips import FILTERED, Kind
from support.paths import ROOT

pytestmark = pytest.mark.usefixtures("native_reader")
Clip = Callable[[str, Kind], Path]

_READ_OFTEN = """
import gc, resource, sys
from pathlib import Path
from cv_reader import open_video

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

for turn in range(int(sys.argv[2])):
    for threads, ids in ((1, None), (2, [1, 7, 13])):
        with open_video(sys.argv[1], backend="native", num_threads=threads) as video:
            for frame in video.frames(ids):
                frame.luma(), frame.rgb()
    if turn == 20:
        before = resident_mb()
gc.collect()
print(resident_mb() - before)
"""

_READ_FOREVER = """
import signal, sys
from cv_reader import open_video
# Shells have it ignored by what they start in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
while True:
    with open_video(sys.argv[1], backend="native", num_threads=2) as video:
        list(video.frames())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h264-filtered", "hevc-filtered"])
def test_reading_often_takes_no_more_memory(name: str, clip: Clip) -> None:
    path = clip(name, FILTERED[name])
    done = subprocess.run(
        [sys.executable, "-c", _READ_OFTEN, str(path), "150"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 8, "MB that 130 readings of a small clip left behind"


def test_an_interruption_ends_the_reading(clip: Clip) -> None:
    path = clip("h264-filtered", FILTERED["h264-filtered"])
    with subprocess.Popen(
        [sys.executable, "-c", _READ_FOREVER, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in stderr
    assert process.returncode in (-signal.SIGINT, 130, 1)


@pytest.mark.slow
def test_damaged_files_do_no_harm(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts" / "fuzz" / "native_reader.py"),
            "--count=250",
            f"--keep={tmp_path}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_interpreter_is_released_while_decoding(tmp_path: Path) -> None:
    """Threads may not take turns by time here, so that another runs only where one lets it."""
    done = subprocess.run(
        [sys.executable, "-c", _SEE_ANOTHER_DECODE, str(_noise(tmp_path / "noise.h264"))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "seen\n", "no other thread ran while one decoded"


_SEE_ANOTHER_DECODE = """
import sys, threading
import av
from cv_reader_native import Decoder

with av.open(sys.argv[1]) as container:
    packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
sys.setswitchinterval(1000)
for number, packet in enumerate(packets * 10):
    # Another thread decodes a large picture; this one wakes up while it does, unless the machine
    # has no time for it.
    decoder, begun, ended = Decoder("h264", b""), threading.Event(), []

    def work():
        begun.set()
        decoder.decode(packet, number)
        ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    is_decoding = not ended
    thread.join()
    if is_decoding:
        print("seen")
        break
"""


def _noise(path: Path) -> Path:
    """Six large pictures, each a key frame that takes long to decode."""
    generator = np.random.default_rng(0)
    frames = (generator.integers(0, 256, (720, 1280, 3), np.uint8) for _ in range(6))
    options = {"preset": "ultrafast", "x264-params": "keyint=1:qp=20:repeat-headers=1"}
    return write_video(path, frames, options=options)
