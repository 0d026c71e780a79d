"""The native reader's installation says what is missing, and takes no source but the pinned one."""

import os
import subprocess
from pathlib import Path

import pytest

from support.paths import ROOT

READER = ROOT / "Compressed_Video_Reader"
BUILD = READER / "native" / "build_ffmpeg.sh"

BASIC_TOOLS = ("bash", "dirname", "mkdir", "sha256sum", "rm", "cat", "awk")
BUILD_TOOLS = ("gcc", "make", "patch", "xz", "nasm")


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for PATH with what every system has, and replacements for what a build needs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in BASIC_TOOLS:
        found = next(
            Path(place, name)
            for place in os.environ["PATH"].split(":")
            if Path(place, name).exists()
        )
        (folder / name).symlink_to(found)
    for name in BUILD_TOOLS:
        (folder / name).write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


def _run(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(script), *arguments],
        env={"HOME": "/", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("missing", "named"),
    [(["nasm"], "nasm"), (["gcc"], "a C compiler (gcc)"), (["make", "xz"], "make xz-utils")],
)
def test_missing_tools_are_named(
    missing: list[str], named: str, tools: Path, tmp_path: Path
) -> None:
    for name in missing:
        (tools / name).unlink()
    done = _run(BUILD, str(tmp_path / "out"), PATH=str(tools), CV_READER_CACHE=str(tmp_path))
    assert done.returncode == 2
    assert f"missing: {named}; on Debian and Ubuntu: apt-get install" in done.stderr


@pytest.mark.parametrize("exists", [True, False])
def test_another_tarball_is_refused(exists: bool, tools: Path, tmp_path: Path) -> None:
    tarball = tmp_path / "ffmpeg-5.1.9.tar.xz"
    if exists:
        tarball.write_bytes(b"something else")
    settings = {"FFMPEG_TARBALL": str(tarball), "CV_READER_CACHE": str(tmp_path / "cache")}
    done = _run(BUILD, str(tmp_path / "out"), PATH=str(tools), **settings)
    assert done.returncode == 2
    assert f"FFMPEG_TARBALL={tarball} must be" in done.stderr and "SHA-256" in done.stderr


def test_a_damaged_download_is_not_used(tools: Path, tmp_path: Path) -> None:
    cached = tmp_path / "ffmpeg-5.1.9.tar.xz"
    cached.write_bytes(b"half a download")
    done = _run(BUILD, str(tmp_path / "out"), PATH=str(tools), CV_READER_CACHE=str(tmp_path))
    assert done.returncode == 2
    assert "its SHA-256 differs" in done.stderr and "FFMPEG_TARBALL=FILE" in done.stderr
    assert not cached.exists() and not (tmp_path / "out").exists()


def test_a_call_without_a_target_is_refused(tools: Path, tmp_path: Path) -> None:
    done = _run(BUILD, PATH=str(tools), CV_READER_CACHE=str(tmp_path))
    assert done.returncode == 2 and "usage" in done.stderr


def test_unknown_sanitizers_are_refused(tmp_path: Path) -> None:
    settings = {"CV_READER_NATIVE_SANITIZE": "memory", "CV_READER_CACHE": str(tmp_path)}
    done = _run(READER / "install.sh", PATH=os.environ["PATH"], **settings)
    assert done.returncode == 2 and "address or undefined, got 'memory'" in done.stderr


def test_a_python_of_another_version_is_refused(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    python.chmod(0o755)
    settings = {"PATH": os.environ["PATH"], "CV_READER_CACHE": str(tmp_path / "cache")}
    done = _run(READER / "install.sh", str(python), **settings)
    assert done.returncode == 2 and "must be Python 3.10 to 3.13" in done.stderr
    assert not (tmp_path / "cache").exists()
