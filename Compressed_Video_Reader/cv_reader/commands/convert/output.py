"""``--output tar``: a run packs its finished folders into shards, in the order of tasks.

Workers write folders as without it. The run appends each finished one to the open shard, and
removes the folders of a shard once it is in place: a run that is killed loses nothing, and the next
one continues with the next shard.
"""

import argparse
import contextlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cv_reader.commands.convert.shards import ShardWriter, check_limits, remove_shard, unpack_sample
from cv_reader.errors import AssetError, SettingsError
from cv_reader.exits import say
from cv_reader.ledger import Ledger, Place
from cv_reader.remote.addresses import address_of, is_address
from cv_reader.remote.output import put_shard
from cv_reader.remote.videos import remote_status
from cv_reader.shards import (
    file_names,
    find_shards,
    index_path,
    sample_path,
    shard_keys,
)

_BYTES_PER_MIB = 1 << 20
_SHARD = re.compile(r"shard_(\d+of\d+_)?\d{6}\.tar")


def add_output_choice(parser: argparse.ArgumentParser) -> None:
    """Add what assets are written as."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output",
        choices=("folder", "tar"),
        default="folder",
        help="write each asset as a folder, or many as one WebDataset tar",
    )
    group.add_argument(
        "--shard_samples", type=int, default=1000, help="number of samples that end a tar"
    )
    group.add_argument("--shard_mib", type=int, default=1024, help="size that ends a tar, in MiB")


def refuse_shards(folder: Path) -> None:
    """Refuse a folder that holds shards, before asset folders are written beside them.

    Readers would find two assets of one key. A store, whose list may be long, is asked for its
    first shard only.

    Raises:
        SettingsError: naming a shard.
    """
    if is_address(folder):
        first = "shard_000000.tar"
        found = first if remote_status(folder / first) else None
    elif folder.is_dir():
        with os.scandir(folder) as entries:
            found = next((e.name for e in entries if _SHARD.fullmatch(e.name)), None)
    else:
        return
    if found is not None:
        raise SettingsError(
            f"{address_of(folder) or folder}: holds shards ({found}); pass --output tar, or choose "
            "another output folder"
        )


class TarOutput(contextlib.AbstractContextManager["TarOutput"]):
    """The shards of a run.

    Args:
        folder: where they are, and the folders that they are made of.
        args: limits of a shard, the number of this run's part, ``--overwrite``.
        ledger: of this run.
        is_current: whether the asset at a path is what a task would make; raises StaleAssetError
            where it was made with other settings.
        store: address of the folder that finished shards are moved to; None = they stay.

    Raises:
        AssetError: a shard that is there has no index.
    """

    def __init__(
        self,
        folder: Path,
        args: argparse.Namespace,
        ledger: Ledger,
        is_current: Callable[[Any, Path], bool],
        store: str | None = None,
    ) -> None:
        check_limits(args)
        self._folder, self._ledger, self._is_current = folder, ledger, is_current
        self._store, self._shards = store, folder if store is None else Path(store)
        part = f"{args.shard_id:02d}of{args.num_shards:02d}_" if args.num_shards > 1 else ""
        prefix = f"shard_{part}"
        self._tars: dict[str, Path] = {}
        """Key to the shard that holds it, or will."""
        self._open: dict[str, Place | None] = {}
        """What the open shard holds."""
        number = 0
        if not args.overwrite:
            find_shards(self._shards)
        if store is not None:
            # A run was killed before it had moved them; their folders are still there.
            for tar in folder.glob(f"{prefix}*.tar"):
                remove_shard(tar)
        names = re.compile(rf"{prefix}(\d{{6}})\.tar")
        for match in filter(None, map(names.fullmatch, sorted(file_names(self._shards)))):
            if self._take(self._shards / match[0], is_wanted=not args.overwrite):
                number = int(match[1]) + 1
        self._remove_packed_folders()
        size = args.shard_mib * _BYTES_PER_MIB
        self._writer = ShardWriter(folder, prefix, args.shard_samples, size, number)

    def _take(self, tar: Path, *, is_wanted: bool) -> bool:
        try:
            keys = shard_keys(tar) if is_wanted else set[str]()
        except AssetError as error:
            say(f"{error}; it is removed, and its samples are made again")
            is_wanted = False
            keys = set[str]()
        if not is_wanted:
            remove_shard(tar)
        self._tars |= dict.fromkeys(keys, tar)
        return is_wanted

    def _remove_packed_folders(self) -> None:
        """Remove the folders that a run left which was killed right after it put a shard in place.

        A shard that must give up a sample is removed before the sample gets a folder: where there
        are both, the shard holds the same.
        """
        if not self._tars:
            return
        for entry in os.scandir(self._folder):
            if entry.name in self._tars and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        self._writer.abandon()

    def path(self, name: str) -> Path:
        """Return the path of an asset: in the shard that holds it or will, else its folder."""
        tar = self._tars.get(name)
        return self._folder / name if tar is None else sample_path(tar, name)

    def is_kept(self, task: Any, place: Place, *, is_trusted: bool) -> bool:
        """Return whether a task\'s asset is in a shard, and up to date.

        A shard that holds an outdated or damaged one is opened: its other samples are appended to
        the next shard.
        """
        tar = self._tars.get(place.name)
        if tar is None or place.name in self._open:
            return tar is not None
        inside = Place(place.name, place.inputs, [str(tar)])
        if self._ledger.find(inside, is_trusted=is_trusted):
            return True
        if self._is_current(task, sample_path(tar, place.name)):
            self._record(inside, tar)
            return True
        self._reopen(tar, without=place.name)
        return False

    def _reopen(self, tar: Path, without: str) -> None:
        say(f"{tar}: {without} is damaged or outdated; its other samples go to a new shard")
        for key in [key for key, holder in self._tars.items() if holder == tar]:
            del self._tars[key]
            if key == without:
                continue
            try:
                unpack_sample(sample_path(tar, key), self._folder / key)
            except AssetError as error:
                say(f"{error}")
                continue
            self.add(Place(key, [], []), is_recorded=False)
        remove_shard(tar)

    def add(self, place: Place, *, is_recorded: bool = True) -> None:
        """Append a finished folder to the open shard.

        Args:
            place: of the folder.
            is_recorded: whether the ledger gets it once the shard is in place.

        Raises:
            AssetError: The folder holds files that are no part of an asset.
            OutputError: The shard cannot be written.
        """
        if place.name in self._tars:
            return
        self._tars[place.name] = self._shards / self._writer.tar.name
        self._open[place.name] = place if is_recorded else None
        if self._writer.add(place.name, self._folder / place.name):
            self._settle()

    def close(self) -> None:
        """Put the last shard in place."""
        if self._open:
            self._writer.close()
            self._settle()

    def _settle(self) -> None:
        """Move the shard that has ended to the store, if there is one; its folders go."""
        tar = next(self._tars[name] for name in self._open)
        if self._store is not None:
            local = self._folder / tar.name
            put_shard(local, index_path(local), self._store)
        for name, place in self._open.items():
            if place is not None:
                self._record(place, tar)
            shutil.rmtree(self._folder / name)
        self._open.clear()

    def _record(self, place: Place, tar: Path) -> None:
        # Addresses have no state on this disk; a ledger that is trusted is not asked for it.
        inputs = [path for path in place.inputs if not is_address(path)]
        self._ledger.finish(Place(place.name, inputs, [str(tar)]))
