"""Write WebDataset shards of assets, and turn shards into folders again."""

import argparse
import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

from cv_reader.assets.claims import claimed_output
from cv_reader.assets.contract import META, is_asset_file
from cv_reader.assets.files import flush, make_folders, new_folder, replace_files, temporary_path
from cv_reader.assets.files import writing as writing_files
from cv_reader.assets.names import is_safe_name
from cv_reader.errors import AssetError, SettingsError
from cv_reader.exits import FAILED_SAMPLES, OK, say
from cv_reader.remote.addresses import address_of, is_address
from cv_reader.remote.output import remove_files
from cv_reader.shards import (
    Member,
    ShardIndex,
    check_has_index,
    index_bytes,
    index_path,
    member_name,
    open_file,
    read_shard_index,
    sample_path,
    scan_tar,
    shard_keys,
    split_path,
)

_BYTES_PER_MIB = 1 << 20
_BLOCK_BYTES = 512


def add_shard_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the limits of a shard."""
    group = parser.add_argument_group("shards")
    group.add_argument(
        "--shard_samples", type=int, default=1000, help="number of samples that end a shard"
    )
    group.add_argument("--shard_mib", type=int, default=1024, help="size that ends a shard, in MiB")


def check_limits(args: argparse.Namespace) -> None:
    """Refuse limits that no shard can keep.

    Raises:
        SettingsError: naming them.
    """
    if args.shard_samples < 1 or args.shard_mib < 1:
        raise SettingsError(
            "--shard_samples and --shard_mib must be at least 1, got "
            f"{args.shard_samples} and {args.shard_mib}"
        )


class ShardWriter:
    """Append assets to shards ``<prefix>000000.tar`` and so on; each appears whole, with its index.

    Shards hold no times and no owners: the same assets in the same order give the same bytes.

    Args:
        folder: where shards are written.
        prefix: what their names begin with.
        most_samples, most_bytes: a shard ends when it reaches either.
        number: number of the first shard.
    """

    def __init__(
        self, folder: Path, prefix: str, most_samples: int, most_bytes: int, number: int = 0
    ) -> None:
        self._folder, self._prefix, self._number = folder, prefix, number
        self._most = most_samples, most_bytes
        self._stream: io.BufferedWriter | None = None
        self._temporary = Path()
        self._samples: dict[str, dict[str, Member]] = {}

    @property
    def tar(self) -> Path:
        """Return the path that the next sample's shard will have."""
        return self._folder / f"{self._prefix}{self._number:06d}.tar"

    def add(self, key: str, folder: Path) -> bool:
        """Append the files of an asset, ``meta.json`` last.

        Returns:
            Whether the shard has ended with it, and is in place.

        Raises:
            AssetError: the key cannot be a member's, or comes twice, or a file is missing.
            OutputError: the shard cannot be written.
        """
        _check_key(folder.with_name(key))
        if key in self._samples:
            raise AssetError(f"{folder}: the key {key!r} comes twice in {self.tar}")
        names = sorted(_files_of(folder), key=lambda name: (name == META, name))
        with writing_files(self.tar):
            if self._stream is None:
                make_folders(self._folder)
                self._temporary = temporary_path(self._folder)
                self._stream = self._temporary.open("wb")
            self._samples[key] = {
                name: _append(self._stream, member_name(key, name), folder / name) for name in names
            }
            most_samples, most_bytes = self._most
            if len(self._samples) >= most_samples or self._stream.tell() >= most_bytes:
                self.close()
                return True
        return False

    def close(self) -> None:
        """Put the open shard in place, if there is one: the index first, as a tar needs one."""
        if self._stream is None:
            return
        with writing_files(self.tar):
            stream, self._stream = self._stream, None
            with stream:
                # Two empty blocks, padded to tar's records, as tarfile ends an archive.
                end = 2 * _BLOCK_BYTES
                end += -(stream.tell() + end) % tarfile.RECORDSIZE
                stream.write(bytes(end))
                size = stream.tell()
                stream.flush()
                os.fsync(stream.fileno())
            index = ShardIndex(size, self._samples)
            replace_files({index_path(self.tar): index_bytes(index)})
            os.replace(self._temporary, self.tar)
            flush(self._folder)
        self._samples = {}
        self._number += 1

    def abandon(self) -> None:
        """Remove what is not finished."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            self._temporary.unlink(missing_ok=True)


def _check_key(folder: Path) -> None:
    if not is_safe_name(folder.name):
        raise AssetError(
            f"{folder}: a key of a shard has letters, digits and ._%-, and no # as it begins a key "
            f"in paths; got {folder.name!r}, rename the folder"
        )


def _append(stream: io.BufferedWriter, name: str, path: Path) -> Member:
    content = path.read_bytes()
    header = tarfile.TarInfo(name)
    header.size = len(content)
    stream.write(header.tobuf(tarfile.GNU_FORMAT))
    offset = stream.tell()
    stream.write(content)
    stream.write(bytes(-len(content) % _BLOCK_BYTES))
    return Member(offset, len(content))


def _files_of(folder: Path) -> list[str]:
    names = os.listdir(folder)
    foreign = [name for name in names if not is_asset_file(name)]
    if foreign or META not in names:
        raise AssetError(f"{folder}: is no asset ({foreign[:1] or META + ' is missing'})")
    return names


def pack_folders(args: argparse.Namespace) -> int:
    """Pack every asset folder below a place into shards, in the order of their names."""
    check_limits(args)
    place: Path = args.place
    if (place / META).is_file():
        folders = [place]
    else:
        pattern = f"*/{META}" if next(place.glob(f"*/{META}"), None) else f"assets/*/{META}"
        folders = sorted(path.parent for path in place.glob(pattern))
    if not folders:
        raise SettingsError(f"{place}: holds no asset folder; check the path")
    for folder in folders:
        _check_key(folder)
    old = next(iter(sorted(args.out.glob("shard_*.tar"))), None)
    if old and not args.overwrite:
        raise SettingsError(f"{old} is there already; choose another --out, or pass --overwrite")
    with claimed_output(args.out, "convert", args.out):
        for tar in args.out.glob("shard_*.tar"):
            remove_shard(tar)
        writer = ShardWriter(
            args.out, "shard_", args.shard_samples, args.shard_mib * _BYTES_PER_MIB
        )
        try:
            failed = _pack(writer, folders)
            writer.close()
        finally:
            writer.abandon()
    say(f"convert: {len(folders) - failed} made, 0 kept, {failed} failed in {args.out}")
    return FAILED_SAMPLES if failed else OK


def _pack(writer: ShardWriter, folders: Iterable[Path]) -> int:
    failed = 0
    for folder in folders:
        try:
            writer.add(folder.name, folder)
        except AssetError as error:
            failed += 1
            say(f"convert: failed: {error}")
    return failed


def remove_shard(tar: Path) -> None:
    """Remove a shard, here or in a store, the tar first: an index alone means nothing."""
    paths = (tar, index_path(tar))
    if is_address(tar):
        remove_files([address_of(path) or str(path) for path in paths])
        return
    for path in paths:
        path.unlink(missing_ok=True)


def _shards_of(place: Path) -> list[Path]:
    tars = [place] if place.suffix == ".tar" else sorted(place.glob("*.tar"))
    if not tars:
        raise SettingsError(f"{place}: is no shard, and holds none; check the path")
    return tars


def unpack_shards(args: argparse.Namespace) -> int:
    """Unpack every sample of shards into a folder of its own."""
    counts = {"made": 0, "kept": 0, "failed": 0}
    tars = _shards_of(args.place)
    for tar in tars:
        check_has_index(tar)
    with claimed_output(args.out, "convert", args.out):
        for tar in tars:
            for key in sorted(shard_keys(tar)):
                target = args.out / key
                if target.exists() and not args.overwrite:
                    counts["kept"] += 1
                    continue
                try:
                    unpack_sample(sample_path(tar, key), target)
                    counts["made"] += 1
                except AssetError as error:
                    counts["failed"] += 1
                    say(f"convert: failed: {error}")
    say(f"convert: {', '.join(f'{count} {what}' for what, count in counts.items())} in {args.out}")
    return FAILED_SAMPLES if counts["failed"] else OK


def unpack_sample(sample: Path, target: Path) -> None:
    """Write the files of one sample of a shard as an asset folder.

    Raises:
        AssetError: the shard is damaged, or holds names that are no files of an asset.
    """
    tar, key, _ = split_path(sample)
    try:
        names = read_shard_index(tar).samples[key]
        wrong = [name for name in names if not is_asset_file(name) or "/" in name]
        if wrong or not is_safe_name(key):
            raise AssetError(f"{sample}: {(wrong or [key])[0]!r} is no name of an asset")
        with new_folder(target, is_replaceable=is_asset_file) as temporary:
            for name in names:
                with open_file(sample / name) as stream:
                    (temporary / name).write_bytes(stream.read())
    except (OSError, KeyError) as error:
        raise AssetError(f"{sample}: cannot be read ({error}); make the shard again") from error


def write_indexes(args: argparse.Namespace) -> int:
    """Write the index of shards that have none, or with ``--overwrite`` of all, beside them."""
    counts = {"made": 0, "kept": 0}
    for tar in _shards_of(args.place):
        if index_path(tar).exists() and not args.overwrite:
            counts["kept"] += 1
            continue
        replace_files({index_path(tar): index_bytes(scan_tar(tar))})
        counts["made"] += 1
    say(f"convert: {', '.join(f'{count} {what}' for what, count in counts.items())}")
    return OK
