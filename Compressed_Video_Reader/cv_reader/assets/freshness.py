"""Whether what stands on disk is what would be made again: settings, backend and source file."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.assets.contract import check_settings, read_meta
from cv_reader.errors import AssetError, StaleAssetError
from cv_reader.reader import Video
from cv_reader.select.config import AssetConfig

_HASH_CHUNK_BYTES = 1 << 20


def existing_meta(
    meta_path: Path, config: AssetConfig, *, backend: str = "auto", require_exact: bool = False
) -> dict[str, Any] | None:
    """Metadata of an asset made as asked for; None where there is none.

    Args:
        meta_path: its ``meta.json``.
        config: the settings asked for.
        backend: the backend asked for; ``auto`` accepts any.
        require_exact: whether estimates are refused.

    Raises:
        StaleAssetError: if it was made otherwise.
        AssetError: if something stands there that cannot be read as an asset.
    """
    if not meta_path.exists():
        return None
    meta = read_meta(meta_path)
    check_settings(meta, config, meta_path)
    if backend != "auto" and meta["backend"] != backend:
        raise StaleAssetError(
            f"{meta_path}: made with backend {meta['backend']!r} where {backend!r} is asked for; "
            "ask for that backend, or pass --overwrite to make it again"
        )
    inexact = {name: meta["exactness"].get(name) for name in ("motion", "residual_y")}
    inexact = {name: kind for name, kind in inexact.items() if kind != "exact"}
    if require_exact and inexact:
        raise StaleAssetError(
            f"{meta_path}: made with {inexact} where --require_exact is asked for; "
            "drop that flag, or pass --overwrite to make it again"
        )
    return meta


def standing_meta(
    meta_path: Path, config: AssetConfig, *, backend: str = "auto", require_exact: bool = False
) -> dict[str, Any] | None:
    """``existing_meta`` for commands: what is in the way is refused with the flag that replaces it.

    Raises:
        AssetError: as ``existing_meta``.
    """
    try:
        return existing_meta(meta_path, config, backend=backend, require_exact=require_exact)
    except StaleAssetError:
        raise
    except AssetError as error:
        raise AssetError(f"{error}, or pass --overwrite to replace it") from error


def source_facts(path: Path) -> dict[str, Any]:
    """Size, modification time and SHA-256 of a file.

    Raises:
        OSError: if it cannot be read.
    """
    status = path.stat()
    return {
        "size_bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "sha256": _file_hash(path),
    }


def video_facts(video: Video, path: Path) -> dict[str, Any]:
    """Return what ``meta.json`` records of a video: the file, its frames, and what reads it."""
    index = video.index
    return {
        "source": source_facts(path),
        "backend": video.backend,
        "exactness": dict(video.exactness),
        "codec_name": index.codec_name,
        "num_frames": index.num_frames,
        "frame_rate": index.frame_rate,
        "duration_seconds": index.duration_seconds,
        "rotation_degrees": index.rotation_degrees,
        "shown": index.shown,
    }


def same_source(recorded: dict[str, Any], path: Path) -> bool:
    """Whether a file is the recorded one: equal size, and equal time or, failing that, content."""
    status = path.stat()
    if status.st_size != recorded["size_bytes"]:
        return False
    return status.st_mtime_ns == recorded["mtime_ns"] or _file_hash(path) == recorded["sha256"]


def same_content(recorded: dict[str, Any], path: Path) -> bool:
    """Whether a file has the recorded content, whatever its time."""
    return path.stat().st_size == recorded["size_bytes"] and _file_hash(path) == recorded["sha256"]


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def selection_hash(rows: NDArray[np.int32], frame_ids: NDArray[np.int32]) -> str:
    """16 hexadecimal digits over what was selected: ties stage 2's output to stage 1's."""
    digest = hashlib.sha256(np.ascontiguousarray(rows, "<i4").tobytes())
    digest.update(np.ascontiguousarray(frame_ids, "<i4").tobytes())
    return digest.hexdigest()[:16]
