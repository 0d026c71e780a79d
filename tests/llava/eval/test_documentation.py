"""docs/evaluation.md: its tables say what the code says, its commands start."""

import os
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from llava.eval.benchmarks.table import BENCHMARKS, VIDEO_BENCHMARKS
from llava.eval.settings import SELECTION_SETTINGS, EvalSettings
from support.paths import ROOT

TEXT = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")


def _rows(heading: str) -> list[list[str]]:
    """Cells of the table below a heading."""
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _commands() -> list[str]:
    """Shell commands of the code blocks, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(" +", " ", line) for line in lines if line and not line.startswith("#")]


def test_the_table_of_benchmarks_is_the_codes() -> None:
    *videos, images = _rows("Benchmarks")
    for row, benchmark in zip(videos, VIDEO_BENCHMARKS, strict=True):
        folder = "/".join(filter(None, (benchmark.cache_folder, benchmark.video_root)))
        assert [row[0], row[2], row[3]] == [benchmark.name, benchmark.dataset, folder]
        assert row[1].split(" ")[0] == benchmark.task
        if benchmark.sub_tasks:
            assert f"({len(benchmark.sub_tasks)} tasks)" in row[1]
    names = [item.name for item in BENCHMARKS if not item.is_video]
    assert images[0].split(", ") == names


def test_every_setting_is_documented_with_its_default() -> None:
    rows = _rows("Settings")
    documented = {name for row in rows for name in re.findall(r"[\w<>]+", row[1])}
    given_by_the_script = {"pretrained", "conv_template", "batch_size", "manifest"}
    every = {field.name for field in fields(EvalSettings)} - given_by_the_script
    # The settings of assets have their common names; the row codec_<name> is for the others.
    assert documented & SELECTION_SETTINGS.keys()
    assert documented - SELECTION_SETTINGS.keys() - {"codec_<name>"} == every - {"codec_selection"}
    variables = {row[0] for row in rows if row[1] in SELECTION_SETTINGS}
    assert variables == {f"LLAVA_{row[1].upper()}" for row in rows if row[1] in SELECTION_SETTINGS}
    for row in rows:
        default = str(getattr(EvalSettings, row[1], ""))
        if row[2].isdecimal() and row[1] not in ("codec_debug", "num_frames"):
            assert row[2] == default


@pytest.mark.parametrize("command", [line for line in _commands() if ".sh" in line])
def test_a_script_of_the_page_starts(command: str, tmp_path: Path) -> None:
    for name in ("videomme", "my"):
        asset = tmp_path / f"{name}_offline" / "assets" / "clip"
        asset.mkdir(parents=True)
        (asset / "meta.json").touch()
    clean = {name: text for name, text in os.environ.items() if not name.startswith("LLAVA_")}
    result = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env={**clean, "DRY_RUN": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "-m" in result.stdout or "would fetch" in result.stderr
