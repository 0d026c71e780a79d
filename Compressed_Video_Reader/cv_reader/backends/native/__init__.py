"""The ``native`` backend: exact motion, residual, bits and quantiser of H.264 and HEVC.

The packets come from PyAV as for every backend, so that frame numbers agree; the pictures and their
maps come from ``cv_reader_native``, FFmpeg's decoders with a view into what they know. Nothing is
copied: arrays look at the decoder's own memory, which lives for as long as they do.

- Residual: in units of the stream's samples, so four times finer in 10-bit streams. Blocks coded as
  plain samples (PCM) have none: 0.
- Quantiser: as applied, that is with the offset of deep samples; of the block's first sample.
- Bits: of HEVC, those of a coding tree unit are spread over it by area.

Refused by name: field-coded pictures, pictures without a luma plane, and cropping that shifts the
cells against the picture.
"""

import importlib.util
from collections.abc import Generator, Mapping, Sequence
from types import MappingProxyType

from cv_reader.backends.probe import Probe
from cv_reader.media.frames import CodecFrame
from cv_reader.media.index import VideoSource

NAME = "native"

CODECS = ("h264", "hevc")

EXACTNESS: Mapping[str, str] = MappingProxyType(
    {"motion": "exact", "residual_y": "exact", "bits": "exact", "qp": "exact"}
)


def is_installed() -> bool:
    """Return whether ``install.sh`` has been run for this interpreter."""
    return importlib.util.find_spec("cv_reader_native") is not None


def describe_build() -> str:
    """Return one line for ``cv_reader doctor``; it must be installed."""
    from cv_reader_native import BUILD_ID, FFMPEG_VERSION

    return f"present: {', '.join(CODECS)} (build {BUILD_ID}, FFmpeg {FFMPEG_VERSION})"


def probe(source: VideoSource, num_threads: int) -> Probe | str:
    """Decode the first picture of a video, to see whether this backend reads it.

    Args:
        source: from ``cv_reader.media.index.scan``.
        num_threads: threads that will read the video.

    Returns:
        What ``read`` can use, or the reason why this backend cannot read the video.
    """
    if source.index.codec_name not in CODECS:
        return f"it decodes {' and '.join(CODECS)}, not {source.index.codec_name}"
    from cv_reader.backends.native import reading

    return reading.probe(source, num_threads)


def read(
    source: VideoSource, ids: Sequence[int], num_threads: int, probe: Probe | None = None
) -> Generator[CodecFrame]:
    """Decode requested frames with their maps.

    Args:
        source: from ``cv_reader.media.index.scan``.
        ids: strictly increasing frame numbers.
        num_threads: threads that decode.
        probe: what ``probe`` gave for this source, if no read has used it yet.

    Raises:
        CorruptVideoError: after the last frame, where requested ones could not be decoded.
        UnsupportedVideoError: a picture is one that ``probe`` refuses, or its size changes.
    """
    from cv_reader.backends.native import reading

    yield from reading.read(source, ids, num_threads, probe)
