"""The README's commands: files and flags that exist, stages and Python that run as printed."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llava.model.tiny import write_tiny_checkpoint
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


def test_every_module_that_is_run_exists() -> None:
    for module in set(re.findall(r"python -m (llava[\w.]*)", README)):
        path = ROOT / "llava_next" / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_the_animation_is_small() -> None:
    [picture] = re.findall(r"\]\((docs/images/\w+\.gif)\)", README)
    assert (ROOT / picture).stat().st_size < 500_000


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


def test_python_lines_answer_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [lines] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) == 5
    write_tiny_checkpoint(tmp_path / "checkpoints" / "my_model")
    write_video(tmp_path / "clip.mp4", moving_square(70, 64, 96, (1, 1)))
    monkeypatch.chdir(tmp_path)
    exec(compile(lines, "README.md", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")


def test_budgets_give_the_savings_that_the_page_names() -> None:
    for num_images, saved in ((16, "75 %"), (8, "87.5 %"), (1, "98.4 %")):
        assert f"{100 * (1 - num_images / 64):.1f}".removesuffix(".0") + " %" == saved
        assert saved in README


def test_training_commands_print_what_they_would_run(tmp_path: Path) -> None:
    printed = [words for words in COMMANDS if words[-1].endswith("sft_ov_encoder.sh")]
    assert len(printed) == 3
    for words in printed:
        settings = dict(word.split("=", 1) for word in words if "=" in word)
        done = subprocess.run(
            ["bash", str(ROOT / "scripts" / "sft_ov_encoder.sh")],
            env={**os.environ, "NUM_GPUS": "1", **settings, "DRY_RUN": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and "llava.train.train" in done.stdout, done.stderr
