"""Move bytes from and to object stores and servers, and try again where that may help.

All failures come as ``OSError``: ``FileNotFoundError`` and ``PermissionError`` at once, and
``TransferError`` where several tries failed. The libraries have retries of their own; these come on
top, for connections that break inside a body and servers that stay away for seconds.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar, cast

from cv_reader.remote.addresses import READ_ONLY, file_system, known_scheme
from cv_reader.remote.web import (
    NoRangesError,
    answers_ranges,
    is_web,
    read_span,
    write_whole,
)

T = TypeVar("T")

MAX_TRIES = 5
FIRST_WAIT_SECONDS = 0.5
"""Doubled after each try: seven seconds in all, besides what the libraries wait."""

PART_BYTES = 1 << 23
"""A file is fetched in parts of this size, so that a broken connection costs one of them."""

_LIBRARIES = {
    *("aiobotocore", "aiohttp", "asyncio", "botocore", "fsspec", "gcsfs", "google", "httpcore"),
    *("httpcore2", "httpx", "httpx2", "huggingface_hub", "requests", "s3fs", "urllib3"),
}
_ONE_BY_ONE, _SPANS_AT_ONCE = ("hf", *READ_ONLY), 16
"""Schemes whose library fetches several spans one after the other, or without a bound."""
_NO_CREDENTIALS = ("NoCredentialsError", "DefaultCredentialsError", "LocalTokenNotFoundError")
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_AGAIN_STATUSES, _MISSING_STATUSES = (408, 425, 429), (404, 410)
_TIMES = ("LastModified", "mtime", "updated", "created", "Last-Modified")
_TAGS = ("ETag", "etag", "blob_id", "generation")


class TransferError(OSError):
    """An object cannot be read or written, though it was tried several times."""


class NoCredentialsError(PermissionError):
    """The library of a scheme finds no credentials."""


@dataclass
class Traffic:
    """What this process has moved so far.

    Attributes:
        bytes_read: bytes of content that arrived and were used.
        bytes_written: bytes of content that were sent.
        requests: transfers that succeeded.
        retries: transfers that were tried again.
    """

    bytes_read: int = 0
    bytes_written: int = 0
    requests: int = 0
    retries: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def copy(self) -> "Traffic":
        """Return the counts as they are now."""
        return Traffic(self.bytes_read, self.bytes_written, self.requests, self.retries)

    def add(self, *, read: int = 0, written: int = 0, requests: int = 0, retries: int = 0) -> None:
        """Add to the counts."""
        with self._lock:
            self.bytes_read += read
            self.bytes_written += written
            self.requests += requests
            self.retries += retries


traffic = Traffic()


class Counted(str):
    """What became of a sample, with what was moved for it."""

    _moved: dict[str, int]

    @classmethod
    def since(cls, before: Traffic, what: str, video_bytes: int) -> "Counted":
        """Return a word with what was moved since a copy of ``traffic`` was taken.

        Args:
            before: the copy.
            what: the word.
            video_bytes: size of the sample's video, where it is a remote one.
        """
        found = cls(what)
        found._moved = {
            name: getattr(traffic, name) - getattr(before, name)
            for name in ("bytes_read", "bytes_written", "requests", "retries")
        }
        found._moved["video_bytes"] = video_bytes
        return found

    def amounts(self) -> dict[str, int]:
        """Return ``bytes_read``, ``bytes_written``, ``requests``, ``retries``, ``video_bytes``."""
        return self._moved


@dataclass(frozen=True)
class RemoteFile:
    """An object as its store describes it.

    Attributes:
        address: its address.
        size_bytes: its size.
        mtime_ns: time of its last change; 0 where the store does not tell.
        tag: the store's mark of its content; "" where there is none.
    """

    address: str
    size_bytes: int
    mtime_ns: int
    tag: str


def with_retries(address: str, call: Callable[[], T], max_tries: int = MAX_TRIES) -> T:
    """Return what a transfer gives; try again after failures that may pass.

    Args:
        address: for messages.
        call: the transfer.
        max_tries: how often it is tried.

    Raises:
        OSError: As the module says; its message names the address.
    """
    wait = FIRST_WAIT_SECONDS
    for number in range(1, max_tries + 1):
        try:
            found = call()
        except Exception as raised:
            if not _is_of_transfer(raised):
                raise
            error = _told(raised, address)
            final = _final(error, address)
            if final is None and number == max_tries:
                said = error_text(error)
                times = f"{max_tries} times, the last" if max_tries > 1 else "once"
                final = TransferError(f"{address}: failed {times}: {said}")
            if final is not None:
                raise final from error
            traffic.add(retries=1)
            time.sleep(wait * random.uniform(0.5, 1.0))
            wait *= 2
        else:
            traffic.add(requests=1)
            return found
    raise AssertionError("the last try returns or raises")


def _is_of_transfer(error: Exception) -> bool:
    """Return whether an error comes from the network or the store, and not from a fault here."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or library in _LIBRARIES


