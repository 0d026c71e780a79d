"""The entry point by which lmms-eval finds the model."""

import subprocess
import sys

from support.paths import ROOT


def test_the_entry_point_leaves_lmms_eval_alone_until_it_is_asked() -> None:
    """Else a program that imports it first gets a registry without our model."""
    code = "import sys, llava.eval.plugin.entry; sys.exit('lmms_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT / "llava_next").returncode == 0
