"""The errors that this package raises on purpose.

Every message says what is wrong, where (file, line or sample), the rule, the value and the remedy.
All are ``ValueError`` as well, so that callers who know nothing of this package can catch them.
Exit codes of commands follow from them: 2 for ``SettingsError``, 1 where samples failed.
"""


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
        super().__init__(f"{self.path}: {reason}")

    def __reduce__(self) -> tuple[type["VideoError"], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class VideoNotFoundError(VideoError):
    """The path is missing, unreadable or not a file."""


class UnsupportedVideoError(VideoError):
    """The file is sound, but holds nothing that the chosen backend can give."""


class CorruptVideoError(VideoError):
    """The file is empty, truncated or damaged, so that the requested frames cannot be decoded."""


class AssetError(CvReaderError):
    """An asset (positions, mosaics, metadata) breaks the on-disk contract."""


class StaleAssetError(AssetError):
    """An asset is sound but was made with other settings or from another source file."""


class SampleError(CvReaderError):
    """A line of a data set does not describe a usable sample."""


class SettingsError(CvReaderError):
    """A command was given settings that cannot work; nothing was started."""
