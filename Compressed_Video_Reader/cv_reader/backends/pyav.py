"""The ``pyav`` backend: FFmpeg's stock decoders, motion from their exported vectors.

- Motion: the codec's own vectors, drawn onto cells. References are known by direction only.
- Residual: decoded luma minus a motion-compensated prediction. The references are taken to be the
  nearest pictures before and after that may be referred to and precede the picture in the file; key
  frames are taken to have none. It so holds interpolation and in-loop filter differences too, and
  is large where an encoder refers to a picture further away.
- Bits and quantiser: not available.
"""

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.backends.pixels import assemble, coded_luma
from cv_reader.backends.prediction import residual
from cv_reader.backends.probe import Probe
from cv_reader.backends.vectors import VECTOR_PX, draw_vectors, read_vectors
from cv_reader.errors import VideoError
from cv_reader.media.decoding import Decoded, DecodeOptions, decode
from cv_reader.media.frames import CodecFrame
from cv_reader.media.index import VideoSource

NAME = "pyav"

CODECS = ("h264", "mpeg2video", "mpeg4")
"""Formats for which FFmpeg exports vectors."""

EXACTNESS: Mapping[str, str] = MappingProxyType(
    {"motion": "direction", "residual_y": "approximate", "bits": "none", "qp": "none"}
)

_MAX_CROPPED_PX = 16
"""Up to a macroblock is cut off to reach the picture's size, always at the right and bottom."""

_MAX_AHEAD_FRAMES = 16
"""How far after a picture its later reference may be shown; codecs keep no more pictures."""

_KEPT_ANCHORS = 4
_B_PICTURE = 3


class _Anchor:
    """A picture that others may refer to; its luma is fetched when first needed."""

    def __init__(self, decoded: Decoded) -> None:
        self.packet = decoded.packet
        self.number = decoded.number
        self._frame = decoded.frame
        self._luma: NDArray[np.uint8] | None = None

    @property
    def luma(self) -> NDArray[np.uint8]:
        """uint8 (H, W), before rotation."""
        if self._luma is None:
            self._luma = coded_luma(self._frame)
        return self._luma


@dataclass(eq=False)
class _Pending:
    """A requested picture on its way out; some wait for a reference that is shown later."""

    decoded: Decoded
    vectors: NDArray[Any]
    past: _Anchor | None
    future: _Anchor | None = None
    is_waiting: bool = False

    def offer(self, anchor: _Anchor) -> None:
        """Take the next picture that may be the later reference, if it can be."""
        if not self.is_waiting:
            return
        if anchor.packet < self.decoded.packet:
            self.future = anchor
            self.is_waiting = False
        elif anchor.number > self.decoded.number + _MAX_AHEAD_FRAMES:
            self.is_waiting = False


def probe(source: VideoSource, num_threads: int) -> Probe | str:
    """Return an empty probe, or the reason why this backend cannot read a video.

    Args:
        source: from ``cv_reader.media.index.scan``.
        num_threads: not used.
    """
    del num_threads
    if source.index.codec_name not in CODECS:
        return f"FFmpeg exports no motion vectors for {source.index.codec_name}"
    first = source.first
    cropped = max(first.stored_width_px - first.width_px, first.stored_height_px - first.height_px)
    if cropped >= _MAX_CROPPED_PX:
        return (
            f"its pictures are cropped by {cropped} pixels, and FFmpeg does not tell on which "
            "side, so that its vectors cannot be placed"
        )
    return Probe()


def read(
    source: VideoSource, ids: Sequence[int], num_threads: int, probe: Probe | None = None
) -> Generator[CodecFrame]:
    """Decode requested frames with their motion and residual.

    Args:
        source: from ``cv_reader.media.index.scan``.
        ids: strictly increasing frame numbers.
        num_threads: threads that decode.
        probe: not used.

    Raises:
        CorruptVideoError: after the last frame, where requested ones could not be decoded.
        UnsupportedVideoError: a picture changes its size or rotation.
    """
    del probe
    anchors: deque[_Anchor] = deque(maxlen=_KEPT_ANCHORS)
    queue: deque[_Pending] = deque()
    try:
        for decoded in decode(source, ids, DecodeOptions(num_threads, export_vectors=True)):
            if decoded.starts_run:
                yield from _drain(source, queue)
                anchors.clear()
            anchor = _Anchor(decoded) if _is_reference(source, decoded) else None
            if anchor is not None:
                for pending in queue:
                    pending.offer(anchor)
            while queue and not queue[0].is_waiting:
                yield _finish(source, queue.popleft())
            if decoded.is_wanted:
                queue.append(_pending(source, decoded, anchors))
            if anchor is not None:
                _keep(anchors, anchor)
    except VideoError:
        # What was decoded before the damage is given all the same.
        yield from _drain(source, queue)
        raise
    yield from _drain(source, queue)


def _is_reference(source: VideoSource, decoded: Decoded) -> bool:
    """Return whether others refer to this picture. Only H.264 packets say so; else B is none."""
    if source.index.codec_name == "h264":
        return bool(source.packets.is_reference[decoded.packet])
    return int(decoded.frame.pict_type) != _B_PICTURE


def _keep(anchors: deque[_Anchor], anchor: _Anchor) -> None:
    """Add an anchor and drop those that no later picture can prefer to it."""
    while anchors and anchors[-1].packet > anchor.packet:
        anchors.pop()
    anchors.append(anchor)


def _pending(source: VideoSource, decoded: Decoded, anchors: deque[_Anchor]) -> _Pending:
    vectors = read_vectors(decoded.frame, source.index.path)
    earlier = [anchor for anchor in anchors if anchor.packet < decoded.packet]
    is_key = bool(source.index.is_key[decoded.number])
    looks_ahead = bool((vectors["source"] > 0).any())
    return _Pending(
        decoded,
        vectors,
        # Decoding may start at a key frame, so that nothing before it may ever be used.
        past=earlier[-1] if earlier and not is_key else None,
        is_waiting=looks_ahead and not is_key,
    )


def _drain(source: VideoSource, queue: deque[_Pending]) -> Iterator[CodecFrame]:
    while queue:
        yield _finish(source, queue.popleft())


def _finish(source: VideoSource, pending: _Pending) -> CodecFrame:
    luma = coded_luma(pending.decoded.frame)
    motion, direction = draw_vectors(pending.vectors, *luma.shape)
    past, future = pending.past, pending.future
    references = (past.luma if past else None, future.luma if future else None)
    return assemble(
        source,
        pending.decoded,
        motion=motion,
        motion_ref=direction,
        residual_y=residual(luma, references, motion, direction != 0, VECTOR_PX),
        block_px=VECTOR_PX,
    )
