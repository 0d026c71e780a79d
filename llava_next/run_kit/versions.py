"""Which code and which packages a run was made with."""

import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def code_state(folder: Path) -> str | None:
    """Return the commit of the checkout that ``folder`` is in, with ``-dirty`` for changed files.

    None outside a checkout, or without git.
    """
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*"]
    try:
        tracked = subprocess.run(
            [*command[:3], "ls-files", "--error-unmatch", "."], capture_output=True, timeout=30
        )
        found = subprocess.run([*command, "--dirty"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if tracked.returncode == 0 else None


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return the version of each package, None for those that are not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
