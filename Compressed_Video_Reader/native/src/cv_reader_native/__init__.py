"""FFmpeg's decoders with a view into what they know about each picture.

This package only decodes packets; ``cv_reader`` reads files with it (backend ``native``).
"""

from cv_reader_native._decoder import (
    BUILD_ID,
    DAMAGED,
    FAR_REF,
    FFMPEG_VERSION,
    INTERLACED,
    MISSING_REF,
    Decoder,
    Memory,
    Picture,
    list_codecs,
)

__all__ = [
    "BUILD_ID",
    "DAMAGED",
    "FAR_REF",
    "FFMPEG_VERSION",
    "INTERLACED",
    "MISSING_REF",
    "Decoder",
    "Memory",
    "Picture",
    "list_codecs",
]
