"""What vLLM is told by the entry point; vLLM itself is not needed."""

import ast
import importlib
import inspect
import sys
import types
from pathlib import Path

import pytest

import llava.model
from llava.vllm_plugin import register
from support.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_the_entry_point_names_the_function_that_registers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entries = project["entry-points"]["vllm.general_plugins"]
    named = []
    for place in entries.values():
        module, _, function = place.partition(":")
        named.append(getattr(importlib.import_module(module), function))
    assert named == [register]


def test_every_model_is_registered_by_a_class_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    models: dict[str, str] = {}
    registry = types.SimpleNamespace(
        register_model=lambda name, place: models.update({name: place})
    )
    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(ModelRegistry=registry))
    # Its import registers the loader with vLLM.
    media = "llava.vllm_plugin.media"
    monkeypatch.setitem(sys.modules, media, types.ModuleType(media))
    register()
    register()  # vLLM may do so several times
    trained = {name for name in llava.model.__all__ if name.endswith("ForCausalLM")}
    assert models.keys() == trained
    for place in models.values():
        module, _, found = place.partition(":")
        assert module == "llava.vllm_plugin.model"
        text = Path(inspect.getfile(register)).with_name("model.py").read_text(encoding="utf-8")
        classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
        assert found in {node.name for node in classes}
