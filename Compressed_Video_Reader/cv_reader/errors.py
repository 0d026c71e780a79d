"""The errors that this package raises on purpose.

Every message says what is wrong, where (file, line or sample), the rule, the value and the remedy.
All are ``ValueError`` as well, so that callers who know nothing of this package can catch them.
Exit codes of commands follow from them: 2 for ``SettingsError``, 1 where samples failed.
"""

import errno
import os

CONTROL_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
"""Table for ``str.translate``: control characters, but for tab and line feed, as visible escapes.

A path may hold them; printed as they are, they would change colours or overwrite lines."""


class CvReaderError(ValueError):
    """Base class of every error of this package."""


class VideoError(CvReaderError):
    """A video cannot be read.

    Attributes:
        path: the file as the caller wrote it.
        reason: one sentence, without the path.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        shown = self.path.translate(CONTROL_ESCAPES).replace("\n", "\\n")
        super().__init__(f"{shown}: {reason}")

    def __reduce__(self) -> tuple[type["VideoError"], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class VideoNotFoundError(VideoError):
    """The path is missing, unreadable or not a file."""


class UnsupportedVideoError(VideoError):
    """The file is sound, but holds nothing that the chosen backend can give."""


class CorruptVideoError(VideoError):
    """The file is empty, truncated or damaged, so that the requested frames cannot be decoded.

    Attributes:
        lost: numbers of the frames that cannot be decoded, where all others have been; a copy that
            another process gets does not hold them.
    """

    lost: tuple[int, ...] = ()


class StreamLostError(VideoError):
    """A live stream or pipe does not answer, stalls, or breaks and cannot be opened again."""


class RemoteError(VideoError):
    """A video of an object store or a server cannot be fetched, though it was tried again."""


class AssetError(CvReaderError):
    """An asset (positions, mosaics, metadata) breaks the on-disk contract."""


class StaleAssetError(AssetError):
    """An asset is sound but was made with other settings or from another source file."""


class SampleError(CvReaderError):
    """A line of a data set does not describe a usable sample."""


class SettingsError(CvReaderError):
    """A command was given settings that cannot work; nothing was started."""


class OutputError(CvReaderError):
    """The output cannot be written for a reason that every other sample would meet too."""

    @classmethod
    def from_system(cls, path: object, error: OSError) -> "OutputError | None":
        """Return the error for a failed write; None where the reason concerns this path alone."""
        remedy = _OUTPUT_REMEDIES.get(error.errno or 0)
        if remedy is None:
            return None
        return cls(f"{path}: cannot be written: {os.strerror(error.errno or 0)}; {remedy}")


_CHECK_DISK = "check the disk or the network file system"
_OUTPUT_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room in the quota",
    errno.EROFS: "make the file system writable",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EIO: _CHECK_DISK,
    errno.ESTALE: _CHECK_DISK,
    errno.ENXIO: _CHECK_DISK,
    errno.ENODEV: _CHECK_DISK,
    errno.ENOTCONN: _CHECK_DISK,
}
"""System errors of the output as a whole, with what a user can do."""
