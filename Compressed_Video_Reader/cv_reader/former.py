"""Former paths of modules that moved into rooms, for code that imports them.

``import cv_reader.selection`` gives a module with all names of ``cv_reader.select.selection``. Only
imports that find nothing else come here, so that the paths of today cost nothing.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_ROOMS = {
    "assets": "files freshness samples validation",
    "media": "coded container conversion decoding frames h264 index packets scanning",
    "select": "camera energy geometry percentiles pooling selection",
    "views": "agreement statistics visualize",
}
_RENAMED = {
    "asset_config": "select.config",
    "asset_names": "assets.names",
    "chosen": "assets.stage1",
    "commands.batch": "commands.progress",
    "commands.report": "commands.progress",
    "h264_fields": "media.h264",
    "packing": "select.mosaics",
    "parameters": "media.container_header",
    "plots": "views.charts",
    "precompute": "assets.make",
    "processes": "engines.worker_process",
    "training": "assets.stage2",
    "workers": "engines.local",
}
MOVED = _RENAMED | {
    name: f"{room}.{name}" for room, names in _ROOMS.items() for name in names.split()
}
"""Name below ``cv_reader`` to the name of today."""


class _Finder:
    """A finder of the import system; without its base class, whose module takes 10 ms to import."""

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != __package__ or name not in MOVED:
            return None
        loader: Any = _Loader(f"{package}.{MOVED[name]}")
        return ModuleSpec(fullname, loader)


class _Loader:
    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to the import system to make the module."""

    def exec_module(self, module: ModuleType) -> None:
        found = vars(import_module(self._name))
        module.__doc__ = f"Former path of ``{self._name}``."
        vars(module).update((k, v) for k, v in found.items() if not k.startswith("__"))


def forward_imports() -> None:
    """Let imports of former paths succeed."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