def _told(error: Exception, address: str) -> BaseException:
    """Return what a web server told, where fsspec calls any failure a missing file."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) and is_web(address) else None
    return cause if cause and getattr(cause, "status", 0) not in _MISSING_STATUSES else error


def _final(error: BaseException, address: str) -> OSError | None:
    """Return what to raise for an error that no further try can change."""
    if type(error).__name__ in _NO_CREDENTIALS:
        return NoCredentialsError(f"{address}: no credentials were found ({error_text(error)})")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{address}: no such object, folder or bucket")
    if isinstance(error, NoRangesError):
        return TransferError(f"{address}: {error}; copy the file to this machine or a store")
    if isinstance(error, _PERMANENT):
        return type(error)(f"{address}: {error_text(error)}")
    response: Any = getattr(error, "response", None)
    status: Any = getattr(error, "status", None) or getattr(response, "status_code", None)
    is_refused = isinstance(status, int) and 400 <= status < 500 and status not in _AGAIN_STATUSES
    if is_refused:
        kind = PermissionError if status in (401, 403) else TransferError
        return kind(f"{address}: the server answers {status} ({error_text(error)})")
    return None


def error_text(error: BaseException) -> str:
    """Return an error's own words on one line, or its name where it has none."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()) or type(error).__name__


def look_up(address: str) -> RemoteFile:
    """Return what the store says of an object.

    Raises:
        OSError: It is missing, no file, or the store cannot be asked.
        SettingsError: As ``file_system``.
    """
    system, path = file_system(address)
    info = with_retries(address, lambda: cast("dict[str, Any]", system.info(path)))
    if info.get("type") == "directory":
        raise IsADirectoryError(f"{address}: is a folder, not a file")
    if info.get("size") is None:
        raise OSError(f"{address}: the server does not tell its size, so it cannot be read")
    tag = next((str(info[name]) for name in _TAGS if info.get(name)), "")
    # Seconds as a float, which fsspec gives, are not exact.
    is_local = known_scheme(address) == "file"
    mtime_ns = os.stat(path).st_mtime_ns if is_local else _mtime_ns(info)
    return RemoteFile(address, int(info["size"]), mtime_ns, tag)


def _mtime_ns(info: dict[str, Any]) -> int:
    """Return the time of the last change, to the microsecond; 0 where it is not told."""
    found = next((info[name] for name in _TIMES if info.get(name)), 0)
    if isinstance(found, str):
        parse = parsedate_to_datetime if "," in found else datetime.fromisoformat
        try:
            found = parse(found.replace("Z", "+00:00"))
        except ValueError:
            return 0
    if isinstance(found, datetime):
        found = found if found.tzinfo else found.replace(tzinfo=timezone.utc)
        found = found.timestamp()
    return round(found * 1e6) * 1000 if isinstance(found, (int, float)) else 0


def fetch_span(file: RemoteFile, start: int, end: int) -> bytes:
    """Return the bytes of an object from ``start`` to ``end``, which is inside it.

    Raises:
        OSError: As the module says.
    """
    system, path = file_system(file.address)

    def call() -> bytes:
        if is_web(file.address):
            return _checked(read_span(system, path, start, end), end - start)
        # The hub's library would read megabytes ahead.
        options = {"cache_type": "none"} if known_scheme(file.address) == "hf" else {}
        content: bytes = system.cat_file(path, start=start, end=end, **options)
        return _checked(content, end - start)

    content = with_retries(file.address, call)
    traffic.add(read=len(content))
    return content


