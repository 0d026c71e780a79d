"""Assets inside WebDataset tar shards, read as if each were a folder.

``images/shard_000123.tar#key`` is the asset ``key`` of a shard, and
``images/shard_000123.tar#key/positions_thw.npy`` a file of it: such a path can be joined, and named
in a training JSONL, as any other. In the tar the file is the member ``key.positions_thw.npy``, the
members of a sample in a row; ``%`` and dots of a key are written as ``%25`` and ``%2E``, as
WebDataset cuts a name at its first dot. ``shard_000123.index.json`` beside the tar says where each
member begins, so that one file costs one read.
"""

import contextlib
import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from cv_reader.errors import AssetError, SettingsError
from cv_reader.remote.addresses import address_of, is_address
from cv_reader.remote.files import look_up_once, read_remote, read_remote_span
from cv_reader.remote.transfer import list_files, list_folders

MARK = ".tar#"
INDEX_SUFFIX = ".index.json"
_SCHEMA = 1
_MAX_INDEX_BYTES = 1 << 28
_BLOCK_BYTES = 512
_HEAD = re.compile(rb'\{"schema_version":%d,"tar_bytes":(\d{1,18}),"samples":\{' % _SCHEMA)


_Files = dict[str, list[int]]
_Samples = dict[str, _Files]
"""Keys to names to places, as JSON has them."""


class Member(NamedTuple):
    """A file inside a shard: where its content begins, and its size in bytes."""

    offset: int
    size: int


class ShardIndex(NamedTuple):
    """What a shard holds.

    Attributes:
        tar_bytes: size of the tar.
        samples: key to file name to place, in the order of the tar.
    """

    tar_bytes: int
    samples: dict[str, dict[str, Member]]


def is_in_shard(path: str | Path) -> bool:
    """Return whether a path leads into a shard."""
    return MARK in str(path)


def is_plain(path: str | Path) -> bool:
    """Return whether a path is that of a file of this machine, outside of shards."""
    return not is_in_shard(path) and not is_address(path)


def split_path(path: str | Path) -> tuple[Path, str, str]:
    """Return the tar, the key and the name of the file, "" for the sample itself.

    Raises:
        FileNotFoundError: the path names no sample of a shard.
    """
    before, _, after = str(path).partition(MARK)
    key, _, name = after.lstrip("/").partition("/")
    if not key or "/" in name or "#" in after:
        raise FileNotFoundError(f"must read SHARD.tar#KEY/FILE, no # in KEY, got {str(path)!r}")
    return Path(f"{before}.tar"), key, name


def sample_path(tar: Path, key: str) -> Path:
    """Return the path of a sample of a shard."""
    return Path(f"{tar}#{key}")


def key_of(folder: Path) -> str:
    """Return the key of an asset: the name of its folder, or in its shard."""
    if is_in_shard(folder):
        return split_path(folder)[1]
    return folder.name or folder.resolve().name


def index_path(tar: Path) -> Path:
    """Return the path of a shard's index."""
    return tar.with_name(tar.name.removesuffix(".tar") + INDEX_SUFFIX)


def member_name(key: str, name: str) -> str:
    """Return the name of a file's member in the tar."""
    return f"{key.replace('%', '%25').replace('.', '%2E')}.{name}"


def _key_and_name(member: str) -> tuple[str, str]:
    """Cut a member's name at the first dot behind its folders, whose slashes the key has as %2F."""
    folder, slash, file = member.removeprefix("./").rpartition("/")
    key, _, name = file.partition(".")
    key = key.replace("%2E", ".").replace("%25", "%")
    return (folder + slash).replace("/", "%2F") + key, name


def find_shards(folder: Path) -> list[Path]:
    """Return the shards of a folder, here or in a store, in order.

    Raises:
        AssetError: naming a tar that has no index, or a store that cannot be asked.
    """
    names = file_names(folder)
    found = sorted(name for name in names if name.endswith(".tar") and not name.startswith("."))
    for tar in (folder / name for name in found):
        if index_path(tar).name not in names:
            raise AssetError(_without_index(tar))
    return [folder / name for name in found]


def file_names(folder: Path) -> set[str]:
    """Return the names in a folder, here or in a store; none where it is missing.

    Raises:
        AssetError: a store cannot be asked.
    """
    if not is_address(folder):
        return set(os.listdir(folder)) if folder.is_dir() else set()
    return _listed(folder, list_files)


