"""The environment of a run: the only module of ``llava.eval`` that reads it."""

import os
from collections.abc import Mapping
from pathlib import Path

DEFAULT_HF_HOME = ".huggingface_cache"


def variables() -> Mapping[str, str]:
    """Return all variables."""
    return os.environ


def variable(*names: str, default: str = "") -> str:
    """Return the first of the named variables that is set and not empty."""
    return next((os.environ[name] for name in names if os.environ.get(name)), default)


def switch(name: str) -> bool:
    """Return whether a variable such as ``DRY_RUN`` is on: set, and not 0, no or false."""
    return variable(name).lower() not in ("", "0", "no", "false")


def hf_home() -> Path:
    """Return the folder of data sets, videos and assets (``HF_HOME``) as an absolute path."""
    return Path(variable("HF_HOME", default=DEFAULT_HF_HOME)).expanduser().absolute()


def settle_hf_home() -> None:
    """Set ``HF_HOME`` if it is not set: some tasks cannot be imported without it."""
    os.environ["HF_HOME"] = str(hf_home())


def local_rank() -> int:
    """Return the number of this process's device on this machine (set by ``torchrun``)."""
    return int(variable("LOCAL_RANK", default="0"))
