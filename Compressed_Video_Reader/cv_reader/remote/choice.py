"""Arguments of commands that read or write remote files, and what is checked before work starts."""

import argparse
import os
from pathlib import Path

from cv_reader.errors import SettingsError
from cv_reader.remote.addresses import READ_ONLY, address_of, file_system, known_scheme
from cv_reader.remote.cache import DEFAULT_GB, cache_settings, choose_cache
from cv_reader.remote.transfer import error_text, remove, with_retries
from cv_reader.remote.videos import DEFAULT_WHOLE_MIB, RemoteReading

ASKED_OF_STORE = 16
"""Outputs in a store whose settings are looked at before work starts: each costs some requests."""


def add_remote_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how remote files are read."""
    group = parser.add_argument_group(
        "remote storage",
        "the list, --video_root, videos and outputs may be addresses: s3://, gs://, hf://, of what"
        " is read also http(s)://; credentials are those that the library of the scheme finds",
    )
    group.add_argument(
        "--cache_root",
        metavar="FOLDER",
        type=Path,
        help="folder of this machine for fetched files and unfinished output (default:"
        " CV_READER_CACHE, else ~/.cache/cv_reader)",
    )
    group.add_argument(
        "--cache_gb",
        type=float,
        help="size of fetched files that are kept, in 10^9 bytes; those used longest ago go first"
        f" (default: CV_READER_CACHE_GB, else {DEFAULT_GB:g})",
    )
    group.add_argument(
        "--fetch_whole_mib",
        type=float,
        default=DEFAULT_WHOLE_MIB,
        help="size up to which a video is fetched whole, in MiB; of a larger MP4 what is read",
    )


def remote_reading(args: argparse.Namespace) -> RemoteReading:
    """Return how a command reads remote files; its cache is that of this process from here on.

    Raises:
        SettingsError: A size makes no sense.
    """
    if not args.fetch_whole_mib >= 0:
        raise SettingsError(f"--fetch_whole_mib must be at least 0, got {args.fetch_whole_mib}")
    cache = cache_settings(args.cache_root, args.cache_gb)
    choose_cache(cache)
    return RemoteReading(cache=cache, whole_mib=args.fetch_whole_mib)


def check_reachable(address: str, *, writes: bool) -> None:
    """Refuse an address that cannot be used, before work starts.

    Args:
        address: a file or a folder; a folder of a web server cannot be asked for, and passes.
        writes: whether it is an output folder: then an object is written to it and removed.

    Raises:
        SettingsError: naming the address and the reason.
    """
    is_served = known_scheme(address) in READ_ONLY
    if writes and is_served:
        raise SettingsError(f"{address}: a web server cannot be written to; choose s3:// or gs://")
    system, path = file_system(address)
    try:
        if writes:
            trial = f"{address.rstrip('/')}/.cv_reader-trial-{os.getpid()}"
            _, trial_path = file_system(trial)
            with_retries(address, lambda: system.pipe_file(trial_path, b""), max_tries=1)
            remove([trial])
        elif not is_served:
            # The library tries a few times itself: a wrong address is to be told soon.
            with_retries(address, lambda: system.info(path), max_tries=1)
    except OSError as error:
        remedy = "check the address, the network and the credentials of its library"
        raise SettingsError(f"{error_text(error)}; {remedy}") from error


def check_places(inputs: list[Path | None], output: Path | None = None) -> None:
    """Refuse addresses that cannot be used, before a run looks at its data.

    Args:
        inputs: files and folders that are read; those of this machine are not looked at.
        output: the output folder.

    Raises:
        SettingsError: Its scheme is unknown, its package missing, or it cannot be reached.
    """
    for place in (*inputs, output):
        address = None if place is None else address_of(place)
        if address is not None:
            known_scheme(address)
            check_reachable(address, writes=place is output)


def local_output(args: argparse.Namespace, output: Path) -> tuple[Path, str | None]:
    """Return the folder of this machine that a command writes to, and the address it is moved to.

    Args:
        args: of the command.
        output: a folder of this machine, or an address.

    Raises:
        SettingsError: The output is an address, and the settings of the cache make no sense.
    """
    store = address_of(output)
    if store is None:
        return output, None
    store = store.rstrip("/")
    return remote_reading(args).cache.output(store), store
