"""What an installation brings: declared requirements, entry points, files, classifiers."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from support.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
READER = ROOT / "Compressed_Video_Reader" / "cv_reader"
MODELS = ROOT / "llava_next"
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml", "lmms-eval": "lmms_eval"}
OWN = {"cv_reader", "cv_reader_native", *(path.name for path in MODELS.iterdir())}
BROUGHT_BY = {
    "fastapi": {"anyio", "pydantic", "starlette"},
    "lmms-eval": {"loguru", "tenacity", "tqdm"},
    "prometheus-client": {"prometheus_client"},
    "transformers": {"huggingface_hub", "packaging", "tokenizers"},
}
"""Requirement to the modules that come with it."""
EXTRAS = {
    READER: (),
    MODELS / "onevision_encoder": (),
    MODELS / "run_kit": (),
    MODELS / "encoder_training": (),
    MODELS / "llava" / "data": (),
    MODELS / "llava" / "model": (),
    MODELS / "llava" / "visual": (),
    MODELS / "llava" / "train": ("train",),
    MODELS / "llava" / "eval": ("eval",),
    MODELS / "llava" / "serve": ("serve",),
}
"""Room to the extras without which it need not import."""


def _brought(extras: tuple[str, ...]) -> set[str]:
    """Return the modules that an installation with these extras has."""
    listed = list(PROJECT["dependencies"])
    for extra in extras:
        listed += PROJECT["optional-dependencies"][extra]
    modules = set(sys.stdlib_module_names)
    for name in (Requirement(text).name for text in listed):
        modules |= {IMPORTED_AS.get(name, name)} | BROUGHT_BY.get(name, set())
    return modules


def _imported_at_the_head(file: Path) -> set[str]:
    pattern = r"^(?:from (\w+)[\w.]* import|import (\w+))"
    found = re.findall(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
    return {name for names in found for name in names if name}


@pytest.mark.parametrize("room", EXTRAS, ids=lambda room: room.name)
def test_a_room_imports_what_its_extras_bring(room: Path) -> None:
    known = _brought(EXTRAS[room]) | OWN
    missing = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in room.rglob("*.py")
        for name in _imported_at_the_head(file) - known
    }
    assert not missing


def _imported_by(module: str) -> set[str]:
    """Return the modules that importing one imports, as far as the project's own import them."""
    found, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        path = (READER.parent if name.startswith("cv_reader") else MODELS) / name.replace(".", "/")
        files = [path.with_suffix(".py"), path / "__init__.py", path / "__main__.py"]
        pattern = r"^(?:from ([\w.]+) import|import ([\w.]+))"
        for text in (file.read_text(encoding="utf-8") for file in files if file.is_file()):
            named = {a or b for a, b in re.findall(pattern, text, re.MULTILINE)}
            waiting += [item for item in named - found if item.partition(".")[0] in OWN]
            found |= named
    return found


@pytest.mark.parametrize(
    "module",
    [
        "encoder_training.pretrain.run_page",
        "encoder_training.probe.report",
        "llava.eval.report",
        "llava.train.report",
    ],
)
def test_pages_of_finished_runs_import_no_model(module: str) -> None:
    """So they are written in a fraction of a second."""
    heavy = {"torch", "transformers", "lmms_eval", "peft"}
    assert not {name for name in _imported_by(module) if name.partition(".")[0] in heavy}


def test_classifiers_name_every_supported_python() -> None:
    supported = SpecifierSet(PROJECT["requires-python"])
    versions = {f"3.{minor}" for minor in range(30) if f"3.{minor}" in supported}
    prefix = "Programming Language :: Python :: "
    named = {line.removeprefix(prefix) for line in PROJECT["classifiers"] if prefix in line}
    assert named == versions


def test_packages_are_typed() -> None:
    packages = [READER, *(MODELS / name for name in ("llava", "onevision_encoder", "run_kit"))]
    assert all((folder / "py.typed").is_file() for folder in packages)


def test_commands_and_plug_ins_resolve() -> None:
    groups = [PROJECT["scripts"], *PROJECT["entry-points"].values()]
    for target in (target for group in groups for target in group.values()):
        module, _, attribute = target.partition(":")
        assert callable(getattr(import_module(module), attribute))
