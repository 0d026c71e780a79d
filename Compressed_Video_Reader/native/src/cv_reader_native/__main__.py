"""The check that ``install.sh`` ends with: ``python -m cv_reader_native``."""

import sys

from cv_reader_native import BUILD_ID, FFMPEG_VERSION, list_codecs
from cv_reader_native.selfcheck import failure


def main() -> int:
    """Decode a built-in clip; exit code 0 if every map of it is as it should be."""
    reason = failure()
    if reason is not None:
        print(f"cv_reader_native does not work: {reason}", file=sys.stderr)
        return 2
    print(
        f"cv_reader_native works (build {BUILD_ID}, FFmpeg {FFMPEG_VERSION}, "
        f"decoders: {', '.join(list_codecs())})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
