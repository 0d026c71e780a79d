"""Workers are safe for videos: FFmpeg's messages do not pass through Python."""

import subprocess
import sys
from pathlib import Path

from support.media import panning, write_video

_DECODE = """
import sys
import av
from cv_reader.engines.worker_process import prepare_process

av.logging.set_level(av.logging.DEBUG)  # as another engine's process may have asked for
if sys.argv[2] == "prepared":
    prepare_process()
with av.logging.Capture(local=False) as messages, av.open(sys.argv[1]) as container:
    list(container.decode(video=0))
print(len(messages))
"""


def _num_messages(path: Path, state: str) -> tuple[int, str]:
    command = [sys.executable, "-c", _DECODE, str(path), state]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(ended.stdout), ended.stderr


def test_a_prepared_process_logs_without_python_and_prints_nothing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", panning(3, 64, 96))
    assert _num_messages(path, "as it is")[0] > 0
    assert _num_messages(path, "prepared") == (0, "")
