"""The ``estimated`` backend: motion and residual from a deterministic analysis of decoded luma.

For any format that FFmpeg decodes. Each 16 x 16 block of a frame is looked for in the frame before
(presentation order), coarse to fine: on pictures reduced 8 times within +-32 pixels, then refined
at 4, at 2 and at full size, to whole pixels. The measure is the mean absolute difference.

- A block that hardly differs from its own place in the frame before is left there, and a vector
  must beat staying by a clear margin: still areas get zero vectors even in noise.
- A block that even its best vector explains worse than its own mean does counts as intra.
- Key frames and the first frame are intra: nothing before them is used, so that a read may start
  at any key frame.
- Residual: luma minus that prediction; intra cells minus the mean of their neighbours.
"""

from collections.abc import Generator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cv_reader.backends.pixels import assemble, coded_luma
from cv_reader.backends.prediction import residual
from cv_reader.backends.probe import Probe
from cv_reader.backends.vectors import QPEL
from cv_reader.media.decoding import Decoded, DecodeOptions, decode
from cv_reader.media.frames import BLOCK_PX, CodecFrame, map_shape
from cv_reader.media.index import VideoSource

if TYPE_CHECKING:
    from cv_reader.backends.blockmotion import Pyramid

NAME = "estimated"

EXACTNESS: Mapping[str, str] = MappingProxyType(
    {"motion": "estimated", "residual_y": "estimated", "bits": "none", "qp": "none"}
)


class _Analysed:
    """A decoded frame whose luma and reductions are made when first needed."""

    def __init__(self, decoded: Decoded) -> None:
        self.decoded = decoded
        self._luma: NDArray[np.uint8] | None = None
        self._pyramid: Pyramid | None = None

    @property
    def luma(self) -> NDArray[np.uint8]:
        """uint8 (H, W), before rotation."""
        if self._luma is None:
            self._luma = coded_luma(self.decoded.frame)
        return self._luma

    @property
    def pyramid(self) -> "Pyramid":
        """Reductions of the luma."""
        if self._pyramid is None:
            # Imported here: most videos are read by other backends.
            from cv_reader.backends.blockmotion import Pyramid

            self._pyramid = Pyramid.of(self.luma)
        return self._pyramid


def probe(source: VideoSource, num_threads: int) -> Probe | str:
    """Return an empty probe: this backend reads all that FFmpeg decodes.

    Args:
        source: not used.
        num_threads: not used.
    """
    del source, num_threads
    return Probe()


def read(
    source: VideoSource, ids: Sequence[int], num_threads: int, probe: Probe | None = None
) -> Generator[CodecFrame]:
    """Decode requested frames, and analyse each against the frame before.

    Args:
        source: from ``cv_reader.media.index.scan``.
        ids: strictly increasing frame numbers.
        num_threads: threads that decode.
        probe: not used.

    Raises:
        CorruptVideoError: after the last frame, where requested ones could not be decoded.
        UnsupportedVideoError: the picture changes its size or rotation.
    """
    del probe
    previous: _Analysed | None = None
    for decoded in decode(source, ids, DecodeOptions(num_threads, predecessors=True)):
        current = _Analysed(decoded)
        if decoded.is_wanted:
            yield _finish(source, current, _usable(source, current, previous))
        previous = current


def _usable(
    source: VideoSource, current: _Analysed, previous: _Analysed | None
) -> _Analysed | None:
    """Return the frame before, if a read that starts at any key frame would have it too."""
    number = current.decoded.number
    if previous is None or current.decoded.starts_run or source.index.is_key[number]:
        return None
    return previous if previous.decoded.number == number - 1 else None


def _finish(source: VideoSource, current: _Analysed, previous: _Analysed | None) -> CodecFrame:
    height, width = current.luma.shape
    blocks = map_shape(height, width, BLOCK_PX)
    motion = np.zeros((2, *blocks, 2), np.int16)
    used = np.zeros((2, *blocks), np.bool_)
    if previous is not None:
        from cv_reader.backends.blockmotion import block_motion

        vectors, used[0] = block_motion(current.pyramid, previous.pyramid)
        motion[0] = vectors * used[0, :, :, None] * QPEL
    references = (previous.luma if previous else None, None)
    return assemble(
        source,
        current.decoded,
        motion=motion,
        motion_ref=-used.astype(np.int16),
        residual_y=residual(current.luma, references, motion, used, BLOCK_PX),
        block_px=BLOCK_PX,
    )
