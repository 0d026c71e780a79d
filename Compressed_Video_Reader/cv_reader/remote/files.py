"""Small remote files, such as those of assets, read through the cache."""

import os
from functools import lru_cache

from cv_reader.errors import SettingsError
from cv_reader.remote.addresses import address_of
from cv_reader.remote.cache import default_cache
from cv_reader.remote.transfer import RemoteFile, look_up

_REMEMBERED_FILES = 1 << 16


@lru_cache(maxsize=_REMEMBERED_FILES)
def _looked_up(address: str) -> RemoteFile:
    try:
        return look_up(address)
    except SettingsError as error:
        raise OSError(str(error)) from error


def look_up_once(path: str | os.PathLike[str]) -> RemoteFile:
    """Return what a store says of a file; a process asks for the last ones once.

    Training reads the files of an asset epoch after epoch.

    Raises:
        OSError: It is missing, or its store cannot be asked.
    """
    return _looked_up(address_of(path) or str(path))


def forget_looked_up() -> None:
    """Ask again for files that this process may have changed."""
    _looked_up.cache_clear()


def read_remote(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a remote file, from the cache where it has it.

    Raises:
        OSError: It is missing, or cannot be fetched.
    """
    return default_cache().read(look_up_once(path))


def read_remote_span(path: str | os.PathLike[str], start: int, size: int) -> bytes:
    """Return some bytes of a remote file, from the cache where it has them.

    Raises:
        OSError: It is missing, or cannot be fetched.
    """
    file = look_up_once(path)
    return default_cache().read(file, start, start + size)
