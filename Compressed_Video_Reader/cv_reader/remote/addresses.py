"""Which names are addresses, and what serves them.

A path is an address where it begins with a scheme: ``s3://bucket/a.mp4``. ``pathlib`` joins paths
of either kind but leaves one slash, ``s3:/bucket/a.mp4``; both forms are the same address.
"""

import importlib
import logging
import os
import re
from pathlib import Path
from typing import Any

from cv_reader.errors import SettingsError

PIP_LINE = "pip install -e '.[remote]'"

_PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "hf": "huggingface_hub",
    "http": "aiohttp",
    "https": "aiohttp",
    "file": "fsspec",
    "memory": "fsspec",
}
"""Schemes to the package that serves them. ``file`` and ``memory`` serve to try things out."""

SCHEMES = tuple(_PACKAGES)
READ_ONLY = ("http", "https")
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(?=[^/])(.*)", re.DOTALL | re.IGNORECASE)


def address_of(path: str | os.PathLike[str]) -> str | None:
    """Return the address that a path is, with its two slashes; None for a path of this machine."""
    text = os.fspath(path)
    match = _ADDRESS.fullmatch(text) if ":/" in text else None
    if match is None:
        return None
    scheme = match[1].lower()
    # Paths of ``file`` begin with a slash of their own.
    return f"{scheme}://{'/' if scheme == 'file' else ''}{match[2]}"


def is_address(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is an address."""
    return address_of(path) is not None


def joined(folder: Path, name: str) -> Path:
    """Return a name below a folder; an address and an absolute path stay as they are."""
    return Path(name) if is_address(name) else folder / name


def known_scheme(address: str) -> str:
    """Return the scheme of an address.

    Raises:
        SettingsError: It is none of ``SCHEMES``, or the address cannot be written as a path.
    """
    scheme, _, rest = address.partition("://")
    if scheme not in _PACKAGES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise SettingsError(f"{address}: the scheme must be one of {known}, got {scheme}://")
    if "//" in rest or "::" in rest or not rest:
        raise SettingsError(
            f"{address}: must name something, without // or :: after the scheme; rename the object"
        )
    return scheme


def file_system(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and its path there.

    The library finds credentials by its own ways; none pass through here.

    Raises:
        SettingsError: The scheme is unknown, or its package is missing.
    """
    scheme = known_scheme(address)
    package = _PACKAGES[scheme]
    try:
        fsspec = importlib.import_module("fsspec")
        importlib.import_module(package)
        # Faults are told by what is raised here; a user who wants more configures logging.
        logging.getLogger(package).addHandler(logging.NullHandler())
        options = {"auto_mkdir": True} if scheme == "file" else {"use_listings_cache": False}
        found = fsspec.filesystem(scheme, **options)
    except ImportError as error:
        raise SettingsError(
            f"{address}: {scheme}:// needs the package {package}; install it with {PIP_LINE}"
        ) from error
    return found, str(found._strip_protocol(address))


_checked: set[str] = set()


def check_scheme(path: str | os.PathLike[str]) -> None:
    """Refuse an address whose scheme is unknown, or whose package is missing.

    Raises:
        SettingsError: As ``file_system``.
    """
    address = address_of(path)
    if address is not None and known_scheme(address) not in _checked:
        file_system(address)
        _checked.add(known_scheme(address))
