"""Build the extension against the static FFmpeg that ``build_ffmpeg.sh`` has made.

``CV_READER_FFMPEG`` names its folder; ``CV_READER_NATIVE_BUILD`` the build, as ``install.sh`` tells
one from another; ``CV_READER_NATIVE_SANITIZE`` a sanitizer that FFmpeg was built with.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
PREFIX = Path(os.environ.get("CV_READER_FFMPEG", ROOT / "build" / "ffmpeg"))
SOURCES = ("module", "decoder", "picture", "soundness", "memory")
LIBRARIES = [PREFIX / "lib" / name for name in ("libavcodec.a", "libavutil.a")]

SANITIZER = os.environ.get("CV_READER_NATIVE_SANITIZE")
SANITIZE = [f"-fsanitize={SANITIZER}", "-g"] if SANITIZER else []
FLAGS = ["-fvisibility=hidden", "-Wall", "-Wno-unused-parameter", *SANITIZE]

missing = [str(path) for path in LIBRARIES if not path.is_file()]
if missing:
    sys.exit(
        f"cannot build cv_reader_native: {', '.join(missing)} is missing; "
        "run Compressed_Video_Reader/install.sh, which builds it and sets CV_READER_FFMPEG"
    )

setup(
    ext_modules=[
        Extension(
            "cv_reader_native._decoder",
            sources=[f"src/{name}.c" for name in SOURCES],
            depends=["src/decoder.h"],
            include_dirs=[str(PREFIX / "include")],
            define_macros=[
                ("BUILD_ID", f'"{os.environ.get("CV_READER_NATIVE_BUILD", "unnamed")}"')
            ],
            extra_compile_args=["-O2", *FLAGS],
            extra_objects=[str(path) for path in LIBRARIES],
            # FFmpeg's assembly refers to its own symbols directly, and PyAV brings an FFmpeg too.
            extra_link_args=["-Wl,-Bsymbolic", "-Wl,--exclude-libs,ALL", *SANITIZE],
            libraries=["m", "pthread"],
        ),
        Extension(
            "cv_reader_native.distances",
            sources=["src/distances.c"],
            extra_compile_args=["-O3", *FLAGS],
            extra_link_args=SANITIZE,
        ),
    ]
)
