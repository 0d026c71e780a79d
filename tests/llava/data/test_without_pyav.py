"""Training on codec clips, pictures and text needs no PyAV: only raw videos are decoded."""

import subprocess
import sys

import pytest

from support.paths import ROOT

MODULES = ("llava.train.train", "llava.data.validate", "llava.model.loading", "llava.train.smoke")


@pytest.mark.slow
def test_training_imports_without_pyav() -> None:
    folders = [str(ROOT / "llava_next"), str(ROOT / "Compressed_Video_Reader")]
    program = (
        f"import sys; sys.path[:0] = {folders}; sys.modules['av'] = None; "
        f"import {', '.join(MODULES)}"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
