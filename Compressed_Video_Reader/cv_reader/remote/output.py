"""Finished folders of this disk moved to a store: complete as soon as their metadata is there.

A store has no folders that appear as a whole. So the metadata is the last object that is written,
and the first that is removed: where it exists, everything else does.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from cv_reader.errors import OutputError
from cv_reader.remote.addresses import address_of
from cv_reader.remote.files import forget_looked_up
from cv_reader.remote.transfer import list_files, put_bytes, put_file, remove


def move_folder(local: Path, folder: Path, last: str) -> bool:
    """Move the files of a folder to an address, in place of what is there.

    Args:
        local: a finished folder; removed at the end.
        folder: the address.
        last: name of the file that says that the others are there.

    Returns:
        Whether there was something before.

    Raises:
        OutputError: The store cannot be written.
    """
    address = address_of(folder) or str(folder)
    names = sorted(entry.name for entry in os.scandir(local))
    try:
        before = list_files(address)
        if last in before:
            remove([f"{address}/{last}"])
        for name in names:
            if name != last:
                put_file(local / name, f"{address}/{name}")
        remove([f"{address}/{name}" for name in before if name not in names])
        put_file(local / last, f"{address}/{last}")
    except OSError as error:
        raise OutputError(f"{error}; check the store, and start the command again") from error
    forget_looked_up()
    shutil.rmtree(local)
    return bool(before)


def put_shard(tar: Path, index: Path, folder: str) -> None:
    """Move a tar and its index to an address: the index first, as a tar needs one.

    Raises:
        OutputError: The store cannot be written.
    """
    try:
        for path in (index, tar):
            put_file(path, f"{folder}/{path.name}")
    except OSError as error:
        raise OutputError(f"{error}; check the store, and start the command again") from error
    forget_looked_up()
    for path in (tar, index):
        path.unlink()


def remove_files(addresses: Sequence[str]) -> None:
    """Remove objects of an output; those that are not there count as removed.

    Raises:
        OutputError: The store cannot be written.
    """
    try:
        remove(addresses)
    except OSError as error:
        raise OutputError(f"{error}; check the store, and start the command again") from error
    forget_looked_up()


def put_contents(contents: Mapping[Path, bytes]) -> None:
    """Write some small objects, in the order given, so that the last can vouch for the others.

    Raises:
        OutputError: The store cannot be written.
    """
    try:
        for path, content in contents.items():
            put_bytes(content, address_of(path) or str(path))
    except OSError as error:
        raise OutputError(f"{error}; check the store, and start the command again") from error
    forget_looked_up()


def has_files(folder: Path, sizes: Mapping[str, int]) -> bool:
    """Return whether a folder of a store has files of the names and sizes given."""
    found = list_files(address_of(folder) or str(folder))
    return all(found.get(name) == size for name, size in sizes.items())


def put_reports(paths: Sequence[Path], address: str) -> None:
    """Write those of some small files that exist to a folder of a store.

    Raises:
        OutputError: The store cannot be written.
    """
    for path in paths:
        if path.is_file():
            try:
                put_file(path, f"{address}/{path.name}")
            except OSError as error:
                raise OutputError(f"{error}; check the store") from error