def _checked(content: bytes, size: int) -> bytes:
    if len(content) != size:
        raise OSError(f"the server sent {len(content)} bytes where {size} were asked for")
    return content


def fetch_spans(file: RemoteFile, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return the bytes of several spans of an object; many are fetched side by side.

    Raises:
        OSError: As the module says.
    """
    if len(spans) == 1:
        return [fetch_span(file, *spans[0])]
    if known_scheme(file.address) in _ONE_BY_ONE:
        with ThreadPoolExecutor(_SPANS_AT_ONCE) as threads:
            return list(threads.map(partial(fetch_span, file), *zip(*spans, strict=True)))
    system, path = file_system(file.address)
    starts, ends = [span[0] for span in spans], [span[1] for span in spans]
    found: list[Any] = system.cat_ranges(
        [path] * len(spans), starts, ends, max_gap=None, on_error="return"
    )
    contents: list[bytes] = []
    for (start, end), content in zip(spans, found, strict=True):
        if isinstance(content, bytes) and len(content) == end - start:
            traffic.add(read=len(content), requests=1)
            contents.append(content)
        else:
            traffic.add(retries=1)
            contents.append(fetch_span(file, start, end))
    return contents


def fetch_file(file: RemoteFile, target: str | os.PathLike[str]) -> None:
    """Write the content of an object to a file of this disk.

    Raises:
        OSError: As the module says, and where the object changes meanwhile.
    """
    with open(target, "r+b") as stream:
        if not serves_ranges(file):
            system, path = file_system(file.address)
            size = file.size_bytes
            with_retries(file.address, lambda: write_whole(system, path, stream, size))
            traffic.add(read=size)
            return
        for start in range(0, file.size_bytes, PART_BYTES):
            stream.write(fetch_span(file, start, min(start + PART_BYTES, file.size_bytes)))
    if file.size_bytes > PART_BYTES:
        check_unchanged(file)


def serves_ranges(file: RemoteFile) -> bool:
    """Return whether parts of a file can be fetched; of a small one that is not asked.

    Raises:
        OSError: As the module says.
    """
    if not is_web(file.address) or file.size_bytes <= PART_BYTES:
        return True
    system, path = file_system(file.address)
    return with_retries(file.address, lambda: answers_ranges(system, path))


def check_unchanged(file: RemoteFile) -> None:
    """Raise TransferError if an object is no longer the one that was looked up."""
    if look_up(file.address) != file:
        raise TransferError(f"{file.address}: changed while it was read; start again")


def put_file(local: str | os.PathLike[str], address: str) -> None:
    """Write an object from a file of this disk; it appears whole.

    Raises:
        OSError: As the module says.
        SettingsError: As ``file_system``.
    """
    system, path = file_system(address)
    with_retries(address, lambda: system.put_file(os.fspath(local), path))
    traffic.add(written=os.path.getsize(local))


def put_bytes(content: bytes, address: str) -> None:
    """Write a small object; it appears whole.

    Raises:
        OSError, SettingsError: As ``put_file``.
    """
    system, path = file_system(address)
    with_retries(address, lambda: system.pipe_file(path, content))
    traffic.add(written=len(content))


def remove(addresses: Sequence[str]) -> None:
    """Remove objects; those that are not there count as removed.

    Raises:
        OSError: As the module says.
    """
    for address in addresses:
        system, path = file_system(address)
        try:
            with_retries(address, lambda system=system, path=path: system.rm_file(path))
        except FileNotFoundError:
            continue


def list_files(address: str) -> dict[str, int]:
    """Return name and size in bytes of each object directly in a folder; none where it is missing.

    Raises:
        OSError: As the module says.
    """
    rows = _list(address)
    return {_last(row): int(row.get("size") or 0) for row in rows if row.get("type") == "file"}


def list_folders(address: str) -> set[str]:
    """Return the names of the folders directly in a folder; none where it is missing.

    Raises:
        OSError: As the module says.
    """
    return {_last(row) for row in _list(address) if row.get("type") == "directory"} - {""}


def _list(address: str) -> list[dict[str, Any]]:
    system, path = file_system(address)
    try:
        return with_retries(address, lambda: system.ls(path, detail=True))
    except FileNotFoundError:
        return []


def _last(row: dict[str, Any]) -> str:
    return row["name"].rstrip("/").rpartition("/")[2]
