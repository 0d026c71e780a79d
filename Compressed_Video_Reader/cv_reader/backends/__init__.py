"""The backends: who can read the maps of a video, and how exact each field is.

A backend is a module with ``NAME``, ``CODECS``, ``EXACTNESS``, ``probe(source, num_threads)`` and
``read(source, ids, num_threads, probe)``. The first in the table whose probe succeeds is chosen.
"""

import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cv_reader.backends import estimated, native, pyav
from cv_reader.backends.probe import Probe
from cv_reader.errors import SettingsError, UnsupportedVideoError
from cv_reader.media.frames import CodecFrame
from cv_reader.media.index import VideoSource, scan


class _ProbeVideo(Protocol):
    """Checks whether a backend reads a video: the function ``probe`` of its module."""

    def __call__(self, source: VideoSource, num_threads: int) -> Probe | str: ...


class _ReadVideo(Protocol):
    """Decodes requested frames with their maps: the function ``read`` of its module."""

    def __call__(
        self, source: VideoSource, ids: Sequence[int], num_threads: int, probe: Probe | None
    ) -> Generator[CodecFrame]: ...


@dataclass(frozen=True)
class Backend:
    """One way to read a video's maps.

    Attributes:
        name: name by which callers choose it.
        codecs: FFmpeg's names of the formats it reads, or None for all that FFmpeg decodes.
        exactness: field -> ``exact``, ``direction``, ``approximate``, ``estimated`` or ``none``.
        probe: returns a probe for ``read``, or the reason why it cannot read a video.
        read: decodes requested frames with their maps.
    """

    name: str
    codecs: tuple[str, ...] | None
    exactness: Mapping[str, str]
    probe: _ProbeVideo
    read: _ReadVideo


_NATIVE = Backend(native.NAME, native.CODECS, native.EXACTNESS, native.probe, native.read)

BACKENDS = (
    *((_NATIVE,) if native.is_installed() else ()),
    Backend(pyav.NAME, pyav.CODECS, pyav.EXACTNESS, pyav.probe, pyav.read),
    Backend(estimated.NAME, None, estimated.EXACTNESS, estimated.probe, estimated.read),
)
"""Best first: the order in which ``auto`` tries them."""

BACKEND_NAMES = tuple(dict.fromkeys(["auto", native.NAME, *(one.name for one in BACKENDS)]))
"""Names that callers may give; ``native`` is one also where it is not installed."""


def open_source(
    path: str | os.PathLike[str], name: str, num_threads: int, hdr: str = "tonemap"
) -> tuple[VideoSource, Backend, Probe]:
    """Scan a file, and choose the backend that reads it.

    The native backend's probe decodes the first picture, and its first read continues from there;
    so the scan need not decode it as well, unless something is unusual about it.

    Args:
        path: the file.
        name: the backend, or ``auto``.
        num_threads: threads that decode.
        hdr: see ``open_video``.

    Returns:
        The scanned file, the backend, and the backend's probe for its first read.

    Raises:
        VideoError: see ``cv_reader.media.index.scan`` and ``choose_backend``.
        SettingsError: see ``choose_backend``.
    """
    tries_native = native.is_installed() and name in ("auto", native.NAME)
    source = scan(path, trust_header=tries_native, hdr=hdr)
    if source.probe_skipped:
        probe = _NATIVE.probe(source, num_threads)
        if isinstance(probe, Probe):
            return source, _NATIVE, probe
        source = scan(path, hdr=hdr)
    return source, *choose_backend(source, name, num_threads)


def choose_backend(source: VideoSource, name: str, num_threads: int) -> tuple[Backend, Probe]:
    """Return the named backend, or with ``auto`` the first that reads the video, with its probe.

    Args:
        source: the scanned file.
        name: the backend, or ``auto``.
        num_threads: threads that decode.

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
            probe = backend.probe(source, num_threads)
            if isinstance(probe, Probe):
                return backend, probe
            if name == backend.name:
                raise UnsupportedVideoError(
                    source.index.path, f"backend {name!r} cannot read it: {probe}; use 'auto'"
                )
    raise UnsupportedVideoError(source.index.path, "no backend reads it")
