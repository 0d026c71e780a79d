"""``cv_reader doctor``: what this installation can read, and how exactly."""

import platform
import sys
from typing import Literal

import av
import numpy as np
import PIL
from av.codec.codec import Codec, UnknownCodecError

from cv_reader.backends import BACKENDS, native
from cv_reader.commands.arguments.parser import new_parser
from cv_reader.exits import OK, USAGE
from cv_reader.media.frames import MAP_FIELDS
from cv_reader.select.config import ALGORITHM_VERSION

DECODERS = {
    "h264": "h264",
    "hevc": "hevc",
    "vp9": "vp9",
    "av1": "libdav1d",
    "mpeg4": "mpeg4",
    "mpeg2video": "mpeg2video",
}
"""Formats that the table lists, and FFmpeg's decoder; ``estimated`` reads others too."""

TEST_ENCODERS = ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "mpeg4", "mpeg2video")
"""Encoders that the tests and the examples make their clips with."""


def main(argv: list[str] | None = None) -> int:
    """Print the report; returns 0, or 2 where a decoder is missing."""
    new_parser("cv_reader doctor", __doc__).parse_args(argv)
    without_decoder = [codec for codec, name in DECODERS.items() if not _has(name, "r")]
    without_encoder = [name for name in TEST_ENCODERS if not _has(name, "w")]
    print("\n".join([*_versions(), "", *_backends(), "", *_table(without_decoder)]))
    print(f"\nencoders for tests: {_presence(TEST_ENCODERS, without_encoder)}")
    if without_decoder or without_encoder:
        print("to get what is missing: pip install --only-binary av --force-reinstall av")
    return USAGE if without_decoder else OK


def versions() -> dict[str, str]:
    """Return the versions of what decides over the bytes of the output; nodes must agree."""
    libraries = ("libavcodec", "libavformat", "libswscale")
    found = {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "cv_reader's algorithm_version": str(ALGORITHM_VERSION),
        "the native backend": native.describe_build() if native.is_installed() else "missing",
        "numpy": np.__version__,
        "Pillow": PIL.__version__,
        "PyAV": av.__version__,
    }
    return found | {name: ".".join(map(str, av.library_versions[name])) for name in libraries}


def _versions() -> list[str]:
    libraries = (
        f"{name} {'.'.join(map(str, av.library_versions[name]))}"
        for name in ("libavcodec", "libavformat", "libswscale")
    )
    return [
        f"python {platform.python_version()}, numpy {np.__version__}, Pillow {PIL.__version__}",
        f"PyAV {av.__version__} with {', '.join(libraries)}",
    ]


def _backends() -> list[str]:
    lines = ["backends, in the order in which `auto` tries them:"]
    if native.is_installed():
        lines.append(f"  {native.NAME:<11}{native.describe_build()}")
    else:
        lines.append(
            f"  {native.NAME:<11}not installed; bash Compressed_Video_Reader/install.sh builds it"
        )
    for backend in (backend for backend in BACKENDS if backend.name != native.NAME):
        reads = ", ".join(backend.codecs) if backend.codecs else "all that FFmpeg decodes"
        lines.append(f"  {backend.name:<11}present: {reads}")
    return lines


def _table(without_decoder: list[str]) -> list[str]:
    fields = [*MAP_FIELDS, "pixels", "packet_bytes", "pts"]
    lines = ["what `auto` gives:"]
    lines.append("  " + "".join(f"{title:<13}" for title in ("codec", "backend", *fields)).rstrip())
    for codec in DECODERS:
        backend = next(b for b in BACKENDS if b.codecs is None or codec in b.codecs)
        values = [*(backend.exactness[field] for field in MAP_FIELDS), "exact", "exact", "exact"]
        row = [codec, backend.name, *values]
        if codec in without_decoder:
            row = [codec, "no decoder in this build of FFmpeg"]
        lines.append("  " + "".join(f"{value:<13}" for value in row).rstrip())
    return lines


def _presence(names: tuple[str, ...], missing: list[str]) -> str:
    return ", ".join(f"{name} MISSING" if name in missing else name for name in names)


def _has(name: str, mode: Literal["r", "w"]) -> bool:
    try:
        Codec(name, mode)
    except UnknownCodecError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
