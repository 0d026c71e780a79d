"""Reads of web servers, which may ignore that only a range was asked for.

fsspec would take the whole body into memory then, whatever its size. Here a body is read up to what
was asked for, and no further.
"""

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, BinaryIO

from cv_reader.remote.addresses import READ_ONLY, known_scheme

_PARTIAL_CONTENT = 206
_CHUNK_BYTES = 1 << 16


class NoRangesError(OSError):
    """A web server sends whole files only."""


def is_web(address: str) -> bool:
    """Return whether an address is one of a web server."""
    return known_scheme(address) in READ_ONLY


def read_span(system: Any, url: str, start: int, end: int) -> bytes:
    """Return the bytes of a file from ``start`` to ``end``; fewer or one more if it differs.

    Raises:
        NoRangesError: The server answers with the beginning of the file instead.
        OSError and errors of aiohttp: The transfer failed.
    """
    content = bytearray()

    def take(status: int, chunk: bytes) -> bool:
        if start and status != _PARTIAL_CONTENT:
            raise NoRangesError("the server does not send parts of a file (ranges)")
        content.extend(chunk[: end - start + 1 - len(content)])
        return len(content) <= end - start

    _get(system, url, f"bytes={start}-{end - 1}", take)
    return bytes(content)


@lru_cache(maxsize=1 << 12)
def answers_ranges(system: Any, url: str) -> bool:
    """Return whether a server sends parts of a file; a process asks once.

    Raises:
        OSError and errors of aiohttp: The transfer failed.
    """
    seen: list[int] = []

    def take(status: int, _chunk: bytes) -> bool:
        seen.append(status)
        return False

    _get(system, url, "bytes=1-1", take)
    return seen == [_PARTIAL_CONTENT]


def write_whole(system: Any, url: str, stream: BinaryIO, size: int) -> None:
    """Write a whole file of ``size`` bytes.

    Raises:
        OSError and errors of aiohttp: The transfer failed, or the file has another size.
    """
    stream.seek(0)
    left = [size]

    def take(_status: int, chunk: bytes) -> bool:
        left[0] -= len(chunk)
        if left[0] >= 0:
            stream.write(chunk)
        return left[0] >= 0

    _get(system, url, "", take)
    if left[0]:
        raise OSError(f"the server sent {size - left[0]} bytes or more where {size} were expected")


def _get(system: Any, url: str, span: str, take: Callable[[int, bytes], bool]) -> None:
    """Pass the status and each chunk of an answer on, as long as more is wanted."""

    async def run() -> None:
        session = await system.set_session()
        headers = {"Accept-Encoding": "identity", **({"Range": span} if span else {})}
        async with session.get(system.encode_url(url), headers=headers) as response:
            system._raise_not_found_for_status(response, url)
            response.raise_for_status()
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                if not take(response.status, chunk):
                    return

    import_module("fsspec.asyn").sync(system.loop, run)
