"""The backends: who can read the maps of a video, and how exact each field is.

A backend is a module with ``NAME``, ``EXACTNESS``, ``refusal(source, num_threads)`` and
``read(source, ids, num_threads)``. The first in the table that does not refuse a video is chosen.
"""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from cv_reader.backends import estimated, native, pyav
from cv_reader.errors import SettingsError, UnsupportedVideoError
from cv_reader.media.frames import CodecFrame
from cv_reader.media.index import VideoSource, scan


@dataclass(frozen=True)
class Backend:
    """One way to read a video's maps.

    Attributes:
        name: as callers choose it.
        codecs: FFmpeg's names of the formats it reads, or None for all that FFmpeg decodes.
        exactness: field -> ``exact``, ``direction``, ``approximate``, ``estimated`` or ``none``.
        refusal: why it cannot read a video, or None.
        read: decodes requested frames with their maps.
    """

    name: str
    codecs: tuple[str, ...] | None
    exactness: Mapping[str, str]
    refusal: Callable[[VideoSource, int], str | None]
    read: Callable[[VideoSource, Sequence[int], int], Generator[CodecFrame]]


_NATIVE = Backend(native.NAME, native.CODECS, native.EXACTNESS, native.refusal, native.read)

BACKENDS = (
    *((_NATIVE,) if native.is_installed() else ()),
    Backend(pyav.NAME, pyav.CODECS, pyav.EXACTNESS, pyav.refusal, pyav.read),
    Backend(estimated.NAME, None, estimated.EXACTNESS, estimated.refusal, estimated.read),
)
"""Best first: the order in which ``auto`` tries them."""

BACKEND_NAMES = ("auto", native.NAME, pyav.NAME, estimated.NAME)


def open_source(
    path: str | os.PathLike[str], name: str, num_threads: int, hdr: str = "tonemap"
) -> tuple[VideoSource, Backend]:
    """Scan a file, and choose the backend that reads it; ``hdr`` as in ``open_video``.

    The native backend decodes the first picture to see whether it reads the video, and its reading
    goes on from there. So no other decoder decodes it, unless something is unusual about it.

    Raises:
        Those of ``cv_reader.media.index.scan`` and of ``choose_backend``.
    """
    is_native_asked = native.is_installed() and name in ("auto", native.NAME)
    source = scan(path, trust_header=is_native_asked, hdr=hdr)
    if source.is_first_spared:
        if _NATIVE.refusal(source, num_threads) is None:
            return source, _NATIVE
        source = scan(path, hdr=hdr)
    return source, choose_backend(source, name, num_threads)


def choose_backend(source: VideoSource, name: str, num_threads: int) -> Backend:
    """The named backend, or with ``auto`` the first that reads the video.

    Raises:
        SettingsError: no backend has that name, or it is not installed.
        UnsupportedVideoError: the named backend does not read this video.
    """
    if name == native.NAME and not native.is_installed():
        raise SettingsError(
            "backend 'native' is not installed here; use 'auto', or install it with "
            "`bash Compressed_Video_Reader/install.sh`"
        )
    if name not in BACKEND_NAMES:
        raise SettingsError(f"backend must be one of {', '.join(BACKEND_NAMES)}, got {name!r}")
    for backend in BACKENDS:
        if name in ("auto", backend.name):
            reason = backend.refusal(source, num_threads)
            if reason is None:
                return backend
            if name == backend.name:
                raise UnsupportedVideoError(
                    source.index.path, f"backend {name!r} cannot read it: {reason}; use 'auto'"
                )
    raise UnsupportedVideoError(source.index.path, "no backend reads it")
