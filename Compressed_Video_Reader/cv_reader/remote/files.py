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
    # Training reads the files of an asset epoch after epoch: a process asks for each once.
    try:
        return look_up(address)
    except SettingsError as error:
        raise OSError(str(error)) from error


def forget_looked_up() -> None:
    """Ask again for files that this process may have changed."""
    _looked_up.cache_clear()


def read_remote(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a remote file, from the cache where it has it.

    Raises:
        OSError: It is missing, or cannot be fetched.
    """
    return default_cache().read(_looked_up(address_of(path) or str(path)))


def remote_bytes(path: str | os.PathLike[str]) -> int:
    """Return the size of a remote file.

    Raises:
        OSError: It is missing, or its store cannot be asked.
    """
    return _looked_up(address_of(path) or str(path)).size_bytes


def is_remote_file(path: str | os.PathLike[str]) -> bool:
    """Return whether there is a remote file; False also where its store cannot be asked."""
    try:
        _looked_up(address_of(path) or str(path))
    except OSError:
        return False
    return True