def folder_names(folder: Path) -> set[str]:
    """Return the names of the folders in a folder, here or in a store; none where it is missing.

    Raises:
        AssetError: a store cannot be asked.
    """
    if is_address(folder):
        return _listed(folder, list_folders)
    try:
        with os.scandir(folder) as items:
            return {item.name for item in items if item.is_dir()}
    except FileNotFoundError:
        return set()


def _listed(folder: Path, names_in: Callable[[str], Iterable[str]]) -> set[str]:
    try:
        return set(names_in((address_of(folder) or "").rstrip("/")))
    except (OSError, SettingsError) as error:
        raise AssetError(f"{error}; check the address and the network") from error


def check_has_index(tar: Path) -> None:
    """Refuse a shard without an index.

    Raises:
        AssetError: naming it, and the command that writes the index.
    """
    if not is_file(index_path(tar)):
        raise AssetError(_without_index(tar))


def _without_index(tar: Path) -> str:
    remedy = f"write its index with `cv_reader convert {tar} --to index --out {tar.parent}`"
    if is_address(tar):
        remedy = f"write {index_path(tar).name} with `cv_reader convert` from a copy"
    return (
        f"{address_of(tar) or tar}: has no index {index_path(tar).name}; make the shard again, or "
        f"{remedy}"
    )


def read_shard_index(tar: Path) -> ShardIndex:
    """Return the index of a shard; the last ones are remembered.

    Raises:
        OSError: naming the index or the tar that is missing, damaged, or not of the other.
    """
    return _read_shard_index(str(tar), *_size_and_time(tar))


def _size_and_time(tar: Path) -> tuple[int, int]:
    if is_address(tar):
        file = look_up_once(tar)
        return file.size_bytes, file.mtime_ns
    status = os.stat(tar)
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=32)
def _read_shard_index(tar: str, tar_bytes: int, _mtime_ns: int) -> ShardIndex:
    samples = _checked_samples(Path(tar), tar_bytes)
    return ShardIndex(tar_bytes, {key: _members(files) for key, files in samples.items()})


def _checked_samples(tar: Path, tar_bytes: int) -> _Samples:
    path = index_path(tar)
    try:
        content = json.loads(_index_text(path))
        if content["schema_version"] != _SCHEMA:
            raise ValueError(f"schema_version must be {_SCHEMA}")
        recorded, samples = int(content["tar_bytes"]), cast("_Samples", content["samples"])
        for key, files in samples.items():
            _check_places(key, files, recorded)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the shard has no index {path.name}") from error
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise OSError(f"{path.name} is damaged ({error}); make the shard again") from error
    if recorded != tar_bytes:
        raise OSError(
            f"the tar has {tar_bytes} bytes where {path.name} says {recorded}; it is cut or "
            "another one, make the shard again"
        )
    return samples


def _index_text(path: Path) -> bytes:
    # Looked at first: what is opened in a store is fetched whole.
    if file_bytes(path) > _MAX_INDEX_BYTES:
        raise ValueError(f"more than {_MAX_INDEX_BYTES} bytes")
    with open_file(path) as stream:
        return stream.read(_MAX_INDEX_BYTES)


def _check_places(key: str, files: _Files, tar_bytes: int) -> None:
    for name, (offset, size) in files.items():
        if offset < _BLOCK_BYTES or size < 0 or offset + size > tar_bytes:
            raise ValueError(f"{key}: {name} is not inside the tar")


def _members(files: _Files) -> dict[str, Member]:
    return {name: Member(int(offset), int(size)) for name, (offset, size) in files.items()}


def _read_sample(tar: Path, key: str) -> dict[str, Member]:
    """Return the files of one sample of a shard, none if it holds no such sample.

    Training reads samples of thousands of shards in random order: to parse a whole index for each
    would take longer than to decode small pictures, and to remember them all would take gigabytes.

    Raises:
        OSError: as ``read_shard_index``.
    """
    return _read_known_sample(str(tar), *_size_and_time(tar), key)


