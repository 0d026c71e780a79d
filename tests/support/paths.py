"""Place of optional test data: a ``shared`` folder next to the checkout, or ``OV_SHARED_DATA``."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def shared_data() -> Path | None:
    """The folder of real clips and golden tensors, or None where it is absent."""
    folder = Path(os.environ.get("OV_SHARED_DATA", ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


def require_shared_data(*parts: str) -> Path:
    """A path below the shared data; skips the calling test where it is absent."""
    folder = shared_data()
    if folder is None or not folder.joinpath(*parts).exists():
        pytest.skip(f"needs the shared data {'/'.join(parts)} (set OV_SHARED_DATA)")
    return folder.joinpath(*parts)
