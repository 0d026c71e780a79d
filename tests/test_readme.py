"""The README's commands: files that exist, flags that exist, and stages that run as printed."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.media import moving_square, write_video
from support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]


def commands_of(tool: str) -> list[str]:
    [command] = [words for words in COMMANDS if any(word.endswith(tool) for word in words)]
    return command


def test_every_script_that_is_named_exists() -> None:
    named = set(re.findall(r"(?:bash|python) ((?:[\w-]+/)+[\w-]+\.(?:sh|py))", README))
    assert {"examples/quickstart/run.sh", "scripts/test.sh"} <= named
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_every_link_and_picture_exists() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_every_module_that_is_run_exists() -> None:
    for module in set(re.findall(r"python -m (llava[\w.]*)", README)):
        path = ROOT / "llava_next" / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a printed python command in a folder, with paths of the checkout made absolute."""
    absolute = [str(ROOT / word) if (ROOT / word).is_file() else word for word in words]
    return subprocess.run(
        [sys.executable, *absolute[1:]], cwd=folder, capture_output=True, text=True
    )


@pytest.fixture
def raw_videos(tmp_path: Path) -> Path:
    write_video(tmp_path / "a.mp4", moving_square(70, 64, 96, (1, 1)))
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A square."}]
    data = tmp_path / "raw_videos.json"
    data.write_text(json.dumps([{"id": "a", "video": "a.mp4", "conversations": turns}]))
    return tmp_path


def test_both_stages_run_as_printed(raw_videos: Path) -> None:
    for tool in ("stage1.py", "stage2.py"):
        done = run(commands_of(tool), raw_videos)
        assert done.returncode == 0, done.stderr
    [line] = (raw_videos / "training_codec.jsonl").read_text().splitlines()
    sample = json.loads(line)
    positions = np.load(raw_videos / sample["positions_thw"], allow_pickle=False)
    assert positions.shape == (10368, 3) and positions.dtype == np.int32
    assert [(raw_videos / image).is_file() for image in sample["image"]] == [True] * 8


def test_evaluation_assets_are_made_as_printed(raw_videos: Path) -> None:
    (raw_videos / "eval_videos.jsonl").write_text('{"video": "a.mp4", "key": "a"}\n')
    done = run(commands_of("offline_precompute_llava_codec_assets.py"), raw_videos)
    assert done.returncode == 0, done.stderr
    assert (raw_videos / "offline" / "assets" / "a" / "mosaic_007.jpg").is_file()
