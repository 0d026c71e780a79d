"""Names of assets on disk: no string of a data set becomes a path unchecked.

Hashes are taken on strings as written in the data set, never on resolved paths, so that they do not
depend on the folder of the data. Existing data sets were split and named by the same rule: the
first 8 hexadecimal digits of SHA-1.
"""

import hashlib
import re
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from cv_reader.errors import AssetError
from cv_reader.remote.addresses import is_address
from cv_reader.select.config import AssetConfig

FRAME_IDS_SUFFIX = ".frame_ids.npy"
META_SUFFIX = ".meta.json"
ROWS_SUFFIX = ".visidx_thw.npy"
"""What the three files of stage 1 end in."""

MAX_NAME_BYTES = 200
_MAX_PART_BYTES = 80  # id and stem share one file name with hashes and settings: 255 bytes at most
_DIGEST_CHARS = 16
_MAX_RECORDED_CHARS = 10_000  # metadata may have 4 MiB, and names a sample three times
_SAFE_NAME = re.compile(r"[A-Za-z0-9_%-][A-Za-z0-9._%-]*")


def safe_name(text: str, max_bytes: int = MAX_NAME_BYTES) -> str:
    """Turn any string into one path component; strings of [A-Za-z0-9._-] come back unchanged.

    Other bytes (of UTF-8) and a leading dot are percent-encoded, so different strings give
    different names. Names over ``max_bytes`` are cut and end in a hash of the whole.

    Raises:
        AssetError: if ``text`` is empty.
    """
    if not text:
        raise AssetError("a key or id must not be empty; give one in the data set")
    return _finish(_quote(text), max_bytes)


def asset_key(key: str) -> str:
    """Return the folder name of a key as a data set writes it; only unsafe names are changed.

    So keys that ``evaluation_key`` gave can be listed in a file, and are not encoded twice.

    Raises:
        AssetError: if ``key`` is empty.
    """
    return key if is_safe_name(key) else safe_name(key)


def is_safe_name(name: str) -> bool:
    """Return whether ``safe_name`` or ``evaluation_key`` could have made this name."""
    return len(name) <= MAX_NAME_BYTES and _SAFE_NAME.fullmatch(name) is not None


def _quote(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="").replace("~", "%7E")


def _finish(name: str, max_bytes: int) -> str:
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > max_bytes:
        digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_CHARS]
        name = f"{name[: max_bytes - _DIGEST_CHARS - 1]}-{digest}"
    return name


def recorded_name(text: str) -> str:
    """Return what metadata records of an id or a key: absurdly long ones are cut and hashed."""
    if len(text) <= _MAX_RECORDED_CHARS:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[:_MAX_PART_BYTES]}... ({len(text)} characters, SHA-256 {digest})"


def evaluation_key(video_path: str | Path, video_root: str | Path | None = None) -> str:
    """Return the folder name of a video's evaluation asset: its path below the root, no suffix.

    ``/`` becomes ``__``; the rest follows ``safe_name``. Without a root it is the file's stem, so
    equal stems in two folders need a root to differ. A relative path counts as below the root, and
    an address that is not below it counts as a whole.

    Raises:
        AssetError: if an absolute path is not below ``video_root``.
    """
    path = PurePosixPath(video_path)
    if video_root is None:
        return safe_name(path.stem)
    if is_address(path):
        if path.is_relative_to(video_root):
            path = path.relative_to(video_root)
    elif path.is_absolute():
        root = PurePosixPath(video_root)
        if not root.is_absolute():
            root = PurePosixPath(Path(root).absolute())
        if not path.is_relative_to(root):
            raise AssetError(
                f"{path}: must be below the video root {root}; "
                "pass the right --video_root or give the line a key"
            )
        path = path.relative_to(root)
    joined = "__".join(_quote(part) for part in path.with_suffix("").parts)
    if not joined:
        raise AssetError(f"{video_path}: names no video below the video root")
    return _finish(joined, MAX_NAME_BYTES)


def hash8(text: str) -> str:
    """Return the first 8 hexadecimal digits of a text's SHA-1."""
    digest = hashlib.sha1(text.encode("utf-8", "surrogatepass"), usedforsecurity=False)
    return digest.hexdigest()[:8]


def image_stem(video: str) -> str:
    """Return the stem of a training sample's mosaics, as ``mosaic_name`` takes it."""
    return safe_name(PurePosixPath(video).stem, _MAX_PART_BYTES)


def sample_folder_name(sample_id: str, video: str) -> str:
    """Return stage 2's folder name: ``sample_{id}__{stem}__{hash of the path as written}``."""
    part = safe_name(sample_id, _MAX_PART_BYTES)
    return f"sample_{part}__{image_stem(video)}__{hash8(str(PurePosixPath(video)))}"


def stage1_prefix(sample_id: str, video: str, sample_key: str, config: AssetConfig) -> str:
    """Return stage 1's file name of a sample, without the suffix of each of the three files."""
    settings = (
        f"T{config.sequence_length}_square{config.square_size}"
        f"_p{config.patch_size}_K{config.num_rows}"
    )
    return f"{sample_folder_name(sample_id, video)}__{hash8(sample_key)}_{settings}"
