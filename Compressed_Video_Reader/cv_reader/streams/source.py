"""Opening what a stream comes from, with time limits: a file, a pipe or a URL.

Nothing is opened but what the caller names: a pipe may lead nowhere else, a play list on disk only
to files, and a URL only to the protocols of its own kind, never to a file of this machine.
"""

import os
import select
import stat
import sys
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any, Protocol, cast, runtime_checkable

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from cv_reader.errors import StreamLostError, UnsupportedVideoError
from cv_reader.media.container import (
    MAX_PARAMETER_BYTES,
    check_size,
    describe,
    open_stream,
)
from cv_reader.streams.settings import StreamSettings

_WEB = "http,https,tcp,tls,crypto"
PROTOCOLS: Mapping[str, str] = MappingProxyType(
    {
        "http": _WEB,
        "https": _WEB,
        "rtsp": "rtsp,rtp,udp,tcp",
        "rtsps": "rtsps,rtsp,rtp,srtp,udp,tcp,tls",
        "udp": "udp,rtp",
        "rtp": "rtp,udp",
        "srt": "srt",
        "tcp": "tcp",
    }
)
"""Scheme of a URL to the protocols that it may lead to."""

STDIN = "-"

_NOWHERE = "crypto"
"""A protocol that opens nothing by itself: this process reads a pipe, and a play list in it leads
nowhere."""

_PROBED_BYTES = 1 << 20
_PROBED_MICROSECONDS = 2_000_000


@runtime_checkable
class Readable(Protocol):
    """A file object that is open for reading bytes."""

    def read(self, size: int, /) -> bytes:
        """Return up to so many bytes, none at the end."""
        ...


Source = str | os.PathLike[str] | Readable


def source_name(source: Source) -> str:
    """Return what errors and records call a source; the user and password of a URL are left out."""
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        scheme, separator, rest = name.partition("://")
        if separator and "@" in rest.partition("/")[0]:
            return f"{scheme}://{rest.partition('@')[2]}"
        return "the standard input" if name == STDIN else name
    return str(getattr(source, "name", "the file object"))


def scheme_of(source: Source) -> str | None:
    """Return the scheme of a URL, lower case; None for files and pipes.

    Raises:
        UnsupportedVideoError: no such scheme may be opened.
    """
    if not isinstance(source, str) or "://" not in source:
        return None
    scheme = source.partition("://")[0].lower()
    if scheme not in PROTOCOLS:
        raise UnsupportedVideoError(
            source_name(source), f"scheme {scheme!r} is none of {', '.join(PROTOCOLS)}; use one"
        )
    return scheme


@contextmanager
def open_live(
    source: Source, settings: StreamSettings
) -> Generator[tuple[InputContainer, VideoStream]]:
    """Open a source, and find its video stream.

    Raises:
        VideoError: nothing there, no video, no decoder, or absurd dimensions.
        StreamLostError: a URL or pipe does not answer in time.
    """
    name, scheme = source_name(source), scheme_of(source)
    if scheme is None and _is_plain_file(source):
        with open_stream(os.fspath(cast("str | os.PathLike[str]", source))) as opened:
            yield opened
        return
    with ExitStack() as stack:
        target = source if scheme else _PipeReader(_pipe_file(source, stack), name, settings)
        try:
            container = stack.enter_context(_opened(target, scheme, settings))
        except FFmpegError as error:
            raise StreamLostError(
                name, f"cannot be opened ({describe(error)}); check that it is being sent"
            ) from error
        yield container, _video_stream(container, name)


def _opened(target: Any, scheme: str | None, settings: StreamSettings) -> InputContainer:
    options = {
        "protocol_whitelist": PROTOCOLS[scheme] if scheme else _NOWHERE,
        "probesize": str(_PROBED_BYTES),
        "analyzeduration": str(_PROBED_MICROSECONDS),
    }
    if scheme and scheme.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"
    limits = (settings.open_seconds, settings.read_seconds) if scheme else None
    opened = cast(Any, av.open)(
        target, format=settings.container_format, container_options=options, timeout=limits
    )
    return cast(InputContainer, opened)


def _is_plain_file(source: Source) -> bool:
    """Return whether a source is named as a file; what is missing counts, and is refused as one."""
    if not isinstance(source, (str, os.PathLike)) or os.fspath(source) == STDIN:
        return False
    return not (os.path.exists(source) and stat.S_ISFIFO(os.stat(source).st_mode))


def _pipe_file(source: Source, stack: ExitStack) -> Readable:
    if isinstance(source, (str, os.PathLike)):
        if os.fspath(source) == STDIN:
            return sys.stdin.buffer
        return stack.enter_context(open(source, "rb", buffering=0))
    return source


class _PipeReader:
    """Reads what is there, and waits no longer than the time limit for more."""

    def __init__(self, file: Readable, name: str, settings: StreamSettings) -> None:
        self._file, self._limit_seconds = file, settings.read_seconds
        self.name = name
        try:
            number = cast(Any, file).fileno()
            self._number: int | None = number if _may_block(number) else None
        except (AttributeError, OSError):
            self._number = None

    def read(self, size: int) -> bytes:
        if self._number is None:
            return self._file.read(size)
        poll = select.poll()
        poll.register(self._number, select.POLLIN)
        if not poll.poll(self._limit_seconds * 1000):
            raise StreamLostError(
                self.name,
                f"stalls: no byte came for {self._limit_seconds:g} s; check what writes to it, or "
                "raise read_seconds",
            )
        read = getattr(self._file, "read1", None)
        return read(size) if read else os.read(self._number, size)


def _may_block(number: int) -> bool:
    mode = os.fstat(number).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    stream = cast("VideoStream | None", container.streams.best("video"))
    if stream is None:
        raise UnsupportedVideoError(name, "holds no video stream; check what is sent")
    if cast(object, stream.codec_context) is None:
        raise UnsupportedVideoError(name, "no decoder for its video stream; send another codec")
    if stream.codec_context.extradata_size > MAX_PARAMETER_BYTES:
        raise UnsupportedVideoError(
            name, f"its codec's parameters exceed {MAX_PARAMETER_BYTES} bytes; re-encode it"
        )
    if stream.width:
        check_size(stream.width, stream.height, name)
    return stream