@lru_cache(maxsize=64)
def _read_known_sample(tar: str, tar_bytes: int, mtime_ns: int, key: str) -> dict[str, Member]:
    # What it cannot find in an index as ``index_bytes`` writes it, a full reading finds or refuses.
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        text = _index_text(index_path(Path(tar)))
        head = _HEAD.match(text)
        if head and int(head[1]) == tar_bytes:
            name, first = json.dumps(key).encode() + b":{", head.end()
            # A comma ends the sample before; a quote alone might be one inside a longer key.
            where = first if text.startswith(name, first) else text.index(b"," + name, first) + 1
            start = where + len(name) - 1
            files = json.loads(text[start : text.index(b"}", start) + 1])
            _check_places(key, files, tar_bytes)
            return _members(files)
    return _read_shard_index(tar, tar_bytes, mtime_ns).samples.get(key, {})


def scan_tar(tar: Path) -> ShardIndex:
    """Return what the headers of a tar say.

    Raises:
        AssetError: it is cut or damaged, or the members of a sample are not in a row.
    """
    samples: dict[str, dict[str, Member]] = {}
    last = ""
    try:
        with tarfile.open(tar, "r:") as stream:
            for member in stream:
                if member.isdir():
                    continue
                if not member.isfile() or member.issparse():
                    raise tarfile.ReadError(f"{member.name!r} is no file")
                key, name = _key_and_name(member.name)
                if key != last and key in samples:
                    raise tarfile.ReadError(f"key {key!r} comes twice")
                last = key
                samples.setdefault(key, {})[name] = Member(member.offset_data, member.size)
            size = tar.stat().st_size
            if stream.offset + _BLOCK_BYTES > size:
                raise tarfile.ReadError("it has no end")
    except (OSError, tarfile.TarError) as error:
        raise AssetError(f"{tar}: cannot be read ({error}); make the shard again") from error
    return ShardIndex(size, samples)


def index_bytes(index: ShardIndex) -> bytes:
    """Return the content of an index file."""
    content = {"schema_version": _SCHEMA, **index._asdict()}
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def check_shard(tar: Path) -> None:
    """Compare the index of a shard with the headers of the tar.

    Raises:
        AssetError: they differ, or one is damaged.
    """
    try:
        recorded = read_shard_index(tar)
    except OSError as error:
        raise AssetError(f"{tar}: {error}") from error
    if scan_tar(tar) != recorded:
        raise AssetError(f"{tar}: its index is not that of its headers; make the shard again")


def _find_member(path: str | Path) -> tuple[Path, Member]:
    tar, key, name = split_path(path)
    member = _read_sample(tar, key).get(name)
    if member is None:
        raise FileNotFoundError(f"{tar.name} holds no {name or 'file'} of {key!r}")
    return tar, member


def open_file(path: str | Path) -> BinaryIO:
    """Open a file, in a folder or in a shard, here or in a store, to read its bytes.

    Raises:
        OSError: it is missing, or its shard is damaged.
    """
    if not is_in_shard(path):
        return io.BytesIO(read_remote(path)) if is_address(path) else Path(path).open("rb")
    tar, member = _find_member(path)
    if is_address(tar):
        return io.BytesIO(read_remote_span(tar, member.offset, member.size))
    with tar.open("rb") as stream:
        stream.seek(member.offset)
        content = stream.read(member.size)
    if len(content) != member.size:
        raise OSError("the tar ends inside it")
    return io.BytesIO(content)


def file_bytes(path: str | Path) -> int:
    """Return the size of a file, in a folder or in a shard.

    Raises:
        OSError: it is missing or no file, or its shard is damaged.
    """
    if is_in_shard(path):
        return _find_member(path)[1].size
    if is_address(path):
        return look_up_once(path).size_bytes
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("is no file")
    return status.st_size


def has_sizes(folder: Path, sizes: Mapping[str, int]) -> bool:
    """Return whether a sample of a shard has files of the names and sizes given."""
    try:
        return all(file_bytes(folder / name) == size for name, size in sizes.items())
    except OSError:
        return False


def is_file(path: str | Path) -> bool:
    """Return whether a path leads to a file, in a folder or in a shard."""
    if is_plain(path):
        return Path(path).is_file()
    try:
        file_bytes(path)
    except OSError:
        return False
    return True


def shard_keys(tar: Path) -> set[str]:
    """Return the keys of a shard.

    Raises:
        AssetError: it has no index, or is damaged.
    """
    try:
        return set(_checked_samples(tar, _size_and_time(tar)[0]))
    except OSError as error:
        raise AssetError(f"{tar}: {error}") from error
