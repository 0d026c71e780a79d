"""Open a video and read its frames: where callers begin."""

import operator
import os
import warnings
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import overload

from cv_reader.backends import open_source
from cv_reader.backends.groups import plan_lanes, read_lanes
from cv_reader.backends.pixels import read_pixels
from cv_reader.backends.probe import Probe
from cv_reader.errors import SettingsError, UnsupportedVideoError, VideoError
from cv_reader.media.display import HDR_MODES
from cv_reader.media.frames import CodecFrame, VideoIndex

_TONE_MAPPED = (
    "HDR video (PQ or HLG) is read as SDR by tone mapping; hdr='raw' reads its samples as coded, "
    "and hdr='refuse' refuses it"
)


class Video:
    """An open video; use it as a context manager.

    Attributes:
        index: all frames in presentation order.
        backend: name of the backend that reads the maps.
        exactness: field -> ``exact``, ``direction``, ``approximate``, ``estimated`` or ``none``.
    """

    def __init__(
        self, path: str | os.PathLike[str], backend: str, num_threads: int, hdr: str = "tonemap"
    ) -> None:
        if num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {num_threads}")
        if hdr not in HDR_MODES:
            raise SettingsError(f"hdr must be one of {', '.join(HDR_MODES)}, got {hdr!r}")
        self._source, self._backend, probe = open_source(path, backend, num_threads, hdr)
        self._probe: Probe | None = probe
        if self._source.index.display.tone_maps:
            warnings.warn(_TONE_MAPPED, stacklevel=3)
        self._num_threads = num_threads
        self._readers: weakref.WeakSet[Generator[CodecFrame]] = weakref.WeakSet()
        self._is_closed = False
        self.index: VideoIndex = self._source.index
        self.backend: str = self._backend.name
        self.exactness: dict[str, str] = {
            **self._backend.exactness,
            "pts": self.index.pts_exactness,
            "packet_bytes": "exact",
        }

    def frames(
        self, ids: Iterable[int] | None = None, *, signals: bool = True
    ) -> Iterator[CodecFrame]:
        """Decode frames in presentation order; only the groups that hold them are decoded.

        Frames are given one by one, and stay valid after the next one, and after ``close``.

        Args:
            ids: strictly increasing frame numbers in [0, N), or None for all.
            signals: also read motion and residual; without them decoding is cheapest.

        Raises:
            ValueError: at once, where ``ids`` break the rule or the video is closed.
            CorruptVideoError: after the last frame that can be decoded, naming how many of the
                requested ones cannot.
            UnsupportedVideoError: on the way, where the picture changes its size or rotation.
        """
        if self._is_closed:
            raise ValueError(f"{self.index.path}: the video is closed; open it again")
        reader = self._reader(self._checked(ids), signals=signals)
        self._readers.add(reader)
        return reader

    def _reader(self, ids: Sequence[int], *, signals: bool) -> Generator[CodecFrame]:
        """Read frames: groups of pictures in parallel where that pays, else one after the other."""
        lanes = plan_lanes(self._source, ids, self._num_threads, signals=signals)
        if lanes is None:
            return self._read(ids, self._num_threads, signals=signals)
        self._probe = None
        return read_lanes(
            self._source, ids, lanes, partial(self._read, num_threads=1, signals=signals)
        )

    def _read(
        self, ids: Sequence[int], num_threads: int, *, signals: bool
    ) -> Generator[CodecFrame]:
        if not signals:
            return read_pixels(self._source, ids, num_threads)
        probe, self._probe = self._probe, None
        return self._backend.read(self._source, ids, num_threads, probe)

    def at(self, ids: Iterable[int], *, signals: bool = True) -> Iterator[CodecFrame]:
        """Decode frames in the order asked for, however often; each is decoded once.

        A frame that is asked for again later stays in memory until then: with ids that never
        decrease that is one frame.

        Args:
            ids: frame numbers in [0, N), in any order, repeated or not.
            signals: see ``frames``.

        Yields:
            One frame per id; the same object where an id is repeated. Frames that cannot be decoded
            are left out.

        Raises:
            ValueError: at once, where an id is out of range or the video is closed.
            VideoError: as ``frames``.
        """
        wanted = [operator.index(number) for number in ids]
        return self._in_order(wanted, self.frames(sorted(set(wanted)), signals=signals))

    @staticmethod
    def _in_order(wanted: list[int], frames: Iterator[CodecFrame]) -> Iterator[CodecFrame]:
        """Yield frames that come in presentation order in the order wanted."""
        last_use = {number: place for place, number in enumerate(wanted)}
        held: dict[int, CodecFrame] = {}
        place, error = 0, None
        try:
            for frame in frames:
                held[frame.index] = frame
                # A number below this frame's that is not held could not be decoded.
                while place < len(wanted) and wanted[place] <= frame.index:
                    number = wanted[place]
                    if number in held:
                        yield held.pop(number) if last_use[number] == place else held[number]
                    place += 1
        except VideoError as caught:
            error = caught
        yield from (held[number] for number in wanted[place:] if number in held)
        if error is not None:
            raise error

    def check_exact(self, field: str, needed_by: str) -> None:
        """Raise unless a field is exact.

        Args:
            field: a key of ``exactness``.
            needed_by: what needs it, for the message.

        Raises:
            UnsupportedVideoError: naming the backend and what it gives.
        """
        found = self.exactness[field]
        if found != "exact":
            raise UnsupportedVideoError(
                self.index.path,
                f"{needed_by} needs exact {field}; what backend {self.backend!r} reads of it from "
                f"{self.index.codec_name} is {found!r}; leave that out, or use a video in H.264 or "
                "HEVC and the native backend (`cv_reader doctor` says whether it is installed)",
            )

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.index.num_frames

    def __iter__(self) -> Iterator[CodecFrame]:
        """Decode all frames; see ``frames``."""
        return self.frames()

    @overload
    def __getitem__(self, key: int) -> CodecFrame: ...

    @overload
    def __getitem__(self, key: slice) -> list[CodecFrame]: ...

    def __getitem__(self, key: int | slice) -> CodecFrame | list[CodecFrame]:
        """Decode one frame, or those of a slice, with motion and residual.

        Negative numbers count from the end. For many frames use ``frames`` or ``at``: each call
        decodes from a key frame on.

        Raises:
            IndexError: the video has no such frame.
            CorruptVideoError: the frame cannot be decoded.
        """
        if isinstance(key, slice):
            return list(self.at(range(*key.indices(len(self)))))
        number = operator.index(key)
        if not -len(self) <= number < len(self):
            raise IndexError(
                f"{self.index.path} has frames 0 to {len(self) - 1}, but {number} was asked for"
            )
        (frame,) = self.frames([number % len(self)])
        return frame

    def close(self) -> None:
        """End every iteration that is under way, and close its file."""
        self._is_closed = True
        for reader in self._readers:
            reader.close()
        self._readers.clear()

    def __enter__(self) -> "Video":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Video({self.index!r}, backend {self.backend})"

    def _checked(self, ids: Iterable[int] | None) -> Sequence[int]:
        count = self.index.num_frames
        if ids is None:
            return range(count)
        wanted = [operator.index(number) for number in ids]
        for place, number in enumerate(wanted):
            if not 0 <= number < count or (place and number <= wanted[place - 1]):
                raise ValueError(
                    f"frame ids must be strictly increasing in [0, {count}), got {number} at "
                    f"place {place} for {self.index.path}; repeat frames after reading"
                )
        return wanted


