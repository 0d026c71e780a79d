"""Fixtures for the proofs of the native reader: whether it is installed, and clips made once."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.native.clips import Kind, make


@pytest.fixture(scope="session")
def native_reader() -> None:
    """Skips the test where the native reader is not installed; fails it where it has to be."""
    if importlib.util.find_spec("cv_reader_native") is not None:
        return
    reason = "cv_reader_native is not installed; run bash Compressed_Video_Reader/install.sh"
    if os.environ.get("CV_READER_NATIVE_REQUIRED") == "1":
        pytest.fail(f"CV_READER_NATIVE_REQUIRED=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Kind], Path]:
    """Makes the clip of a kind, once per session and name, for all processes of the session."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "native_clips"
    folder.mkdir(exist_ok=True)

    def get(name: str, kind: Kind) -> Path:
        path = folder / f"{name}.mkv"
        if not path.exists():
            make(kind, folder / f"{name}.{os.getpid()}.mkv").replace(path)
        return path

    return get
