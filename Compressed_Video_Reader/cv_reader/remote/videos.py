"""Remote videos as files of this disk: fetched whole into the cache, or by ranges.

A short video is fetched whole, because its frames are too close together to leave anything out.
Of a long one, only the parts that are read are fetched. FFmpeg reads every packet of a file to list
them; the header of an MP4 says almost as much, so that their content need not be fetched (see
``cv_reader.media.scanning``).
"""

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from cv_reader.errors import RemoteError, SettingsError, VideoError, VideoNotFoundError
from cv_reader.partial_files import PartialFile, partial_file
from cv_reader.remote.addresses import address_of
from cv_reader.remote.cache import LocalCache, default_cache
from cv_reader.remote.transfer import (
    RemoteFile,
    check_unchanged,
    fetch_spans,
    look_up,
    serves_ranges,
)

DEFAULT_WHOLE_MIB = 64.0
_BYTES_PER_MIB = 1 << 20
_RANGED_SUFFIXES = (".mp4", ".m4v", ".mov")


@dataclass(frozen=True, kw_only=True)
class RemoteReading:
    """How remote files are read.

    Attributes:
        cache: where they are kept.
        whole_mib: videos of up to this size are fetched whole; 0 = none.
    """

    cache: LocalCache = field(default_factory=default_cache)
    whole_mib: float = DEFAULT_WHOLE_MIB

    def is_fetched_whole(self, file: RemoteFile) -> bool:
        """Return whether a video is fetched whole.

        Raises:
            OSError: A server cannot be asked.
        """
        suffix = os.path.splitext(file.address.partition("?")[0])[1].lower()
        is_short = file.size_bytes <= self.whole_mib * _BYTES_PER_MIB
        return is_short or suffix not in _RANGED_SUFFIXES or not serves_ranges(file)

    @contextlib.contextmanager
    def local_video(self, path: Path, *, may_skim: bool = False) -> Generator[Path]:
        """Give the path of a video on this disk: an address is fetched, whole or by what is read.

        Errors of the block that name the path name the address instead.

        Args:
            path: a path of this machine, which is given as it is, or an address.
            may_skim: see ``PartialFile``.

        Raises:
            VideoNotFoundError: There is no such object.
            RemoteError: It cannot be fetched.
            SettingsError: The scheme is unknown, or its package is missing.
        """
        address = address_of(path)
        if address is None:
            yield path
            return
        with contextlib.ExitStack() as stack:
            try:
                file = look_up(address)
                if self.is_fetched_whole(file):
                    local, partial = stack.enter_context(self.cache.opened(file)), None
                else:
                    local = stack.enter_context(self.cache.scratch(file))
                    partial = stack.enter_context(_partial(file, local, may_skim=may_skim))
            except OSError as error:
                raise _failed(address, error) from error
            try:
                yield local
                if partial is not None:
                    check_unchanged(file)
            except VideoError as error:
                if partial is not None and partial.failure is not None:
                    raise _failed(address, partial.failure) from error
                raise _named(error, address) from error
            except OSError as error:
                cause = partial.failure if partial is not None else None
                if cause is None and partial is None:
                    raise
                raise _failed(address, cause or error) from error
            if partial is not None and partial.failure is not None:
                raise _failed(address, partial.failure)


@contextlib.contextmanager
def _partial(file: RemoteFile, local: Path, *, may_skim: bool) -> Generator[PartialFile]:
    partial = PartialFile(
        local,
        file.size_bytes,
        file.mtime_ns,
        lambda spans: fetch_spans(file, spans),
        may_skim=may_skim,
    )
    try:
        with partial_file(partial):
            yield partial
    finally:
        partial.close()


def _failed(address: str, error: OSError) -> VideoError:
    reason = str(error).removeprefix(f"{address}: ")
    kind = VideoNotFoundError if isinstance(error, FileNotFoundError) else RemoteError
    return kind(address, reason)


def _named(error: VideoError, address: str) -> VideoError:
    """Return the same error with the address in place of the path in the cache."""
    return type(error)(address, error.reason)


def remote_status(path: Path) -> RemoteFile | None:
    """Return size and time of a file of either kind; None where it is missing.

    Raises:
        RemoteError: A store cannot be asked.
    """
    address = address_of(path)
    if address is None:
        try:
            status = os.stat(path)
        except OSError:
            return None
        return RemoteFile(str(path), status.st_size, status.st_mtime_ns, "")
    try:
        return look_up(address)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failed(address, error) from error


@contextlib.contextmanager
def local_list(path: Path) -> Generator[Path]:
    """Give the path of a list on this disk: one of a store is fetched.

    Raises:
        SettingsError: It cannot be fetched.
    """
    address = address_of(path)
    if address is None:
        yield path
        return
    with contextlib.ExitStack() as stack:
        try:
            local = stack.enter_context(default_cache().opened(look_up(address)))
        except OSError as error:
            raise SettingsError(f"{error}; check the address and the network") from error
        yield local