def open_video(
    path: str | os.PathLike[str],
    backend: str = "auto",
    *,
    require_exact: bool = False,
    num_threads: int = 1,
    hdr: str = "tonemap",
) -> Video:
    """Open a video: read its index, and choose who reads its motion and residual.

    Args:
        path: a local file of any container and codec that FFmpeg reads.
        backend: ``auto`` (the most exact that reads this video), ``native``, ``pyav`` or
            ``estimated``.
        require_exact: refuse a video whose motion and residual would not be exact.
        num_threads: threads that decode, at least 1: groups of pictures in parallel where few
            frames of each are asked for, else each of them with all threads. The frames are the
            same.
        hdr: what pixels of HDR video (PQ or HLG) are: ``tonemap`` shows them as SDR by the rule of
            ``cv_reader.media.tone``, ``refuse`` refuses the video, ``raw`` reads the samples as
            if they were SDR. Maps and ``luma()`` are of the samples as coded in any case.

    Raises:
        VideoNotFoundError: nothing to open at the path.
        CorruptVideoError: empty, truncated, or without a frame.
        UnsupportedVideoError: no video, or none that the backend reads, or not exactly, or HDR
            that is to be refused.
        SettingsError: no such backend, or it is not installed; no such ``hdr``.
    """
    video = Video(path, backend, num_threads, hdr)
    inexact = {
        field: video.exactness[field]
        for field in ("motion", "residual_y")
        if video.exactness[field] != "exact"
    }
    if require_exact and inexact:
        raise UnsupportedVideoError(
            video.index.path,
            f"backend {video.backend!r} gives {video.index.codec_name} with {inexact}, but exact "
            "values are required; `cv_reader doctor` tells which backends give them",
        )
    return video


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How videos are opened; see ``open_video``.

    Attributes:
        allowed_codecs: names of codecs; other videos are refused where any are named.
        progress: called with (frames read, frames wanted) after each frame of the pass that
            selects; None = not at all.
    """

    backend: str = "auto"
    require_exact: bool = False
    num_threads: int = 1
    allowed_codecs: tuple[str, ...] = ()
    hdr: str = "tonemap"
    progress: Callable[[int, int], None] | None = None

    def watched(self, frames: Iterable[CodecFrame], wanted_frames: int) -> Iterator[CodecFrame]:
        """Yield frames, and tell ``progress`` how many were read."""
        for number, frame in enumerate(frames, 1):
            yield frame
            if self.progress is not None:
                self.progress(number, wanted_frames)

    def open(self, path: str | os.PathLike[str]) -> Video:
        """Open a video, refusing codecs that are not allowed (where any are named)."""
        video = open_video(
            path,
            self.backend,
            require_exact=self.require_exact,
            num_threads=self.num_threads,
            hdr=self.hdr,
        )
        codec = video.index.codec_name
        if self.allowed_codecs and codec not in self.allowed_codecs:
            video.close()
            raise UnsupportedVideoError(
                path, f"its codec {codec} is not among the allowed {', '.join(self.allowed_codecs)}"
            )
        return video
