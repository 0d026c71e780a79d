"""The environment script: the native reader where its tools are, one line where they are not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT

BASIC_TOOLS = ("bash", "basename", "cat", "cksum", "dirname", "sed", "tail", "tee")


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment that the script takes for complete."""
    folder = tmp_path / "venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    files = [str(ROOT / name) for name in ("pyproject.toml", "constraints.txt")]
    content = b"".join(Path(name).read_bytes() for name in files)
    checksum = subprocess.run(["cksum"], input=content, capture_output=True, check=True)
    stamp = f"{checksum.stdout.decode()}{ROOT} train,eval,pretrain,serve,dev 0\n"
    (folder / "installed.stamp").write_text(stamp, encoding="utf-8")
    return folder


def _run(script: str, venv: Path, tools: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euc", script],
        env={"PATH": str(tools), "HOME": str(venv), "VENV": str(venv), **settings},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in BASIC_TOOLS:
        places = [Path(place, name) for place in os.environ["PATH"].split(":")]
        (folder / name).symlink_to(next(place for place in places if place.exists()))
    return folder


def test_missing_build_tools_are_named_in_one_line(venv: Path, tools: Path) -> None:
    done = _run("source scripts/environment.sh; echo continues", venv, tools, NATIVE="auto")
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first.startswith("Native reader: not built, missing a C compiler, make, patch, xz, nasm")
    assert "apt-get install build-essential nasm xz-utils" in first and last == "continues"


def test_an_installed_reader_needs_no_build_tools(venv: Path, tools: Path) -> None:
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").write_text("#!/bin/sh\n", encoding="utf-8")  # imports everything
    (venv / "bin" / "python").chmod(0o755)
    done = _run("source scripts/environment.sh; echo continues", venv, tools, NATIVE="auto")
    assert (done.returncode, done.stdout) == (0, "continues\n"), done.stderr


def test_a_build_that_fails_is_told_in_one_line(venv: Path, tools: Path, tmp_path: Path) -> None:
    for name in ("cc", "make", "patch", "xz", "nasm"):
        (tools / name).write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (venv / "bin" / "python").chmod(0o755)
    done = _run("source scripts/environment.sh; echo continues", venv, tools, NATIVE="auto")
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()[-2]
    assert told.startswith("Native reader: not built (") and "Python 3.10 to 3.13" in told
    assert str(venv / "native.log") in told


def test_other_values_are_refused(venv: Path, tools: Path) -> None:
    done = _run("source scripts/environment.sh", venv, tools, NATIVE="yes")
    assert done.returncode == 2 and "NATIVE must be 0, 1 or auto, got 'yes'" in done.stderr


def test_links_of_llava_next_lead_to_the_same_environment(venv: Path, tools: Path) -> None:
    done = _run(
        "cd llava_next; source scripts/environment.sh; echo $project_root", venv, tools, NATIVE="0"
    )
    assert done.stdout.splitlines() == [str(ROOT)], done.stderr
