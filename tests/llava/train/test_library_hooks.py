"""The library's private methods that the trainer replaces, as of the release they were read in.

When a new release of transformers fails here: read the methods below in it, adapt
``llava.train.trainer``, run the slow tests of this folder, and update release, digests and the
range in pyproject.toml.
"""

import ast
import hashlib
import inspect

import pytest
import transformers
from packaging.requirements import Requirement
from packaging.version import Version
from transformers import Trainer

from llava.train.trainer import LlavaTrainer
from support.paths import ROOT

RELEASE = "5.23"
DIGESTS = {
    "_save": "b136889e87928376",
    "_save_checkpoint": "a9111e30faa99339",
    "_get_output_dir": "97172085342ac46c",
    "_load_from_checkpoint": "a2804e8d93a297e3",
}


def _digest(name: str) -> str:
    """Return a digest of a method's source text."""
    return hashlib.sha256(inspect.getsource(getattr(Trainer, name)).encode()).hexdigest()[:16]


def test_the_trainer_replaces_no_other_private_method() -> None:
    own = {
        name
        for name, value in vars(LlavaTrainer).items()
        if name.startswith("_") and not name.startswith("__") and inspect.isfunction(value)
    }
    assert own & set(dir(Trainer)) == set(DIGESTS)


def test_the_release_is_the_one_that_was_read() -> None:
    assert Version(transformers.__version__).release[:2] == Version(RELEASE).release


@pytest.mark.parametrize("name", DIGESTS)
def test_the_replaced_methods_are_as_they_were_read(name: str) -> None:
    assert _digest(name) == DIGESTS[name]


def test_training_allows_no_later_release() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("train = "))
    names = [Requirement(text) for text in ast.literal_eval(line.removeprefix("train = "))]
    allowed = next(found for found in names if found.name == "transformers").specifier
    major, minor = Version(RELEASE).release
    assert allowed.contains(f"{RELEASE}.9") and not allowed.contains(f"{major}.{minor + 1}.0")
