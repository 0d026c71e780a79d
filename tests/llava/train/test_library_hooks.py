"""The library's private methods that the trainer replaces, as of the releases they were read in.

When a new release of transformers fails here: read the methods below in it, adapt
``llava.train.trainer``, run the slow tests of this folder, and update ``NEWEST``, digests and the
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

OLDEST, NEWEST = "5.7", "5.23"
DIGESTS = {
    "_save": {"5.7": "bf720120f407bab3", "5.18": "4381aa568f5963c5", "5.23": "b136889e87928376"},
    "_save_checkpoint": {"5.7": "a9111e30faa99339"},
    "_get_output_dir": {"5.7": "97172085342ac46c"},
    "_load_from_checkpoint": {"5.7": "4711d0506786db15", "5.23": "a2804e8d93a297e3"},
}
"""Digest of each method's text, by the first release that has this text.

All releases of the range were read: from 5.18 on, ``_save`` is also entered by ranks that do not
save, and from 5.23 on ``_load_from_checkpoint`` reads adapters into a model that has them. Neither
concerns the trainer, which enters the one on the rank that saves, the other without adapters.
"""


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


def test_the_release_is_one_that_was_read() -> None:
    installed = Version(transformers.__version__).release[:2]
    assert Version(OLDEST).release <= installed <= Version(NEWEST).release


@pytest.mark.parametrize("name", DIGESTS)
def test_the_replaced_methods_are_as_they_were_read(name: str) -> None:
    installed = Version(transformers.__version__)
    first = max((first for first in DIGESTS[name] if Version(first) <= installed), key=Version)
    assert _digest(name) == DIGESTS[name][first]


def test_training_allows_the_releases_that_were_read() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("train = "))
    names = [Requirement(text) for text in ast.literal_eval(line.removeprefix("train = "))]
    allowed = next(found for found in names if found.name == "transformers").specifier
    (major, oldest), (_, newest) = (Version(release).release for release in (OLDEST, NEWEST))
    inside = [f"{major}.{oldest}.0", f"{major}.{newest}.9"]
    outside = [f"{major}.{oldest - 1}.9", f"{major}.{newest + 1}.0"]
    assert [*allowed.filter(inside)] == inside and not [*allowed.filter(outside)]
